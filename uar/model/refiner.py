"""Text-to-Image Refiner (section 3.4): a learnable mask on text-to-image attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StaticMask(nn.Module):
    """M of Eq. 11 as printed: one value for each text position and visual token.

    M starts at 0: sigma(M) = 1/2 everywhere shifts all activations alike, which softmax ignores, so
    training with the mask starts exactly where training without it ended.

    Args:
        max_length: T, text positions.
        visual_length: L, visual tokens.
    """

    def __init__(self, max_length: int, visual_length: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(max_length, visual_length))

    def keys(self, visual: Tensor) -> None:
        """Return None: M does not depend on the image."""

    def forward(self, text: Tensor, keys: None, position: int) -> Tensor:
        """sigma(M) of the T text positions from `position` on, `(1, T, L)`.

        Args:
            text: decoder states `(B, T, d)`.
            keys: not used.
        """
        return torch.sigmoid(self.mask[position : position + text.shape[1]]).unsqueeze(0)


class PredictedMask(nn.Module):
    """M predicted from the text state and the visual features: a bilinear form, initially zero.

    Args:
        d_model: d.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.text = nn.Linear(d_model, d_model)
        self.visual = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.text.weight)
        nn.init.zeros_(self.text.bias)

    def keys(self, visual: Tensor) -> Tensor:
        """The image's side of the bilinear form, `(B, L, d)`, separate so that it can be cached."""
        return self.visual(visual)

    def forward(self, text: Tensor, keys: Tensor, position: int) -> Tensor:
        """sigma(M), `(B, T, L)`; `position` is not used."""
        return torch.sigmoid(self.text(text) @ keys.transpose(1, 2) / text.shape[-1] ** 0.5)
