"""The dVAE behind the visual tokens (section 3.2): OpenAI's architecture, loaded or trained here.

Pixels are scaled as in the dall_e package (https://github.com/openai/DALL-E): RGB in [0, 1] through
`map_pixels`; a film's gray value is repeated over the three channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uar.core.config import DvaeTrainParams
from uar.core.device import autocast
from uar.core.errors import UserError, plainly
from uar.core.progress import progress
from uar.core.schedule import warmup_cosine
from uar.core.weights import fill_module, refuse_absurd
from uar.data.views import PackedFilms
from uar.networks.pretrained import FeatureNetwork
from uar.tokens.decoder import OWN_DECODER, TokenDecoder, gray, logit_laplace
from uar.tokens.openai import dall_e, read_dall_e
from uar.tokens.tokenizer import Tokenizer, kmeans

_KMEANS_IMAGES = 192  # images that the initial codes are fitted to
_LOGIT_SCALE = 2.0  # how peaked the initial code distribution is
_DECODER_ALONE = 0.3  # share of the steps before the encoder trains, for its gradients to be useful
_WARMUP = 0.1  # share of the steps with rising learning rate


class Dvae(Tokenizer):
    """A dVAE's encoder, from pixels to a distribution over the codebook.

    Args:
        codebook_size: visual words, |V_I|; at least 512.
        hidden: channels of the first group of blocks; at least 64.
        device: where its weights are; on `meta` they are only shapes.
    """

    stride = 8  # three poolings

    def __init__(self, codebook_size: int, hidden: int, device: str = "cpu") -> None:
        super().__init__()
        self.encoder = dall_e.Encoder(
            n_hid=hidden, vocab_size=codebook_size, device=torch.device(device)
        )

    @property
    def codebook_size(self) -> int:
        """Number of visual words."""
        return self.encoder.vocab_size

    def logits(self, pixels: Tensor) -> Tensor:
        """Scores over the codebook, `(N, codebook_size, H/8, W/8)`, of `(N, H, W)` gray pixels."""
        rgb = pixels.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
        return self.encoder(dall_e.map_pixels(rgb)).float()

    def encode(self, pixels: Tensor) -> Tensor:
        """Argmax tokens `(N, H/8, W/8)` of `(N, H, W)` gray pixels in [0, 1]."""
        return self.logits(pixels).argmax(dim=1)

    def encoder_state(self) -> dict[str, Tensor]:
        """The encoder's weights."""
        return self.encoder.state_dict()


