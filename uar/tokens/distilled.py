"""Vector-quantised distillation: codes of a pretrained network's feature map as visual tokens.

After BEiT v2 (Peng et al. 2022, https://arxiv.org/abs/2208.06366), which learns its tokens to carry
a teacher's features rather than pixels. Here the codes are the k-means centres of the teacher's
features of training films, in their leading principal components, and the decoder of the dVAE
(`dall_e.Decoder`) learns to turn codes into pixels, at half the film's side.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from uar.core.config import DistillParams, DvaeTrainParams
from uar.core.device import autocast
from uar.core.errors import UserError
from uar.core.files import atomic_write
from uar.core.progress import progress
from uar.core.schedule import warmup_cosine
from uar.core.weights import fill, read_safetensors, refuse_absurd
from uar.networks.network import FeatureNetwork, build_network
from uar.tokens.dvae import dall_e, gray, logit_laplace
from uar.tokens.tokenizer import Tokenizer, kmeans, nearest_codes, read_metadata

_FILMS = 2048  # behind the codes, and behind the decoder
_CELLS_PER_FILM = 32  # of those drawn for the codes
_KMEANS_ROUNDS = 12
_WARMUP = 0.1  # share of the decoder's steps with rising learning rate
_UPSAMPLING = 8  # the decoder's


class DistilledTokenizer(Tokenizer):
    """The network's cell at each place, as the nearest of its codes.

    Args:
        network: gray pixels to a map, at its `stride`.
        codebook_size: visual words, |V_I|.
        components: D, principal components that codes are compared in.
        hidden: channels of the decoder's first group; at least 64.
        initial: channels of its first layer.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        codebook_size: int,
        components: int,
        hidden: int,
        initial: int = 128,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.stride = network.stride
        self.register_buffer("mean", torch.zeros(network.channels))
        self.register_buffer("projection", torch.zeros(network.channels, components))
        self.register_buffer("codes", torch.zeros(codebook_size, components))
        self.decoder = dall_e.Decoder(
            n_hid=hidden, vocab_size=codebook_size, n_init=initial, device=self.codes.device
        )
        self.mean: Tensor
        self.projection: Tensor
        self.codes: Tensor

    @property
    def codebook_size(self) -> int:
        """Number of visual words, |V_I|."""
        return len(self.codes)

    def train(self, mode: bool = True) -> DistilledTokenizer:
        """The network keeps its batch statistics."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """The map's cells in their principal components, `(N, H/M, W/M, D)` float32."""
        cells = self.network(pixels).float().movedim(1, -1)  # (N, H/M, W/M, C)
        return (cells - self.mean) @ self.projection

    def encode(self, pixels: Tensor) -> Tensor:
        """Tokens `(N, H/M, W/M)` int64 of `(N, H, W)` gray pixels in [0, 1]."""
        features = self.features(pixels)
        return nearest_codes(features.flatten(0, 2), self.codes).view(features.shape[:3])

    def statistics(self, tokens: Tensor) -> Tensor:
        """The decoder's `(N, 6, 8h, 8w)` of tokens `(N, h, w)`."""
        one_hot = F.one_hot(tokens.long(), self.codebook_size).float().movedim(-1, 1)
        return self.decoder(one_hot).float()

    def reconstruct(self, tokens: Tensor) -> Tensor:
        """Gray pixels `(N, H, W)` in [0, 1] of a square grid of tokens `(N, L)`."""
        side = int(tokens.shape[1] ** 0.5)
        half = gray(self.statistics(tokens.unflatten(1, (side, side))))
        whole = (side * self.stride, side * self.stride)
        return F.interpolate(half.unsqueeze(1), whole, mode="bilinear").squeeze(1).clamp(0, 1)

    def encoder_state(self) -> dict[str, Tensor]:
        """All that decides which tokens a film gets."""
        return {n: w for n, w in self.state_dict().items() if not n.startswith("decoder.")}

    def save(self, encoder: Path, decoder: Path) -> None:
        """Write both halves as safetensors."""
        metadata = {"kind": "distilled", "network": self.network.name}
        for state, path in (
            (self.encoder_state(), encoder),
            (self.decoder.state_dict(), decoder),
        ):
            weights = {name: w.contiguous() for name, w in state.items()}
            with atomic_write(path) as temporary:
                save_file(weights, temporary, metadata)


