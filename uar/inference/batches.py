"""The batches of a split, with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator

from uar.core.progress import progress
from uar.data.batches import Batch, Studies


def progress_batches(studies: Studies, batch_size: int, what: str) -> Iterator[Batch]:
    """Batches in the studies' order; `what` names the progress bar."""
    total = -(-len(studies) // batch_size)
    yield from progress(studies.batches(batch_size), what, total)
