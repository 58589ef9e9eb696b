"""Global features F(I) and F(R) (Eq. 10) of a split's studies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from uar.data.batches import Studies
from uar.inference.batches import progress_batches
from uar.model.ensemble import Ensemble, mean_logits, members_of
from uar.model.uar import UAR, global_image_feature, masked_mean, words_in


@torch.inference_mode()
def global_features(
    model: UAR, studies: Studies, batch_size: int, what: str
) -> Iterator[np.ndarray]:
    """Global features F(I) and F(R) of Eq. 10, batch by batch, `(2, B, d)` float32."""
    tables = model.tables()
    for batch in progress_batches(model, studies, batch_size, what):
        image = model.image_features(batch.visual, tables)
        words = batch.report[:, :-1]
        text = F.embedding(words, tables.words)
        features = global_image_feature(image, batch.present), masked_mean(text, words_in(words))
        yield torch.stack(features).float().cpu().numpy()


@torch.inference_mode()
def finding_logits(
    model: UAR | Ensemble, studies: Studies, batch_size: int, what: str
) -> np.ndarray:
    """Logits of the findings head, `(S, N)` float32; for an ensemble, of the mean probabilities."""
    members = [(member, member.tables()) for member in members_of(model)]
    logits = []
    for batch in progress_batches(model, studies, batch_size, what):
        of_members = [
            member.finding_logits(batch.visual, tables, batch.present) for member, tables in members
        ]
        logits.append(mean_logits(of_members).cpu().numpy())
    return np.concatenate(logits)
