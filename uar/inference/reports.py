"""Reports that a trained model writes for a split's studies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from uar.core.config import DecodeParams
from uar.data.batches import Studies
from uar.data.text import Vocabulary
from uar.evaluation.predictions import Prediction
from uar.inference.batches import progress_batches
from uar.inference.choice import Candidates
from uar.inference.decoding import Generated
from uar.inference.writing import ReportWriter
from uar.model.ensemble import Ensemble
from uar.model.likelihood import report_cross_entropy
from uar.model.uar import UAR


@torch.inference_mode()
def sampled_candidates(
    model: UAR | Ensemble,
    studies: Studies,
    *,
    vocabulary: Vocabulary,
    params: DecodeParams,
    what: str,
    seed: int,
) -> list[Candidates]:
    """Labelled samples of each study, from which `write_reports` would choose one.

    Args:
        model, studies, vocabulary, params, what, seed: as for `write_reports`.
    """
    writer = ReportWriter(model, vocabulary, params, seed)
    candidates: list[Candidates] = []
    for batch in progress_batches(model, studies, params.batch_size, what):
        candidates += writer.candidates(batch.visual, batch.present, findings=True)
    return candidates


@torch.inference_mode()
def write_reports(
    model: UAR | Ensemble,
    studies: Studies,
    *,
    study_ids: Sequence[str],
    raw_reports: Sequence[str],
    vocabulary: Vocabulary,
    params: DecodeParams,
    what: str,
    seed: int = 0,
    probabilities: np.ndarray | None = None,
) -> list[Prediction]:
    """Generate a report for each study, and measure how likely the study's own report is.

    Args:
        model: in evaluation mode.
        studies: S studies.
        study_ids: the studies' names, in order.
        raw_reports: the studies' whole reports, in order.
        vocabulary: V_R.
        params: how reports are written.
        what: names the progress bar.
        seed: decides the samples.
        probabilities: of the findings in each study, `(S, 13)`; needed if `needs_findings`.

    Raises:
        UserError: `probabilities` are needed but not given.
    """
    generated: list[Generated] = []
    nats: list[Tensor] = []
    writer = ReportWriter(model, vocabulary, params, seed)
    for batch in progress_batches(model, studies, params.batch_size, what):
        output = model(batch.visual, batch.report, batch.present)
        nats.append(report_cross_entropy(output.logits, batch.report[:, 1:]))
        own = slice(len(generated), len(generated) + len(batch.report))
        generated += writer.write(
            batch.visual,
            batch.present,
            None if probabilities is None else probabilities[own],
        )
    return [
        Prediction(
            study_id=study_id,
            report=report,
            reference=vocabulary.decode(ids),
            generated=vocabulary.decode(beam.ids),
            log_probability=beam.log_probability,
            cross_entropy=cost,
        )
        for study_id, report, ids, beam, cost in zip(
            study_ids,
            raw_reports,
            studies.reports.tolist(),
            generated,
            torch.cat(nats).tolist(),
            strict=True,
        )
    ]
