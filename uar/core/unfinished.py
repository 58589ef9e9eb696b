"""Arrays that take long to fill: after a kill, filling continues where it stopped."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.lib.format import open_memmap

from uar.core.errors import UserError
from uar.core.files import allocate, read_json, set_aside, write_json
from uar.core.prefetch import prefetch
from uar.core.progress import progress_bar
from uar.core.provenance import differences

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

T = TypeVar("T")

log = logging.getLogger(__name__)


class UnfinishedArray:
    """An array of N rows that processes fill batch by batch, and that survives a kill.

    It is written to as a file, not as a memory map, whose written pages would count as memory.

    Args:
        folder: holds the array, a byte for each batch (1: done) and the run's identity.
        name: what it holds, for its file's name and for messages.
        shape: `(N, ...)`.
        dtype: of its values.
        per_batch: rows per batch.
    """

    def __init__(
        self, folder: Path, name: str, *, shape: tuple[int, ...], dtype: type, per_batch: int
    ) -> None:
        self.name = name
        self.array, self.done, self.identity = (
            folder / file for file in (f"{name}.npy", "done", "identity.json")
        )
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.per_batch = per_batch

    def open(self, identity: dict[str, Any]) -> np.ndarray:
        """Return the numbers of the batches still to do; replace another run's or a damaged array.

        Args:
            identity: what the values depend on, as JSON values.
        """
        identity = json.loads(json.dumps(identity))
        if (done := self._done(identity)) is not None:
            if done.any():
                log.info(f"resuming after {done.sum()} of {len(done)} batches ({self.array})")
            return np.flatnonzero(done == 0)
        shutil.rmtree(self.array.parent, ignore_errors=True)
        self.array.parent.mkdir(parents=True)
        open_memmap(self.array, mode="w+", dtype=self.dtype, shape=self.shape)
        allocate(self.array)
        self.done.write_bytes(bytes(self.batches))
        write_json(self.identity, identity)  # last: without it, the folder is ignored
        return np.arange(self.batches)

    @property
    def batches(self) -> int:
        """The number of batches in the array."""
        return math.ceil(self.shape[0] / self.per_batch)

    def _done(self, identity: dict[str, Any]) -> np.ndarray | None:
        """A byte for each batch, if the folder holds a whole array of this run."""
        if not self.identity.is_file():
            return None
        try:
            others = differences(read_json(self.identity), identity)
            done = np.frombuffer(self.done.read_bytes(), dtype=np.uint8)
            array = np.load(self.array, mmap_mode="r")
        except (UserError, OSError, ValueError, EOFError) as error:
            others = []
            fault = str(error)
        else:
            whole = (array.shape, array.dtype) == (self.shape, self.dtype)
            fault = "" if whole and len(done) == self.batches else "it has a different size"
            if done.max(initial=0) > 1:
                fault = f"{self.done} is damaged"
        if others:
            log.info(
                f"the unfinished {self.name} in {self.array.parent} are from another state of the "
                f"project and are not used; it differs in: {', '.join(others)}"
            )
            return None
        if fault:
            aside = set_aside(self.array.parent)
            log.warning(
                f"the unfinished {self.name} in {self.array.parent} cannot be resumed "
                f"({fault}). Moved to {aside}; the work starts again."
            )
            return None
        return done

    def fill(
        self,
        fabric: Fabric,
        *,
        identity: Callable[[], dict[str, Any]],
        prepare: Callable[[slice], T],
        compute: Callable[[T], Tensor],
    ) -> None:
        """Compute the batches still to do; every process does its share, and all end together.

        Args:
            fabric: the processes (`uar.core.distributed.launch`).
            identity: gives what the values depend on, as JSON values; called by the first process.
            prepare: prepares a batch of rows, ahead of time if a GPU computes.
            compute: computes the values of such a batch.
        """
        remaining = fabric.broadcast(self.open(identity()) if fabric.is_global_zero else None)
        assert remaining is not None  # the first process has opened the file
        mine = np.array_split(remaining, fabric.world_size)[fabric.global_rank].tolist()
        per_batch, rows = self.per_batch, self.shape[0]
        ready = ((n, prepare(slice(n * per_batch, min((n + 1) * per_batch, rows)))) for n in mine)
        with progress_bar(self.name, len(mine), shown=fabric.is_global_zero) as bar:
            for number, batch in prefetch(ready, fabric.device):
                self.write(number, compute(batch).cpu().numpy())
                bar.update()
        fabric.barrier()

    def write(self, number: int, values: np.ndarray) -> None:
        """Put a batch's values `(n, ...)` in their place and mark the batch as done."""
        size = os.path.getsize(self.array)
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        start = size - (self.shape[0] - number * self.per_batch) * row_bytes  # after the header
        for path, offset, content in (
            (self.array, start, values.astype(self.dtype).tobytes()),
            (self.done, number, b"\x01"),
        ):
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(content)
