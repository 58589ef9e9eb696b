"""The dVAE behind the visual tokens (section 3.2): OpenAI's architecture, loaded or trained here.

Pixels as in the dall_e package (https://github.com/openai/DALL-E): RGB in [0, 1] through
`map_pixels`; a film's gray value is repeated over the three channels.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from uar.core.config import DvaeTrainParams
from uar.core.device import autocast
from uar.core.errors import UserError
from uar.core.files import atomic_write
from uar.core.progress import progress
from uar.core.schedule import warmup_cosine
from uar.core.weights import fill, read_safetensors, refuse_absurd, unpickle
from uar.networks.pretrained import FeatureNetwork
from uar.tokens.tokenizer import Tokenizer, kmeans

try:
    import dall_e
    import dall_e.decoder
    import dall_e.encoder
    import dall_e.utils
except ImportError as error:
    raise UserError(
        f"the dVAE needs the package dall-e ({error}): pip install --no-deps dall-e. "
        "Without --no-deps it brings a torchvision that breaks a CPU build of torch."
    ) from None

_KMEANS_IMAGES = 192  # images behind the initial codes
_LOGIT_SCALE = 2.0  # how peaked the initial code distribution is
_DECODER_ALONE = 0.3  # share of the steps before the encoder moves: it then gets useful gradients
_WARMUP = 0.1  # share of the steps with rising learning rate

# What OpenAI's encoder.pkl and decoder.pkl are made of; nothing else is unpickled.
_PICKLED = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (
        dall_e.Encoder,
        dall_e.Decoder,
        dall_e.encoder.EncoderBlock,
        dall_e.decoder.DecoderBlock,
        dall_e.utils.Conv2d,
        nn.Sequential,
        nn.ReLU,
        nn.MaxPool2d,
        nn.Upsample,
        nn.Identity,
        OrderedDict,
    )
}


class Dvae(Tokenizer):
    """Encoder to a distribution over the codebook, decoder back to pixels.

    Args:
        codebook_size: visual words, |V_I|; at least 512.
        hidden: channels of the first group of blocks; at least 64.
        initial: channels of the decoder's first layer.
        device: where its weights are; `meta` has shapes alone.
    """

    stride = 8  # three poolings

    def __init__(
        self, codebook_size: int, hidden: int, initial: int = 128, device: str = "cpu"
    ) -> None:
        super().__init__()
        sizes = {"n_hid": hidden, "vocab_size": codebook_size, "device": torch.device(device)}
        self.encoder = dall_e.Encoder(**sizes)
        self.decoder = dall_e.Decoder(**sizes, n_init=initial)

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

    def reconstruct(self, tokens: Tensor) -> Tensor:
        """Gray pixels `(N, H, W)` in [0, 1] of a square grid of tokens `(N, L)`."""
        side = int(tokens.shape[1] ** 0.5)
        codes = F.one_hot(tokens.long(), self.codebook_size).float().movedim(-1, 1)
        return gray(self.decoder(codes.unflatten(2, (side, side))).float())

    def encoder_state(self) -> dict[str, Tensor]:
        """The encoder's weights."""
        return self.encoder.state_dict()

    def save(self, encoder: Path, decoder: Path) -> None:
        """Write both halves as safetensors."""
        for half, path in ((self.encoder, encoder), (self.decoder, decoder)):
            weights = {name: w.contiguous() for name, w in half.state_dict().items()}
            with atomic_write(path) as temporary:
                save_file(weights, temporary)


def load_dvae(encoder: Path, decoder: Path) -> Dvae:
    """A dVAE from safetensors written by `Dvae.save`, or from OpenAI's pickles.

    Sizes are read off the weights.

    Raises:
        UserError: a file is absent, is no such file, or the two halves do not fit each other.
    """
    halves = {"encoder": _read_weights(encoder), "decoder": _read_weights(decoder)}
    try:
        codebook_size, _, _, _ = halves["encoder"]["blocks.output.conv.w"].shape
        hidden = halves["encoder"]["blocks.input.w"].shape[0]
        n_init = halves["decoder"]["blocks.input.w"].shape[0]
        model = Dvae(codebook_size, hidden, n_init, "meta")  # files say sizes; weights prove them
        fill(model.encoder, halves["encoder"])
        fill(model.decoder, halves["decoder"])
    except (KeyError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise UserError(
            f"{encoder} and {decoder} are not the two halves of one dall_e dVAE: {error}"
        ) from None
    refuse_absurd(encoder, halves["encoder"])
    refuse_absurd(decoder, halves["decoder"])
    return model


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} is missing. dvae.encoder and dvae.decoder name the weight files.")
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)[0]
        return unpickle(path, _PICKLED).state_dict()
    except Exception as error:
        told = isinstance(error, pickle.UnpicklingError)
        reason = f"{error}" if told else f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path}: found no dall_e weights ({reason}). "
            "Expected a .safetensors file of this project or OpenAI's encoder.pkl / decoder.pkl."
        ) from None


