"""A running mean of weights over training steps (Polyak and Juditsky 1992; Tarvainen and Valpola
2017)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """An exponential moving average of a module's trained weights.

    It covers fewer steps at first: after step t its decay is at most (1 + t) / (10 + t).

    Args:
        module: the one whose weights are averaged; they are read at each update.
        decay: share of the mean that a step keeps; 0: nothing is averaged.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: list[torch.Tensor] = [
            weight for weight in module.parameters() if weight.requires_grad and decay
        ]
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """Restart from the current weights."""
        self.mean = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after the `step`-th step, counted from 1."""
        if self.weights:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.mean, self.weights, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the module's weights with their mean within the block."""
        own = [weight.detach().clone() for weight in self.weights]
        self._put(self.mean)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)