def load_distilled(encoder: Path, decoder: Path) -> DistilledTokenizer:
    """A distilled tokenizer from what `DistilledTokenizer.save` wrote; sizes are read off weights.

    Raises:
        UserError: a file is absent or is no such file, or the two halves do not fit each other.
    """
    for path in (encoder, decoder):
        if not path.is_file():
            raise UserError(f"{path} is missing. dvae.encoder and dvae.decoder name the files.")
    try:
        halves = read_safetensors(encoder)[0], read_safetensors(decoder)[0]
        codebook_size, components = halves[0]["codes"].shape
        hidden = halves[1]["blocks.group_4.block_1.id_path.w"].shape[0]
        initial = halves[1]["blocks.input.w"].shape[0]
        with torch.device("meta"):  # files say sizes; weights prove them
            network = build_network(read_metadata(encoder)["network"])
            model = DistilledTokenizer(network, codebook_size, components, hidden, initial)
        decoder_state = {f"decoder.{name}": w for name, w in halves[1].items()}
        fill(model, {**halves[0], **decoder_state})
    except Exception as error:
        raise UserError(
            f"{encoder} and {decoder} are not the two halves of one distilled tokenizer: {error}"
        ) from None
    refuse_absurd(encoder, halves[0])
    refuse_absurd(decoder, halves[1])
    return model.eval()


@torch.no_grad()
def fit_codes(model: DistilledTokenizer, views: Tensor, params: DistillParams, seed: int) -> None:
    """Principal components and codes of the network's features of training films.

    Each component is divided by its standard deviation to the power `params.whitening`: 0 leaves
    the features' distances as they are, 1 gives all components the same weight.

    Args:
        views: `(N, crop, crop)` gray in [0, 1], whole views of films of the training split.

    Raises:
        UserError: the films have fewer cells than there are codes.
    """
    generator = torch.Generator().manual_seed(seed)
    device = model.codes.device
    views = _some(views, generator)
    drawn = []
    for view in progress(views.split(2), "features", len(views) // 2):
        cells = model.network(view.to(device)).float().flatten(2).movedim(1, -1)  # (n, L, C)
        for film in cells:
            some = torch.randperm(len(film), generator=generator)[:_CELLS_PER_FILM]
            drawn.append(film[some.to(device)])
    points = torch.cat(drawn)
    if len(points) < model.codebook_size:
        raise UserError(
            f"dvae.codebook_size {model.codebook_size} is more than the {len(points)} cells of "
            f"{len(views)} films that its codes are fitted to. Lower it."
        )
    model.mean.copy_(points.mean(0))
    variances, axes = torch.linalg.eigh(torch.cov(points.T))
    leading = variances.argsort(descending=True)[: model.projection.shape[1]]
    variances, axes = variances[leading], axes[:, leading]
    scale = (variances + 1e-4 * variances[0]) ** (params.whitening / 2)
    model.projection.copy_(axes / scale)
    centres = kmeans(
        (points - model.mean) @ model.projection, model.codebook_size, generator, _KMEANS_ROUNDS
    )
    model.codes.copy_(centres)


def train_decoder(
    model: DistilledTokenizer,
    views: Tensor,
    params: DvaeTrainParams,
    device: torch.device,
    precision: str,
    seed: int,
) -> Iterator[dict[str, float]]:
    """Fit the decoder to the films' pixels given their tokens, by the dVAE's likelihood.

    Args:
        views: `(N, crop, crop)` gray in [0, 1], whole views of films of the training split.
        params: steps, batch, learning rate; `crop` is the side, in pixels at half the film's
            side, of the windows that are decoded.

    Yields:
        A step's `reconstruction` (nats a pixel value).
    """
    generator = torch.Generator().manual_seed(seed)
    views = _some(views, generator)
    model.to(device).train()
    side = views.shape[-1] // model.stride
    pixels = F.interpolate(
        views.unsqueeze(1), (side * _UPSAMPLING,) * 2, mode="bilinear", antialias=True
    ).squeeze(1)
    with torch.inference_mode():
        parts = progress(views.split(2), "tokens", len(views) // 2)
        tokens = torch.cat([model.encode(part.to(device)).cpu() for part in parts])  # (N, h, w)
    window = min(side, max(1, params.crop // _UPSAMPLING))
    optimizer = torch.optim.AdamW(
        model.decoder.parameters(), params.learning_rate, betas=(0.9, 0.99), fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(params.steps, _WARMUP))
    for _ in progress(range(params.steps), "decoder", params.steps):
        rows = torch.randint(len(views), (params.batch_size,), generator=generator)
        top, left = torch.randint(side - window + 1, (2,), generator=generator).tolist()
        of_tokens = (rows, slice(top, top + window), slice(left, left + window))
        begin, end = (torch.tensor([top, left]) + e for e in (0, window))
        (y0, x0), (y1, x1) = (begin * _UPSAMPLING).tolist(), (end * _UPSAMPLING).tolist()
        with autocast(device, precision):
            statistics = model.statistics(tokens[of_tokens].to(device))
        target = pixels[rows, y0:y1, x0:x1].to(device)
        loss = -logit_laplace(target, statistics).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield {"reconstruction": loss.item()}
    model.eval()


def _some(views: Tensor, generator: torch.Generator) -> Tensor:
    """At most `_FILMS` of them."""
    if len(views) <= _FILMS:
        return views
    return views[torch.randperm(len(views), generator=generator)[:_FILMS]]
