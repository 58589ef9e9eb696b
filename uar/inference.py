"""A trained model on the studies of a split: their reports and their global features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tqdm import tqdm

from uar.batches import Batch, Studies
from uar.config import DecodeParams
from uar.decoding import generate
from uar.model import UAR, global_image_feature
from uar.predictions import Prediction
from uar.text import Vocabulary


def write_reports(
    model: UAR,
    studies: Studies,
    study_ids: Sequence[str],
    raw_reports: Sequence[str],
    vocabulary: Vocabulary,
    params: DecodeParams,
    what: str,
) -> list[Prediction]:
    """Generate a report for each study.

    Args:
        model: in evaluation mode.
        studies: S studies.
        study_ids: their names, in order.
        raw_reports: their whole reports, in order.
        vocabulary: V_R.
        params: beam search.
        what: names the progress bar.
    """
    device = model.head.weight.device
    generated = []
    tables = model.tables()
    for batch in _batches(studies, params.batch_size, what):
        batch = batch.to(device)
        generated += generate(
            model, batch.visual, params.beam_size, params.length_penalty, tables, batch.present
        )
    return [
        Prediction(
            study_id=study_id,
            report=report,
            reference=vocabulary.decode(ids),
            generated=vocabulary.decode(beam.ids),
            log_probability=beam.log_probability,
        )
        for study_id, report, ids, beam in zip(
            study_ids, raw_reports, studies.reports.tolist(), generated, strict=True
        )
    ]


@torch.inference_mode()
def global_features(
    model: UAR, studies: Studies, batch_size: int, what: str
) -> Iterator[np.ndarray]:
    """Global visual features F(I) of Eq. 10, batch by batch, `(B, d)` float32."""
    device = model.head.weight.device
    tables = model.tables()
    for batch in _batches(studies, batch_size, what):
        batch = batch.to(device)
        image = model.image_features(batch.visual, tables)
        yield global_image_feature(image, batch.present).float().cpu().numpy()


@torch.inference_mode()
def paired_features(
    model: UAR, studies: Studies, batch_size: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Global features F(I) and F(R) of Eq. 10 of all studies, both `(S, d)` float32."""
    device = model.head.weight.device
    images, reports = [], []
    for batch in _batches(studies, batch_size, what):
        batch = batch.to(device)
        output = model(batch.visual, batch.report, batch.present)
        images.append(output.image_global.float().cpu().numpy())
        reports.append(output.report_global.float().cpu().numpy())
    return np.concatenate(images), np.concatenate(reports)


def _batches(studies: Studies, batch_size: int, what: str) -> Iterator[Batch]:
    total = -(-len(studies) // batch_size)
    yield from tqdm(studies.batches(batch_size), desc=what, total=total, unit="batch")
