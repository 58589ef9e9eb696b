"""Arrays that take long to fill, and that go on being filled after a kill."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from uar.core.errors import UserError
from uar.core.files import allocate, read_json, set_aside, write_json
from uar.core.provenance import differences

log = logging.getLogger(__name__)


class UnfinishedArray:
    """An array of N rows that processes fill batch by batch, and that outlives a kill.

    Written through the file, not a mapping: a mapping's written pages count as memory.

    Args:
        folder: holds the array, a byte for each batch (1: it is whole) and the run's identity.
        name: of what it holds, for its file and for messages.
        shape: `(N, ...)`.
        dtype: of its values.
        per_batch: rows of a batch.
    """

    def __init__(
        self, folder: Path, name: str, shape: tuple[int, ...], dtype: type, per_batch: int
    ) -> None:
        self.name = name
        self.array, self.done, self.identity = (
            folder / file for file in (f"{name}.npy", "done", "identity.json")
        )
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.per_batch = per_batch

    def open(self, identity: dict[str, Any]) -> np.ndarray:
        """Numbers of the batches still to do; another run's array is begun anew, a damaged too."""
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
        write_json(self.identity, identity)  # last: without it the folder counts for nothing
        return np.arange(self.batches)

    @property
    def batches(self) -> int:
        """How many the array has."""
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
            fault = "" if whole and len(done) == self.batches else "it is of another size"
            if done.max(initial=0) > 1:
                fault = f"{self.done} is damaged"
        if others:
            log.info(
                f"the unfinished {self.name} in {self.array.parent} are of another state of the "
                f"project and are not used; it differs in: {', '.join(others)}"
            )
            return None
        if fault:
            aside = set_aside(self.array.parent)
            log.warning(
                f"the unfinished {self.name} in {self.array.parent} cannot be gone on with "
                f"({fault}). Moved to {aside}; the work begins anew."
            )
            return None
        return done

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
