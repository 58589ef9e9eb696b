"""Studies as training and evaluation batches, from the token cache or from the packed images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from uar.core.special_words import PAD
from uar.data.text import Vocabulary
from uar.data.views import Views, crops_at, draw_views, resize_view


@dataclass(frozen=True)
class Batch:
    """B studies; with several processes, one process's share of `ranks * B` studies.

    Shares are filled up to equal size: a filler row has a report of padding only and -1 as its
    report id.
    """

    visual: Tensor  # tokens (B, V, L/V) int64, pixels (B, V, H, W) or maps (B, V, C, h, w) float
    report: Tensor  # (B, T + 1) int64: BOS, words, EOS, padding
    report_ids: Tensor  # (ranks * B,) int64, for all ranks' studies; equal for identical text
    words: int | None = None  # in the optimiser step, with end tokens; None: this is the whole step
    studies: int | None = None  # likewise
    present: Tensor | None = None  # (B, V) bool, the views that each study has; None: all
    findings: Tensor | None = None  # (B, N) float, 0 or 1: what the report asserts

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """What `UAR.forward` takes."""
        return self.visual, self.report, self.present, self.findings

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU can copy from while it computes."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **changed)


@dataclass(frozen=True)
class Shard:
    """Which share of every batch this process computes, and in how many micro-batches.

    Args:
        rank: this process's rank, from 0.
        ranks: number of processes that a batch is divided among.
        accumulate: number of micro-batches in the share, computed one after another.
    """

    rank: int = 0
    ranks: int = 1
    accumulate: int = 1


WHOLE = Shard()


class VisualSource(Protocol):
    """A source of the visual input for image rows `(B, V)`."""

    def whole(self, rows: np.ndarray) -> Tensor:
        """Whole images, as at inference."""

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw which view of each image training reads, as `draw_views` does."""

    def views(self, rows: np.ndarray, drawn: Tensor) -> Tensor:
        """The drawn views, as in training."""


@dataclass(frozen=True)
class TokenSource:
    """Visual tokens from the cache `(N, views, L)` (section 3.2).

    Args:
        tokens: the cache.
        draw_whole: whether training draws view 0, the whole image, as often as each crop.
    """

    tokens: np.ndarray
    draw_whole: bool = False

    def whole(self, rows: np.ndarray) -> Tensor:
        """The tokens of view 0."""
        return torch.from_numpy(self.tokens[rows, 0].astype(np.int64))

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw one of the cached views for each image; view 0 if the cache has no crops."""
        return draw_views(
            shape, self.tokens.shape[1] - 1, draw_whole=self.draw_whole, generator=generator
        )

    def views(self, rows: np.ndarray, drawn: Tensor) -> Tensor:
        """The tokens of the drawn views."""
        return torch.from_numpy(self.tokens[rows, drawn.numpy()].astype(np.int64))


@dataclass(frozen=True)
class PixelSource:
    """Pixels of the views that tokens are made from, from the packed array `(N, size, size)`.

    Args:
        images: the packed array.
        made_of: the views that tokens are made from.
        draw_whole: as in `TokenSource`.
    """

    images: np.ndarray
    made_of: Views
    draw_whole: bool = False

    def whole(self, rows: np.ndarray) -> Tensor:
        """Whole images, resized."""
        images = torch.from_numpy(self.images[rows.ravel()])
        return resize_view(images, self.made_of.crop).unflatten(0, rows.shape)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw a view of each image, as `TokenSource` does."""
        return draw_views(
            shape, self.made_of.crops, draw_whole=self.draw_whole, generator=generator
        )

    def views(self, rows: np.ndarray, drawn: Tensor) -> Tensor:
        """The drawn views, `(*rows.shape, crop, crop)` float in [0, 1]."""
        side, view = self.made_of.crop, drawn.flatten()
        images, cropped = torch.from_numpy(self.images[rows.ravel()]), view > 0
        pixels = torch.empty(len(images), side, side)
        if not cropped.all():
            pixels[~cropped] = resize_view(images[~cropped], side)
        corners = self.made_of.corners(rows.ravel()[cropped.numpy()])  # (n, K, 2)
        chosen = corners[torch.arange(len(corners)), view[cropped] - 1].unsqueeze(1)
        pixels[cropped] = crops_at(images[cropped], chosen, side).squeeze(1).float() / 255
        return pixels.unflatten(0, rows.shape)


