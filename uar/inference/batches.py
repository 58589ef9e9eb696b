"""The batches of a split, with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator

from uar.core.progress import progress
from uar.data.batches import Batch, Studies
from uar.model.ensemble import Ensemble
from uar.model.uar import UAR


def progress_batches(
    model: UAR | Ensemble, studies: Studies, batch_size: int, what: str
) -> Iterator[Batch]:
    """Yield batches in the studies' order, on the model's device; `what` names the progress bar."""
    total = -(-len(studies) // batch_size)
    for batch in progress(studies.batches(batch_size), what, total):
        yield batch.to(model.device)
