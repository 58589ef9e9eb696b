"""Visual features of models without visual tokens: a network's feature map, projected to d."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from uar.core.config import ExtractorParams
from uar.core.device import split_for_convolution, without_autocast
from uar.networks.network import build_network
from uar.networks.pretrained import load_network
from uar.networks.resnet import ResNet


class VisualExtractor(nn.Module):
    """Visual embeddings of a model without LSU (section 4.1, Settings).

    Args:
        params: which network, and whether it is trained.
        d_model: d.
    """

    def __init__(self, params: ExtractorParams, d_model: int) -> None:
        super().__init__()
        self.frozen = not params.fine_tune
        sizes = {"depths": params.depths} if params.network == "resnet" else {}
        self.network = build_network(params.network, **sizes)
        self.norm = nn.LayerNorm(self.network.channels)  # networks' output scales differ tenfold
        self.project = nn.Linear(self.network.channels, d_model)
        self.network.requires_grad_(params.fine_tune)
        if self.frozen:
            self.network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def load_pretrained(self, weights: str) -> None:
        """Take the network's weights from `imagenet` or a path.

        Raises:
            UserError: the weights cannot be loaded.
        """
        if isinstance(self.network, ResNet):
            self.network.load_pretrained(weights)
            return
        path = None if weights == "imagenet" else Path(weights)
        pretrained = load_network(self.network.name, path, "model.extractor")
        self.network.load_state_dict(pretrained.state_dict())

    def train(self, mode: bool = True) -> VisualExtractor:
        """Set the mode, except that a frozen network keeps its batch statistics."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, visual: Tensor) -> Tensor:
        """Embeddings `(B, V * cells, d)`, row by row.

        Args:
            visual: gray pixels `(B, V, H, W)` in [0, 1], or `maps` of them `(B, V, C, h, w)`.
        """
        views = visual.flatten(0, 1)
        maps = self.maps(views) if visual.ndim == 4 else views.float()  # (BV, C, h, w)
        cells = self.norm(maps.flatten(2).transpose(1, 2))  # (BV, cells, C)
        return self.project(cells).unflatten(0, visual.shape[:2]).flatten(1, 2)

    def maps(self, pixels: Tensor) -> Tensor:
        """The network's map `(N, C, h, w)` of pixels `(N, H, W)`; always float32 if frozen."""
        if not self.frozen:
            return self.network(pixels)
        with torch.no_grad(), without_autocast(pixels.device):
            return torch.cat([self.network(part) for part in split_for_convolution(pixels)])
