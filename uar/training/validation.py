"""Validation scores of a model in training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from uar.core.config import DecodeParams
from uar.core.distributed import gather_in_order
from uar.data.batches import Batch, Shard, Studies
from uar.data.text import Vocabulary
from uar.evaluation.baselines import derangement
from uar.evaluation.detection import mean_auc, micro_f1
from uar.evaluation.metrics import score
from uar.inference.decoding import generate_as
from uar.model.likelihood import report_cross_entropy
from uar.model.uar import UAR, Output, Tables
from uar.training.objective import Objective
from uar.training.reward import Reward
from uar.training.thresholds import best_thresholds

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_NATS = "cross_entropy"  # summed over the reports of a batch; other terms are means


@dataclass
class _Part:
    """Sums over the studies of one batch, and the reports written for it."""

    sums: dict[str, float] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    without_mask: list[str] = field(default_factory=list)
    of_others: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Validation:
    """Scores a model in training on a split.

    Args:
        studies: the validation split.
        vocabulary: V_R.
        params: how reports are written, as for the test split.
        fabric: the processes among which the batches are divided.
        reward: that of self-critical training; None in other training.
    """

    studies: Studies
    vocabulary: Vocabulary
    params: DecodeParams
    fabric: Fabric
    reward: Reward | None = None

    def __call__(self, model: UAR, objective: Objective, write: bool = True) -> dict[str, float]:
        """Score the model; the result is the same on every rank.

        Args:
            write: whether to write reports too, and score them.

        Returns:
            `loss` and each of its terms (Eq. 13; `global` over batches of `decode.batch_size`);
            `cross_entropy`, nats a report, and `image_gain`, by how many nats it rises with another
            study's images; with masks, `mask_spread`, M's standard deviation over visual tokens.
            With `write`, also the scores of the `r2gen` protocol without METEOR,
            `distinct_reports`, and with masks `changed_by_mask`, how many reports M = 0 changes.
            With a findings head, whose thresholds are set here for a high micro F1 on the split,
            its `findings_f1` and, where the split has enough positives, `findings_auc`.
            With a reward, `reward` and its parts, over batches of `decode.batch_size`; `F1`,
            `precision` and `recall` of findings (micro, over 13); `distinct_share`; and
            `shuffled_CIDEr`, that of reports written for another study's images. The loss of
            Eq. 13, which is not trained then, is left out.
        """
        model.eval()
        shard = Shard(self.fabric.global_rank, self.fabric.world_size)
        batches = self.studies.batches(self.params.batch_size, shard)
        others = self.studies.with_images_of(derangement(len(self.studies), seed=0))
        shuffled_batches = others.batches(self.params.batch_size, shard)
        head_scores = self._score_head(model) if model.findings is not None else {}
        with torch.inference_mode():
            tables = model.tables()
            mine = []
            for batch, shuffled in zip(batches, shuffled_batches, strict=True):
                batch, shuffled = batch.to(self.fabric.device), shuffled.to(self.fabric.device)
                part = _Part()
                output = model(*batch.inputs)
                terms = self._terms(objective, output, batch)
                output = model(shuffled.visual, shuffled.report, shuffled.present)
                nats = report_cross_entropy(output.logits, shuffled.report[:, 1:])
                part.sums = _fetched(terms, nats.sum(), len(batch.report))
                if write:
                    part.written = self._write(model, batch, tables)
                    if self.reward is not None:
                        part.of_others = self._write(model, shuffled, tables)
                    if output.masks:
                        with model.without_mask():
                            part.without_mask = self._write(model, batch, tables)
                mine.append(part)
        parts = gather_in_order(self.fabric, mine)
        values = self._values(parts) | head_scores if self.fabric.is_global_zero else {}
        return self.fabric.broadcast(values)

    def _score_head(self, model: UAR) -> dict[str, float]:
        """Set the findings head's thresholds on every rank, and return its scores."""
        shard = Shard(self.fabric.global_rank, self.fabric.world_size)
        mine = []
        with torch.inference_mode():
            tables = model.tables()
            for batch in self.studies.batches(self.params.batch_size, shard):
                batch = batch.to(self.fabric.device)
                logits = model.finding_logits(batch.visual, tables, batch.present)
                mine.append(logits.sigmoid().cpu().numpy())
        head, labels = model.findings, self.studies.findings
        assert head is not None
        assert labels is not None  # a model with this head is trained on labelled studies
        found: tuple[np.ndarray, dict[str, float]] | None = None
        parts = gather_in_order(self.fabric, mine)
        if self.fabric.is_global_zero:
            probabilities = np.concatenate(parts)
            true = labels.numpy() > 0
            thresholds, f1 = best_thresholds(probabilities, true)
            area = mean_auc(probabilities, true)
            areas = {} if np.isnan(area) else {"findings_auc": area}
            found = thresholds, {**areas, "findings_f1": f1}
        found = self.fabric.broadcast(found)
        assert found is not None
        thresholds, values = found
        head.thresholds.copy_(torch.from_numpy(thresholds))
        return values

    def _terms(self, objective: Objective, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Measurements of a batch: means over it, and the summed nats of its reports."""
        targets = batch.report[:, 1:]
        terms = dict(objective.of_output(output, batch)[1])
        terms[_NATS] = report_cross_entropy(output.logits, targets).sum()
        if output.masks:
            spreads = [mask.float().logit(eps=1e-6).std(dim=-1).mean() for mask in output.masks]
            terms["mask_spread"] = torch.stack(spreads).mean()
        return terms

    def _write(self, model: UAR, batch: Batch, tables: Tables) -> list[str]:
        reports = generate_as(
            self.params, model, batch.visual, tables=tables, present=batch.present
        )
        return [self.vocabulary.decode(report.ids) for report in reports]

    def _values(self, parts: list[_Part]) -> dict[str, float]:
        values = {
            name: sum(part.sums[name] for part in parts) / len(self.studies)
            for name in parts[0].sums
        }
        texts = [text for part in parts for text in part.written]
        if texts:
            references = [self.vocabulary.decode(row) for row in self.studies.reports.tolist()]
            values |= {name: float(value) for name, value in score(references, texts).items()}
            values["distinct_reports"] = float(len(set(texts)))
        plain = [text for part in parts for text in part.without_mask]
        if plain:
            changed = sum(text != other for text, other in zip(texts, plain, strict=True))
            values["changed_by_mask"] = float(changed)
        if self.reward is not None and texts:
            of_others = [text for part in parts for text in part.of_others]
            values["shuffled_CIDEr"] = float(score(references, of_others)["CIDEr"])
            values["distinct_share"] = values["distinct_reports"] / len(texts)
            values |= self._earned(self.reward, texts, references)
            del values["loss"]
        return values

    def _earned(self, reward: Reward, texts: list[str], references: list[str]) -> dict[str, float]:
        """Mean rewards of reports, and how well they assert findings."""
        assert self.studies.findings is not None
        true = self.studies.findings.numpy() > 0
        sums: dict[str, float] = {}
        for start in range(0, len(texts), self.params.batch_size):
            part = slice(start, start + self.params.batch_size)
            count = len(texts[part])
            earned = reward(texts[part], range(count), references[part], true[part])
            sums |= {name: sums.get(name, 0) + float(of.sum()) for name, of in earned.items()}
        said = reward.asserted(texts)
        right = float((said & true).sum())
        return {
            **{name: total / len(texts) for name, total in sums.items()},
            "F1": micro_f1(said, true),
            "precision": right / max(1, said.sum()),
            "recall": right / max(1, true.sum()),
        }


def _fetched(terms: dict[str, Tensor], nats_of_others: Tensor, studies: int) -> dict[str, float]:
    """Sums over a batch of `studies`, and its image gain, with a single wait for the device."""
    *values, others = torch.stack([*terms.values(), nats_of_others]).tolist()
    sums = {
        name: value if name == _NATS else value * studies
        for name, value in zip(terms, values, strict=True)
    }
    return sums | {"image_gain": others - sums[_NATS]}