def train_dvae(
    model: Dvae,
    images: Tensor,
    params: DvaeTrainParams,
    device: torch.device,
    precision: str,
    seed: int,
    network: FeatureNetwork | None,
) -> Iterator[dict[str, float]]:
    """Fit `model` to random crops by the relaxed ELB of Ramesh et al. 2021, section 2.1.

    Codes are Gumbel-softmax samples whose temperature falls from 1 to `params.temperature`;
    reconstruction is the logit-Laplace likelihood of their appendix A.3. Theirs took millions of
    steps; so that hundreds do, codes start by k-means (`start_codes_by_kmeans`), the decoder learns
    to read them first, and the encoder follows at `params.encoder_rate` of its learning rate.

    Args:
        images: `(N, size, size)` uint8, the training split only.
        network: whose features are compared (`perceptual_distance`) where
            `params.perceptual_weight` is above 0.

    Yields:
        A step's `loss`, `reconstruction` (nats a pixel value), `kl` (nats a code) and, with that
        weight, `perceptual`.

    Raises:
        ValueError: there is such a weight and no network, or a network and no such weight.
    """
    if (params.perceptual_weight > 0) != (network is not None):
        raise ValueError("a perceptual weight above 0 and a network belong together")
    generator = torch.Generator().manual_seed(seed)
    model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    rows = torch.randint(len(images), (_KMEANS_IMAGES,), generator=generator)
    start_codes_by_kmeans(model, (images[rows].float() / 255).to(device), generator)
    encoder_rate = params.learning_rate * params.encoder_rate
    optimizer = torch.optim.AdamW(
        [
            {"params": model.decoder.parameters()},
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
    for step in progress(range(params.steps), "dvae", params.steps, "step"):
        rows = torch.randint(len(images), (params.batch_size,), generator=generator)
        pixels = _crop(images[rows], params.crop, generator).to(device)
        share = step / max(params.steps - 1, 1)
        temperature = params.temperature**share  # 1 -> params.temperature
        with autocast(device, precision):
            logits = model.logits(pixels)
            codes = F.gumbel_softmax(logits, tau=temperature, dim=1)
            statistics = model.decoder(codes).float()
        reconstruction = -logit_laplace(pixels, statistics).mean()
        values, loss = {"reconstruction": reconstruction}, reconstruction
        if network is not None:
            values["perceptual"] = perceptual_distance(network, pixels, gray(statistics))
            loss = loss + params.perceptual_weight * values["perceptual"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield {"loss": loss.item(), **{name: value.item() for name, value in values.items()}}
    model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


@torch.no_grad()
def start_codes_by_kmeans(model: Dvae, pixels: Tensor, generator: torch.Generator) -> None:
    """Initialise the encoder's last layer so that every code is in use from the first step.

    A random last layer lets a short training collapse onto a few codes. Here code c scores
    `-|f - m_c|^2`, up to a scale and a term that no code sees, where f are the standardised
    features below the layer and the m_c their k-means centres.

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
    centres = kmeans((features - mean) / std, model.codebook_size, generator)
    scale = _LOGIT_SCALE / centres.shape[1] ** 0.5
    weight = scale * centres / std
    last.conv.w.copy_(weight[:, :, None, None])
    last.conv.b.copy_(-scale * centres.square().sum(1) / 2 - weight @ mean)


def gray(statistics: Tensor) -> Tensor:
    """Pixels `(N, H, W)` in [0, 1] of the decoder's statistics `(N, 6, H, W)`."""
    mean, _ = statistics.chunk(2, dim=1)
    return dall_e.unmap_pixels(torch.sigmoid(mean)).mean(dim=1)


def perceptual_distance(network: FeatureNetwork, pixels: Tensor, other: Tensor) -> Tensor:
    """1 - cosine of a network's features of two batches `(N, H, W)`, mean over cells.

    Half the distance of Zhang et al. 2018 (https://arxiv.org/abs/1801.03924, Eq. 1, unit weights,
    one layer), which compares features of unit length.
    """
    with torch.no_grad():
        wanted = network(pixels)  # (N, C, h, w)
    return 1 - F.cosine_similarity(network(other), wanted, dim=1).mean()


def logit_laplace(pixels: Tensor, statistics: Tensor) -> Tensor:
    """Log-density of gray `pixels` `(N, H, W)` (Ramesh et al. 2021, Eq. 2 of appendix A.3).

    Args:
        statistics: `(N, 6, H, W)`, the decoder's means and log-scales of three channels.
    """
    x = dall_e.map_pixels(pixels.unsqueeze(1)).expand(-1, 3, -1, -1)
    mean, log_scale = statistics.chunk(2, dim=1)
    distance = (torch.logit(x) - mean).abs() / log_scale.exp()
    return -distance - log_scale - torch.log(2 * x * (1 - x))


def _crop(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    top, left = torch.randint(images.shape[-1] - side + 1, (2,), generator=generator).tolist()
    return images[:, top : top + side, left : left + side].float() / 255
