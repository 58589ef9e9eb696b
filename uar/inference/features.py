"""Global features F(I) and F(R) (Eq. 10) of a split's studies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from uar.data.batches import Studies
from uar.inference.batches import progress_batches
from uar.model.uar import UAR, global_image_feature


@torch.inference_mode()
def global_features(
    model: UAR, studies: Studies, batch_size: int, what: str
) -> Iterator[np.ndarray]:
    """Global visual features F(I) of Eq. 10, batch by batch, `(B, d)` float32."""
    tables = model.tables()
    for batch in progress_batches(model, studies, batch_size, what):
        image = model.image_features(batch.visual, tables)
        yield global_image_feature(image, batch.present).float().cpu().numpy()


@torch.inference_mode()
def finding_logits(model: UAR, studies: Studies, batch_size: int, what: str) -> np.ndarray:
    """Logits of the findings head, `(S, N)` float32."""
    tables = model.tables()
    logits = []
    for batch in progress_batches(model, studies, batch_size, what):
        logits.append(model.finding_logits(batch.visual, tables, batch.present).cpu().numpy())
    return np.concatenate(logits)


@torch.inference_mode()
def paired_features(
    model: UAR, studies: Studies, batch_size: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Global features F(I) and F(R) of Eq. 10 of all studies, both `(S, d)` float32."""
    images, reports = [], []
    for batch in progress_batches(model, studies, batch_size, what):
        output = model(batch.visual, batch.report, batch.present)
        images.append(output.image_global.float().cpu().numpy())
        reports.append(output.report_global.float().cpu().numpy())
    return np.concatenate(images), np.concatenate(reports)