def load_dvae(path: Path) -> Dvae:
    """Load a dVAE's encoder from what `save` or `save_both` wrote, or from OpenAI's pickle.

    Sizes are taken from the weights.

    Raises:
        UserError: the file is absent or holds something else.
    """
    weights = {n: w for n, w in read_dall_e(path).items() if not n.startswith(OWN_DECODER)}
    try:
        codebook_size, _, _, _ = weights["blocks.output.conv.w"].shape
        hidden = weights["blocks.input.w"].shape[0]
        model = Dvae(codebook_size, hidden, "meta")  # the file claims sizes; its weights prove them
        fill_module(model.encoder, weights)
    except (KeyError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is not the encoder of a dall_e dVAE: {plainly(error)}") from None
    refuse_absurd(path, weights)
    return model.eval()


def train_dvae(
    model: Dvae,
    decoder: TokenDecoder,
    images: Tensor | PackedFilms,
    *,
    params: DvaeTrainParams,
    device: torch.device,
    precision: str,
    seed: int,
    network: FeatureNetwork | None,
) -> Iterator[dict[str, Tensor]]:
    """Fit both halves to random crops by the relaxed ELB of Ramesh et al. 2021, section 2.1.

    Codes are Gumbel-softmax samples whose temperature falls from 1 to `params.temperature`;
    reconstruction is the logit-Laplace likelihood of their appendix A.3. Their training took
    millions of steps; so that hundreds suffice, codes start from k-means (`start_codes_by_kmeans`),
    the decoder first learns to read them, and the encoder follows at `params.encoder_rate` times
    the decoder's learning rate.

    Args:
        images: `(N, size, size)` uint8, the training split only.
        network: its features are compared (`perceptual_distance`) if `params.perceptual_weight` is
            above 0, and read off the codes (`FeatureHead`) if `params.feature_weight` is.

    Yields:
        Each step's `loss`, `reconstruction` (nats per pixel value) and, if their weights are above
        0, `perceptual` and `features`; on the device.

    Raises:
        ValueError: one of these weights is above 0 without a network, or neither is with one.
    """
    if (params.perceptual_weight > 0 or params.feature_weight > 0) != (network is not None):
        raise ValueError("a network and a weight of its features above 0 must be given together")
    generator = torch.Generator().manual_seed(seed)
    halves: list[nn.Module] = [model, decoder]
    head = None
    if network is not None and params.feature_weight:
        halves.append(head := FeatureHead(model.codebook_size, model.stride, network))
    for half in halves:
        half.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    rows = torch.randint(len(images), (_KMEANS_IMAGES,), generator=generator)
    start_codes_by_kmeans(model, (images[rows].float() / 255).to(device), generator)
    encoder_rate = params.learning_rate * params.encoder_rate
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for half in halves[1:] for w in half.parameters()]},
            {"params": model.encoder.parameters(), "lr": encoder_rate},
        ],
        params.learning_rate,
        betas=(0.9, 0.99),
        fused=True,
    )
    decoder_alone = round(_DECODER_ALONE * params.steps)
    cosine = warmup_cosine(params.steps, _WARMUP)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, [cosine, lambda step: cosine(step) if step >= decoder_alone else 0.0]
    )
    weights = [weight for half in halves for weight in half.parameters()]
    for step in progress(range(params.steps), "dvae", params.steps, unit="step"):
        rows = torch.randint(len(images), (params.batch_size,), generator=generator)
        pixels = _crop(images[rows], params.crop, generator).to(device)
        share = step / max(params.steps - 1, 1)
        temperature = params.temperature**share  # 1 -> params.temperature
        with autocast(device, precision):
            logits = model.logits(pixels)
            codes = F.gumbel_softmax(logits, tau=temperature, dim=1)
            statistics = decoder(codes)
        reconstruction = -logit_laplace(pixels, statistics).mean()
        values, loss = {"reconstruction": reconstruction}, reconstruction
        if network is not None and params.perceptual_weight:
            values["perceptual"] = perceptual_distance(network, pixels, gray(statistics))
            loss = loss + params.perceptual_weight * values["perceptual"]
        if network is not None and head is not None:
            values["features"] = head.distance(codes.float(), network(pixels))
            loss = loss + params.feature_weight * values["features"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        yield {name: value.detach() for name, value in {"loss": loss, **values}.items()}
    for half in halves:
        half.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


@torch.no_grad()
def start_codes_by_kmeans(model: Dvae, pixels: Tensor, generator: torch.Generator) -> None:
    """Initialise the encoder's last layer so that every code is in use from the first step.

    With a random last layer, a short training may collapse onto a few codes. Here code c scores
    `-|f - m_c|^2`, up to a scale and a term that all codes share, where f are the standardised
    features below the layer and the m_c are their k-means centres.

    Args:
        pixels: `(N, H, W)` gray, in [0, 1].

    Raises:
        UserError: the images have fewer cells than there are codes.
    """
    trunk, last = model.encoder.blocks[:-1], model.encoder.blocks.output
    rgb = dall_e.map_pixels(pixels.unsqueeze(1).expand(-1, 3, -1, -1).contiguous())
    features = torch.cat([trunk(batch) for batch in rgb.split(32)]).float().relu()
    features = features.movedim(1, -1).flatten(0, 2)  # (cells, 8 * hidden)
    if len(features) < model.codebook_size:
        raise UserError(
            f"dvae.codebook_size {model.codebook_size} is more than the {len(features)} cells of "
            f"{len(pixels)} images that its codes start from. Lower it or raise image.size."
        )
    mean, std = features.mean(0), features.std(0) + 1e-6
    centres = kmeans((features - mean) / std, model.codebook_size, generator=generator)
    scale = _LOGIT_SCALE / centres.shape[1] ** 0.5
    weight = scale * centres / std
    last.conv.w.copy_(weight[:, :, None, None])
    last.conv.b.copy_(-scale * centres.square().sum(1) / 2 - weight @ mean)


class FeatureHead(nn.Module):
    """A head for training that makes the codes carry a network's features as well as the pixels.

    It follows the vector-quantised knowledge distillation of BEiT v2 (Peng et al. 2022,
    https://arxiv.org/abs/2208.06366, Eq. 3): what a small decoder reads off the codes should point
    in the direction of the network's features. Channels are standardised first, since a few large
    ones would otherwise decide the cosine.

    Args:
        codebook_size: visual words, |V_I|.
        stride: M of the codes.
        network: the teacher; a cell of its map covers `network.stride / stride` squared codes.
    """

    _WIDTH = 256

    def __init__(self, codebook_size: int, stride: int, network: FeatureNetwork) -> None:
        super().__init__()
        codes = network.stride // stride  # along a cell's side
        self.standardise = nn.BatchNorm2d(network.channels, affine=False)
        self.layers = nn.Sequential(
            nn.Conv2d(codebook_size, self._WIDTH, 1),
            nn.GELU(),
            nn.Conv2d(self._WIDTH, self._WIDTH, codes, codes),
            nn.GELU(),
            nn.Conv2d(self._WIDTH, self._WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(self._WIDTH, network.channels, 1),
        )

    def distance(self, codes: Tensor, features: Tensor) -> Tensor:
        """Return 1 - cosine, averaged over cells.

        Args:
            codes: shares of the codebook, `(N, |V_I|, h, w)`.
            features: the network's map of the same crops, `(N, C, h', w')`.
        """
        wanted = self.standardise(features.detach().float())
        return 1 - F.cosine_similarity(self.layers(codes), wanted, dim=1).mean()


def perceptual_distance(network: FeatureNetwork, pixels: Tensor, other: Tensor) -> Tensor:
    """Return 1 - cosine of a network's features of two batches `(N, H, W)`, averaged over cells.

    This is half the distance of Zhang et al. 2018 (https://arxiv.org/abs/1801.03924, Eq. 1, unit
    weights, one layer), which compares features of unit length.
    """
    with torch.no_grad():
        wanted = network(pixels)  # (N, C, h, w)
    return 1 - F.cosine_similarity(network(other), wanted, dim=1).mean()


def _crop(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    top, left = torch.randint(images.shape[-1] - side + 1, (2,), generator=generator).tolist()
    return images[:, top : top + side, left : left + side].float() / 255
