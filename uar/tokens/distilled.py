"""Vector-quantised distillation: codes of a pretrained network's feature map as visual tokens.

Follows BEiT v2 (Peng et al. 2022, https://arxiv.org/abs/2208.06366), whose tokens learn to carry a
teacher's features rather than pixels. Here the codes are the k-means centres of the teacher's
features of training films, in their leading principal components.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from uar.core.config import DistillParams
from uar.core.errors import UserError, plainly
from uar.core.progress import progress
from uar.core.weights import fill_module, read_safetensors, refuse_absurd
from uar.networks.network import FeatureNetwork, build_network
from uar.tokens.tokenizer import DISTILLED, Tokenizer, kmeans, nearest_codes, read_metadata

_CELLS_PER_FILM = 32  # drawn to fit the codes
_KMEANS_ROUNDS = 12


class DistilledTokenizer(Tokenizer):
    """A tokenizer that turns each cell of a network's map into the nearest of its codes.

    Args:
        network: from gray pixels to a map, at its `stride`.
        codebook_size: visual words, |V_I|.
        components: D, principal components in which cells and codes are compared.
    """

    def __init__(self, network: FeatureNetwork, codebook_size: int, components: int) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.stride = network.stride
        self.register_buffer("mean", torch.zeros(network.channels))
        self.register_buffer("projection", torch.zeros(network.channels, components))
        self.register_buffer("codes", torch.zeros(codebook_size, components))
        self.mean: Tensor
        self.projection: Tensor
        self.codes: Tensor

    @property
    def codebook_size(self) -> int:
        """Number of visual words, |V_I|."""
        return len(self.codes)

    def train(self, mode: bool = True) -> DistilledTokenizer:
        """Set the mode of all but the network, which keeps its batch statistics."""
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

    def encoder_state(self) -> dict[str, Tensor]:
        """Everything that decides which tokens a film gets."""
        return self.state_dict()

    @property
    def metadata(self) -> dict[str, str]:
        """What tells `load_tokenizer` the file's kind; one key, as safetensors shuffles several."""
        return {DISTILLED: self.network.name}


def load_distilled(path: Path) -> DistilledTokenizer:
    """Load a distilled tokenizer from a file that `save` wrote, with sizes taken from the weights.

    Raises:
        UserError: the file is absent or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing. dvae.encoder names the file.")
    try:
        weights, _ = read_safetensors(path)
        codebook_size, components = weights["codes"].shape
        with torch.device("meta"):  # the file claims sizes; its weights prove them
            network = build_network(read_metadata(path)[DISTILLED])
            model = DistilledTokenizer(network, codebook_size, components)
        fill_module(model, weights)
    except Exception as error:
        raise UserError(f"{path} is not a distilled tokenizer: {plainly(error)}") from None
    refuse_absurd(path, weights)
    return model.eval()


@torch.no_grad()
def fit_codes(
    model: DistilledTokenizer, views: Tensor, *, params: DistillParams, generator: torch.Generator
) -> None:
    """Fit principal components and codes to the network's features of training films.

    Each component is divided by its standard deviation to the power `params.whitening`: 0 leaves
    the features' distances as they are, 1 gives all components the same weight.

    Args:
        views: `(N, crop, crop)` gray in [0, 1], whole views of films of the training split.
        generator: draws the cells, and the centres that k-means starts from.

    Raises:
        UserError: the films have fewer cells than there are codes.
    """
    device = model.codes.device
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
    power = torch.full_like(variances, params.whitening / 2)  # a tensor: see uar.core.kernels
    scale = torch.pow(variances + 1e-4 * variances[0], power)
    model.projection.copy_(axes / scale)
    centres = kmeans(
        (points - model.mean) @ model.projection,
        model.codebook_size,
        generator=generator,
        rounds=_KMEANS_ROUNDS,
    )
    model.codes.copy_(centres)
