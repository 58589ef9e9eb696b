"""Scores of a model in training on the validation split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from uar.core.distributed import gather_objects
from uar.data.batches import Share, Studies
from uar.data.text import Vocabulary
from uar.evaluation.metrics import score
from uar.inference.decoding import generate
from uar.model.uar import UAR
from uar.training.objective import Objective

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Validation:
    """Greedy reports for a split, scored under the `r2gen` protocol without METEOR.

    Args:
        studies: the validation split.
        vocabulary: V_R.
        batch_size: studies decoded at once.
        fabric: the processes that share the batches out.
    """

    studies: Studies
    vocabulary: Vocabulary
    batch_size: int
    fabric: Fabric

    def __call__(self, model: UAR, objective: Objective) -> dict[str, float]:
        """`loss`, every metric, and `distinct_reports`; the same on every rank."""
        model.eval()
        share = Share(self.fabric.global_rank, self.fabric.world_size)
        tables = model.tables()
        mine: list[tuple[float, list[str]]] = []  # of each batch
        with torch.inference_mode():
            for batch in self.studies.batches(self.batch_size, share):
                batch = batch.to(self.fabric.device)
                loss = float(objective(model, batch)[0]) * len(batch.report)
                reports = generate(
                    model, batch.visual, beam_size=1, tables=tables, present=batch.present
                )
                mine.append((loss, [self.vocabulary.decode(report.ids) for report in reports]))
        parts = gather_objects(self.fabric, mine)
        batches = [parts[i % share.ranks][i // share.ranks] for i in range(sum(map(len, parts)))]
        values = self._score(batches) if self.fabric.is_global_zero else {}
        return self.fabric.broadcast(values)

    def _score(self, batches: list[tuple[float, list[str]]]) -> dict[str, float]:
        texts = [text for _, written in batches for text in written]
        references = [self.vocabulary.decode(row) for row in self.studies.reports.tolist()]
        scores = score(references, texts)
        return {
            "loss": sum(loss for loss, _ in batches) / len(self.studies),
            **{name: float(value) for name, value in scores.items() if value is not None},
            "distinct_reports": float(len(set(texts))),
        }
