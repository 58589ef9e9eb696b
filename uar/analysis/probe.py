"""What visual tokens hold: a report's findings, predicted linearly from its study's tokens.

F(I) of Eq. 10 is a mean over tokens, so what no linear probe finds in a bag of tokens, the
global loss cannot align with a report either. The decoder attends to tokens with their positions,
so a probe of tokens with positions shows the most that a linear model can read there. A thumbnail
of 16 x 16 pixels, which has positions too, is the yardstick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from uar.evaluation.detection import auc
from uar.inference.logistic import PENALTIES, Standardisation, fit_path, held_out

_THUMBNAIL = 16  # pixels along a side
_BLOCK = 256  # studies whose films are in memory at once
_MIN_TRAIN, _MIN_TEST = 10, 4  # fewest positive studies for a finding to be kept


@dataclass(frozen=True)
class Probe:
    """How well findings can be predicted.

    Attributes:
        auc: area under the ROC curve by finding, on studies that the probe was not fitted to.
        penalty: chosen by cross-validation on the studies that it was fitted to.
    """

    auc: dict[str, float]
    penalty: float

    @property
    def mean_auc(self) -> float:
        """Mean over the findings; NaN if there are none."""
        return float(np.mean(list(self.auc.values()))) if self.auc else float("nan")


def thumbnails(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Films at 16 x 16 pixels, `(S, V * 256)`, gray in [0, 1].

    Args:
        images: packed, `(N, H, W)` uint8.
        rows: each study's rows in `images`, `(S, V)`.
    """
    small = np.empty((len(rows), rows.shape[1] * _THUMBNAIL**2), np.float32)
    for start in range(0, len(rows), _BLOCK):
        pixels = torch.from_numpy(images[rows[start : start + _BLOCK]]).float() / 255
        of_block = F.interpolate(pixels, (_THUMBNAIL, _THUMBNAIL), mode="bilinear", antialias=True)
        small[start : start + _BLOCK] = of_block.flatten(1)
    return small


def probe(
    features: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    names: Sequence[str],
    *,
    seed: int = 0,
) -> Probe:
    """Fit and test a logistic regression of each finding on centred features, one penalty for all.

    Args:
        features: of the studies to fit to, `(S, P)`, and of those to test on, `(U, P)`.
        labels: findings of the same studies, `(S, N)` and `(U, N)` bool.
        names: of the N findings; one needs 10 positive studies to fit to and 4 to test on.
        seed: draws the folds.
    """
    enough = (labels[0].sum(0) >= _MIN_TRAIN) & (labels[1].sum(0) >= _MIN_TEST)
    y, y_test = (of_split[:, enough] for of_split in labels)
    kept = [name for name, is_kept in zip(names, enough, strict=True) if is_kept]
    if not kept:
        return Probe({}, PENALTIES[0])
    standardised = Standardisation.of(features[0])
    x, x_test = standardised(features[0]), standardised(features[1])
    scores = np.zeros(len(PENALTIES))
    for outside, logits in held_out(x, y, seed, "probe"):
        scores += [np.nanmean(_aucs(of_penalty, y[outside])) for of_penalty in logits]
    best = int(scores.argmax())
    weights = fit_path(x, torch.from_numpy(y).float())[best]
    aucs = _aucs((x_test @ weights).numpy(), y_test)
    return Probe(dict(zip(kept, aucs.tolist(), strict=True)), PENALTIES[best])


def _aucs(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.array([auc(s, y) for s, y in zip(scores.T, labels.T, strict=True)])
