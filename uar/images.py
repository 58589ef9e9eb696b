"""Views of packed images: the whole image at the model's size, and random crops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_view(images: Tensor, crop: int) -> Tensor:
    """The whole image at `crop` pixels, as at inference (section 4.1, Settings).

    Args:
        images: `(N, size, size)` uint8.

    Returns:
        `(N, crop, crop)` float32 in [0, 1].
    """
    pixels = images.float().unsqueeze(1) / 255
    resized = F.interpolate(pixels, (crop, crop), mode="bilinear", antialias=True)
    return resized.squeeze(1)


def random_crops(images: Tensor, crop: int, count: int, generator: torch.Generator) -> Tensor:
    """Random crops of each image, as in training (section 4.1, Settings).

    Args:
        images: `(N, size, size)` uint8.

    Returns:
        `(N, count, crop, crop)` float32 in [0, 1].
    """
    n, size = images.shape[:2]
    tops, lefts = torch.randint(size - crop + 1, (2, n, count), generator=generator).tolist()
    crops = [
        torch.stack(
            [
                images[i, top : top + crop, left : left + crop]
                for top, left in zip(tops[i], lefts[i], strict=True)
            ]
        )
        for i in range(n)
    ]
    return torch.stack(crops).float() / 255
