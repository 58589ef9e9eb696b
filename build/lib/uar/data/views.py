"""Views of packed images: the whole image at the model's size, and random crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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


def crops_at(images: Tensor, corners: Tensor, crop: int) -> Tensor:
    """Crops of each image, as in training (section 4.1, Settings).

    Args:
        images: `(N, size, size)`; films, or grids of tokens.
        corners: `(N, K, 2)`, top and left of K crops of each image.
        crop: side of a crop.

    Returns:
        `(N, K, crop, crop)`, of the images' type.
    """
    rows, columns = (corners.unsqueeze(-1) + torch.arange(crop)).unbind(2)  # (N, K, crop)
    image = torch.arange(len(images)).view(-1, 1, 1, 1)
    return images[image, rows.unsqueeze(3), columns.unsqueeze(2)]


def read_packed(path: Path, rows: np.ndarray) -> Tensor:
    """Images `rows` of a packed array, `(n, size, size)` uint8.

    Copied out of a mapping that is then dropped: pages of a mapping that stays count as memory.
    """
    return torch.from_numpy(np.load(path, mmap_mode="r")[rows])
