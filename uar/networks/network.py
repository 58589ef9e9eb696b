"""What the visual networks have in common, and how to build one by name."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from uar.core.geometry import NETWORKS


class FeatureNetwork(nn.Module, ABC):
    """A network up to the feature map that tokens are made of, or that the model itself reads.

    Attributes:
        name: its key in `uar.core.geometry.NETWORKS`, which gives its stride M and its channels C.
    """

    name: ClassVar[str]

    @property
    def stride(self) -> int:
        """M, pixels along a cell's side."""
        return NETWORKS[self.name].stride

    @property
    def channels(self) -> int:
        """C, channels of the map."""
        return NETWORKS[self.name].channels

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the map `(N, C, H/M, W/M)` of `(N, H, W)` gray pixels in [0, 1]."""


def build_network(name: str, **sizes: Any) -> FeatureNetwork:
    """Build an untrained network.

    Args:
        name: a key of `uar.core.geometry.NETWORKS`.
        sizes: arguments of its class: for `resnet` the blocks of each group, `depths`.
    """
    module, _, implementation = NETWORKS[name].implementation.partition(":")
    made = getattr(importlib.import_module(module), implementation)(**sizes)
    assert isinstance(made, FeatureNetwork)
    return made