@dataclass(frozen=True)
class MapSource:
    """Maps that a frozen extractor has made from a `PixelSource`'s views.

    Args:
        maps: `(M, C, h, w)` float16.
        first: `(N,)`, the index in `maps` of each image's whole view; its crops follow.
        crops: K.
        draw_whole: as in `TokenSource`.
    """

    maps: np.ndarray
    first: np.ndarray
    crops: int
    draw_whole: bool = False

    def whole(self, rows: np.ndarray) -> Tensor:
        """The maps of whole images."""
        return torch.from_numpy(self.maps[self.first[rows]])

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw a view of each image, as `TokenSource` does."""
        return draw_views(shape, self.crops, draw_whole=self.draw_whole, generator=generator)

    def views(self, rows: np.ndarray, drawn: Tensor) -> Tensor:
        """The maps of the drawn views."""
        return torch.from_numpy(self.maps[self.first[rows] + drawn.numpy()])


class Studies:
    """The studies of one split.

    Args:
        visual: where their images come from.
        rows: image rows `(S, V)` of each study in `visual`.
        reports: S cleaned reports.
        vocabulary: V_R.
        max_length: T.
        present: `(S, V)` bool, the views that each study has; None: all of them.
        findings: `(S, N)`, 1 where a study's report asserts a finding, else 0; None: not known.
        weights: `(S,)`, relative frequency with which training draws each study, with replacement;
            None: each once per epoch.
    """

    def __init__(
        self,
        visual: VisualSource,
        rows: np.ndarray,
        reports: Sequence[str],
        *,
        vocabulary: Vocabulary,
        max_length: int,
        present: np.ndarray | None = None,
        findings: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        self.visual = visual
        self.rows = rows
        self.present = None if present is None else torch.from_numpy(present)
        self.findings = None if findings is None else torch.from_numpy(findings).float()
        self.weights = None if weights is None else torch.from_numpy(weights).float()
        self.reports = torch.empty(len(reports), max_length + 1, dtype=torch.int64)
        numbers: dict[str, int] = {}  # each text's number, by first appearance
        for row, report in zip(self.reports.numpy(), reports, strict=True):
            row[:] = vocabulary.encode(report, max_length)
            numbers.setdefault(report, len(numbers))
        self.report_ids = torch.tensor([numbers[report] for report in reports])

    def __len__(self) -> int:
        return len(self.rows)

    def training_steps(self, batch_size: int) -> int:
        """The number of batches that `training_batches` yields."""
        full, rest = divmod(len(self), batch_size)
        return full + (rest > 1)

    def training_batches(
        self, batch_size: int, generator: torch.Generator, shard: Shard = WHOLE
    ) -> Iterator[list[Batch]]:
        """Yield one epoch of random views in random order, as the micro-batches of each step.

        Every process draws the same whole batches and builds its share of them. All micro-batches
        have the same shape; a smaller last batch has fewer of them, filled up where needed. A last
        batch of one study is dropped.
        """
        micro_size = math.ceil(batch_size / shard.accumulate)
        for chosen in self._order(generator).split(batch_size):
            drawn = self.visual.draw((len(chosen), self.rows.shape[1]), generator)
            if len(chosen) > 1:
                words = int((self.reports[chosen, 1:] != PAD).sum())
                micro_batches = zip(chosen.split(micro_size), drawn.split(micro_size), strict=True)
                yield [
                    replace(self._part(*each, micro_size, shard), words=words, studies=len(chosen))
                    for each in micro_batches
                ]

    def _order(self, generator: torch.Generator) -> Tensor:
        """The studies of an epoch in the order of training, `(S,)`."""
        if self.weights is None:
            return torch.randperm(len(self), generator=generator)
        return torch.multinomial(self.weights, len(self), replacement=True, generator=generator)

    def _part(self, chosen: Tensor, drawn: Tensor, micro_size: int, shard: Shard) -> Batch:
        """This process's rows of a micro-batch, filled up with repeated studies without reports."""
        per_rank = math.ceil(micro_size / shard.ranks)
        row = torch.arange(per_rank * shard.ranks)
        filler, study = row >= len(chosen), row % len(chosen)
        ids = self.report_ids[chosen[study]].masked_fill(filler, -1)
        own = slice(shard.rank * per_rank, (shard.rank + 1) * per_rank)
        mine = study[own]
        part = self._batch(chosen[mine], lambda rows: self.visual.views(rows, drawn[mine]))
        report = part.report.masked_fill(filler[own].unsqueeze(1), PAD)
        return replace(part, report=report, report_ids=ids)

    def _batch(self, chosen: Tensor, images_of: Callable[[np.ndarray], Tensor]) -> Batch:
        """The chosen studies `(B,)`, with the images that `images_of` returns for rows `(B, V)`."""
        return Batch(
            images_of(self.rows[chosen.numpy()]),
            self.reports[chosen],
            self.report_ids[chosen],
            present=None if self.present is None else self.present[chosen],
            findings=None if self.findings is None else self.findings[chosen],
        )

    def batches(self, batch_size: int, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield whole images in order; of several processes, each gets every `ranks`-th batch."""
        for chosen in torch.arange(len(self)).split(batch_size)[shard.rank :: shard.ranks]:
            yield self._batch(chosen, self.visual.whole)

    def with_images_of(self, others: np.ndarray) -> Studies:
        """Return the same reports, with study i given the images of study `others[i]`."""
        shuffled = copy(self)
        shuffled.rows = self.rows[others]
        shuffled.present = None if self.present is None else self.present[others]
        return shuffled
