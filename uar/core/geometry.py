"""Sizes that parameters imply: pixels along a token's or a cell's side, cells along a view's side.

Nothing here loads torch, so that a params.yaml whose sizes do not fit is refused at once.
"""

from __future__ import annotations

from typing import NamedTuple


class Network(NamedTuple):
    """A visual network, up to the feature map that is used.

    Attributes:
        stride: M, pixels along a cell's side.
        channels: C, channels of the map.
        whole_cells: whether a view's side must be a whole number of cells.
        implementation: `module:class`, a `uar.networks.network.FeatureNetwork`.
    """

    stride: int
    channels: int
    whole_cells: bool
    implementation: str


NETWORKS = {
    "resnet": Network(32, 2048, False, "uar.networks.resnet:ResNet"),
    "efficientnet_lite0": Network(
        16, 112, True, "uar.networks.efficientnet_lite0:EfficientNetLite0"
    ),
    "densenet121": Network(16, 512, True, "uar.networks.densenet121:DenseNet121"),
}
DVAE_STRIDE = 8  # M of a dVAE, with its three poolings (section 3.2)
_LARGE = 32  # cells with at least this many pixels along their side are not pooled


def token_stride(source: str, network: str) -> int:
    """M, pixels along a token's side, unless a tokenizer from a file states another.

    Args:
        source: `dvae.source`.
        network: `dvae.distill.network`.
    """
    return NETWORKS[network].stride if source == "distill" else DVAE_STRIDE


def cells_along(pixels: int, network: str) -> int:
    """Cells along the side of a view, `pixels` long; the last may extend beyond the edge."""
    return -(-pixels // NETWORKS[network].stride)


def pool_side(visual_pool: int, lsu: bool, network: str) -> int:
    """Side, in tokens or cells, of the squares that are averaged before the encoder.

    Args:
        visual_pool: `model.visual_pool`.
        lsu: whether the model reads tokens.
        network: the one it reads otherwise; a network with large cells is not pooled.
    """
    return visual_pool if lsu or NETWORKS[network].stride < _LARGE else 1
