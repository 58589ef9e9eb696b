"""Views of packed images: the whole image at the model's size, and random crops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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


def view_names(views: Sequence[str], count: int) -> list[str]:
    """What each of a study's `count` films shows, or its number if the data set does not say."""
    known = [*views, *["unknown"] * count][:count]
    return [f"film {i + 1}" if view == "unknown" else view for i, view in enumerate(known)]


def held_views(views: Iterable[Sequence[str]], count: int) -> np.ndarray:
    """Which of `count` views each study has, `(S, V)` bool, from what each of its films shows."""
    return np.arange(count) < np.array([len(of_study) for of_study in views])[:, None]


def crops_at(images: Tensor, corners: Tensor, crop: int) -> Tensor:
    """Crops of each image, as in training (section 4.1, Settings).

    Args:
        images: `(N, size, size)`; films, or grids of tokens.
        corners: `(N, K, 2)`, top and left of K crops of each image.
        crop: side of a crop.

    Returns:
        `(N, K, crop, crop)`, of the images' dtype.
    """
    rows, columns = (corners.unsqueeze(-1) + torch.arange(crop)).unbind(2)  # (N, K, crop)
    image = torch.arange(len(images)).view(-1, 1, 1, 1)
    return images[image, rows.unsqueeze(3), columns.unsqueeze(2)]


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of a training image: the whole of it, and K crops.

    Tokens are made from them offline; models that read pixels draw from the same views.

    Args:
        kind: `crops` are K crops of pixels. For `grid` the whole packed image is encoded once and K
            different windows are cut out of its tokens: all for the cost of one encoding, but
            tokens depend on pixels outside their window, and windows start at multiples of M.
        crops: K, views in addition to the whole image.
        crop: pixels, side of the encoder's input.
        size: pixels, side of a packed image.
        stride: M, pixels along a token's side.
        seed: of the crops, which depend only on the seed and the image's row.
    """

    kind: Literal["crops", "grid"]
    crops: int
    crop: int
    size: int
    stride: int
    seed: int

    @property
    def side(self) -> int:
        """The number of tokens along a view's side."""
        return self.crop // self.stride

    @property
    def encoded(self) -> int:
        """The number of images that the encoder sees for one training image."""
        return 1 + (self.crops if self.kind == "crops" else min(self.crops, 1))

    def corners(self, rows: np.ndarray) -> Tensor:
        """Top and left of each crop of the images at `rows` `(N,)`: `(N, K, 2)` in pixels."""
        draw = self._windows if self.kind == "grid" else self._places
        drawn = [draw(np.random.Generator(np.random.Philox(key=[self.seed, r]))) for r in rows]
        return torch.from_numpy(np.array(drawn, dtype=np.int64).reshape(len(rows), self.crops, 2))

    def _places(self, generator: np.random.Generator) -> np.ndarray:
        return generator.integers(self.size - self.crop + 1, size=(self.crops, 2))

    def _windows(self, generator: np.random.Generator) -> np.ndarray:
        places = self.size // self.stride - self.side + 1
        drawn = generator.choice(places**2, self.crops, replace=False)
        return np.stack(np.divmod(drawn, places), axis=1) * self.stride


def draw_views(
    shape: tuple[int, ...], crops: int, *, draw_whole: bool, generator: torch.Generator
) -> Tensor:
    """Draw which view of each image training reads, `shape` int64: 0 is the whole, 1 to K crops.

    Args:
        crops: K.
        draw_whole: whether to draw the whole image as often as each crop; if not, only if K is 0.
    """
    first = 0 if draw_whole else min(1, crops)
    return torch.randint(first, 1 + crops, shape, generator=generator)


@dataclass(frozen=True)
class PackedFilms:
    """Films of a packed array, read on demand.

    Args:
        path: file of the array, `(N, size, size)` uint8.
        rows: which of its rows, `(n,)`.
    """

    path: Path
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Tensor) -> Tensor:
        """The films `(k, size, size)` uint8 at positions `(k,)` among the n."""
        return read_packed(self.path, self.rows[chosen.numpy()])

    def whole_views(self, crop: int, most: int, generator: torch.Generator) -> Tensor:
        """Whole views of all n films, or of `most` drawn at random if there are more.

        Returns:
            `(k, crop, crop)` float32 in [0, 1].
        """
        chosen = torch.arange(len(self))
        if len(self) > most:
            chosen = torch.randperm(len(self), generator=generator)[:most]
        return torch.cat([resize_view(self[part], crop) for part in chosen.split(_BLOCK)])


_BLOCK = 64  # films at full size in memory at once


def read_packed(path: Path, rows: np.ndarray) -> Tensor:
    """Images `rows` of a packed array, `(n, size, size)` uint8.

    They are copied and the mapping is dropped: the pages of a mapping that stays count as memory.
    """
    return torch.from_numpy(np.load(path, mmap_mode="r")[rows])
