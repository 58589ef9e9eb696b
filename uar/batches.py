"""Studies as training and evaluation batches, from the token cache or from the packed images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from uar.images import random_crops, resize_view
from uar.text import Vocabulary


@dataclass(frozen=True)
class Batch:
    """B studies."""

    visual: Tensor  # tokens (B, V, L/V) int64 or gray pixels (B, V, H, W) float in [0, 1]
    report: Tensor  # (B, T + 1) int64: BOS, words, EOS, padding
    report_ids: Tensor  # (B,) int64, equal for identical report text

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(
            *(
                tensor.to(device, non_blocking=True)
                for tensor in (self.visual, self.report, self.report_ids)
            )
        )


class VisualSource(Protocol):
    """The visual input of image rows `(B, V)`."""

    def whole(self, rows: np.ndarray) -> Tensor:
        """Whole images, as at inference."""

    def cropped(self, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        """Randomly cropped images, as in training."""


@dataclass(frozen=True)
class TokenSource:
    """Visual tokens from the cache `(N, views, L)` (section 3.2)."""

    tokens: np.ndarray

    def whole(self, rows: np.ndarray) -> Tensor:
        """View 0."""
        return torch.from_numpy(self.tokens[rows, 0].astype(np.int64))

    def cropped(self, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        """One of the crop views, drawn for each image; view 0 if the cache has no crops."""
        views = self.tokens.shape[1]
        if views == 1:
            return self.whole(rows)
        drawn = torch.randint(1, views, rows.shape, generator=generator).numpy()
        return torch.from_numpy(self.tokens[rows, drawn].astype(np.int64))


@dataclass(frozen=True)
class PixelSource:
    """Pixels from the packed array `(N, size, size)`, for the base model's ResNet."""

    images: np.ndarray
    crop: int  # pixels

    def whole(self, rows: np.ndarray) -> Tensor:
        """Whole images, resized."""
        images = torch.from_numpy(self.images[rows.ravel()])
        return resize_view(images, self.crop).unflatten(0, rows.shape)

    def cropped(self, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        """A crop drawn anew for each image."""
        images = torch.from_numpy(self.images[rows.ravel()])
        return random_crops(images, self.crop, 1, generator).squeeze(1).unflatten(0, rows.shape)


class Studies:
    """The studies of one split.

    Args:
        visual: where their images come from.
        rows: image rows `(S, V)` of each study in `visual`.
        reports: S cleaned reports.
        vocabulary: V_R.
        max_length: T.
    """

    def __init__(
        self,
        visual: VisualSource,
        rows: np.ndarray,
        reports: Sequence[str],
        vocabulary: Vocabulary,
        max_length: int,
    ) -> None:
        self.visual = visual
        self.rows = rows
        encoded = np.stack([vocabulary.encode(report, max_length) for report in reports])
        self.reports = torch.from_numpy(encoded)
        self.report_ids = torch.from_numpy(np.unique(list(reports), return_inverse=True)[1])

    def __len__(self) -> int:
        return len(self.rows)

    def training_steps(self, batch_size: int) -> int:
        """How many batches `training_batches` gives."""
        full, rest = divmod(len(self), batch_size)
        return full + (rest > 1)

    def training_batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch in random order, of random crops. A last batch of one study is dropped."""
        for chosen in torch.randperm(len(self), generator=generator).split(batch_size):
            if len(chosen) > 1:
                visual = self.visual.cropped(self.rows[chosen.numpy()], generator)
                yield Batch(visual, self.reports[chosen], self.report_ids[chosen])

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Whole images in order."""
        for chosen in torch.arange(len(self)).split(batch_size):
            visual = self.visual.whole(self.rows[chosen.numpy()])
            yield Batch(visual, self.reports[chosen], self.report_ids[chosen])

    def with_images_of(self, others: np.ndarray) -> Studies:
        """The same reports, study i with the images of study `others[i]`."""
        shuffled = object.__new__(Studies)
        shuffled.__dict__.update(self.__dict__, rows=self.rows[others])
        return shuffled
