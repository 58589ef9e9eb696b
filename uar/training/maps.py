"""A frozen extractor's maps, made once: the views that it sees never change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from uar.core.device import describe
from uar.core.prefetch import prefetch
from uar.core.progress import progress_bar
from uar.core.provenance import Scratch
from uar.core.unfinished import UnfinishedArray
from uar.core.weights import digest_of
from uar.data.batches import MapSource, PixelSource
from uar.model.extractor import VisualExtractor

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PER_BATCH = 32  # views


@dataclass(frozen=True)
class Films:
    """Films that an extractor looks at.

    Args:
        pixels: of their views.
        in_training: rows of training images, `(R,)`: all their views are looked at.
        others: rows `(Q,)` of which the whole view is.
    """

    pixels: PixelSource
    in_training: np.ndarray
    others: np.ndarray

    @property
    def each(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and view of every look, both `(R * (1 + K) + Q,)`: an image's lie together."""
        views, held_out = 1 + self.pixels.made_of.crops, np.zeros(len(self.others), int)
        rows = np.concatenate([np.repeat(self.in_training, views), self.others])
        return rows, np.concatenate([np.tile(np.arange(views), len(self.in_training)), held_out])

    @property
    def first(self) -> np.ndarray:
        """Where in `each` the whole view of each image is, `(N,)`; of no film, beyond its end."""
        rows, views = self.each
        first = np.full(len(self.pixels.images), len(rows))
        first[rows[views == 0]] = np.flatnonzero(views == 0)
        return first


def make_maps(
    fabric: Fabric, extractor: VisualExtractor, films: Films, scratch: Scratch
) -> MapSource:
    """Every map that training and validation read, in `scratch`.

    Every process makes and writes its slice. Maps that are there are not made again: after a kill,
    or in a later stage or run with the same network, films and identity.

    Args:
        fabric: the processes that share the views out (`uar.core.distributed.launch`).
        extractor: with a frozen network.
        films: what it looks at.
        scratch: of the array, `(R * (1 + K) + Q, C, h, w)` float16. Its identity is what the maps
            depend on beside the other arguments.
    """
    source, (rows, views) = films.pixels, films.each

    def pixels(number: int) -> Tensor:
        part = slice(number * _PER_BATCH, (number + 1) * _PER_BATCH)
        return source.views(rows[part], torch.from_numpy(views[part]))

    extractor.to(fabric.device)
    shape = (len(rows), *extractor.maps(pixels(0)[:1].to(fabric.device)).shape[1:])
    unfinished = UnfinishedArray(scratch.folder, "maps", shape, np.float16, _PER_BATCH)
    remaining: np.ndarray | None = None
    if fabric.is_global_zero:
        arguments = {
            **asdict(source.made_of),
            "network": extractor.network.name,
            "weights_sha256": digest_of(
                {name: w.cpu() for name, w in extractor.network.state_dict().items()}
            ),
            "rows_sha256": hashlib.sha256(rows.tobytes() + views.tobytes()).hexdigest(),
            "device": describe(fabric.device),
        }
        remaining = unfinished.open({**scratch.identity, "maps": arguments})
    remaining = fabric.broadcast(remaining)
    assert remaining is not None  # the first process has opened the file
    mine = np.array_split(remaining, fabric.world_size)[fabric.global_rank]

    def prepared() -> Iterator[tuple[int, Tensor]]:
        for number in mine.tolist():
            yield number, pixels(number)

    with progress_bar("maps", len(mine), shown=fabric.is_global_zero) as bar:
        for number, part in prefetch(prepared(), fabric.device):
            unfinished.write(number, extractor.maps(part.to(fabric.device)).cpu().numpy())
            bar.update()
    fabric.barrier()
    maps = np.load(unfinished.array, mmap_mode="r")
    return MapSource(maps, films.first, source.made_of.crops, source.draw_whole)
