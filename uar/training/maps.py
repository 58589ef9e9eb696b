"""A frozen extractor's feature maps, computed once: the views that it reads never change."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from uar.core.device import describe
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
    """The films whose views an extractor reads.

    Args:
        pixels: source of their views.
        in_training: rows of the training images, `(R,)`, all of whose views are read.
        others: rows `(Q,)` of images of which only the whole view is read.
    """

    pixels: PixelSource
    in_training: np.ndarray
    others: np.ndarray

    @property
    def each(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and view number of every view, both `(R * (1 + K) + Q,)`; an image's are adjacent."""
        views, held_out = 1 + self.pixels.made_of.crops, np.zeros(len(self.others), int)
        rows = np.concatenate([np.repeat(self.in_training, views), self.others])
        return rows, np.concatenate([np.tile(np.arange(views), len(self.in_training)), held_out])

    @property
    def first(self) -> np.ndarray:
        """Where in `each` the whole view of each image is, `(N,)`; past the end if it has none."""
        rows, views = self.each
        first = np.full(len(self.pixels.images), len(rows))
        first[rows[views == 0]] = np.flatnonzero(views == 0)
        return first


def make_maps(
    fabric: Fabric, extractor: VisualExtractor, films: Films, scratch: Scratch
) -> MapSource:
    """Make every map that training and validation read, and keep them in `scratch`.

    Every process computes and writes its share. Maps that exist are not computed again: neither
    after a kill nor in a later stage or run with the same network, films and identity.

    Args:
        fabric: the processes among which the views are divided (`uar.core.distributed.launch`).
        extractor: one with a frozen network.
        films: the films whose views it reads.
        scratch: holds the array, `(R * (1 + K) + Q, C, h, w)` float16. Its identity is what the
            maps depend on in addition to the other arguments.
    """
    source, (rows, views) = films.pixels, films.each

    def pixels(part: slice) -> Tensor:
        return source.views(rows[part], torch.from_numpy(views[part]))

    def identity() -> dict[str, Any]:
        state = extractor.network.state_dict()
        arguments = {
            **asdict(source.made_of),
            "network": extractor.network.name,
            "weights_sha256": digest_of({name: w.cpu() for name, w in state.items()}),
            "rows_sha256": hashlib.sha256(rows.tobytes() + views.tobytes()).hexdigest(),
            "device": describe(fabric.device),
        }
        return {**scratch.identity, "maps": arguments}

    extractor.to(fabric.device)
    shape = (len(rows), *extractor.maps(pixels(slice(1)).to(fabric.device)).shape[1:])
    unfinished = UnfinishedArray(
        scratch.folder, "maps", shape=shape, dtype=np.float16, per_batch=_PER_BATCH
    )
    unfinished.fill(
        fabric,
        identity=identity,
        prepare=pixels,
        compute=lambda part: extractor.maps(part.to(fabric.device)),
    )
    maps = np.load(unfinished.array, mmap_mode="r")
    return MapSource(
        maps=maps, first=films.first, crops=source.made_of.crops, draw_whole=source.draw_whole
    )
