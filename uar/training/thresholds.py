"""The probabilities above which findings count as present."""

from __future__ import annotations

import numpy as np

from uar.evaluation.detection import micro_f1

_SHARES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
_ROUNDS = 2


def best_thresholds(scores: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, float]:
    """Choose thresholds, one per finding, for a high micro F1; return them and that F1.

    By coordinate ascent: each finding in turn, twice, takes the best quantile of its own scores, or
    1.01, which no score exceeds. A finding counts as present where its score exceeds its threshold.

    Args:
        scores: `(S, N)` in [0, 1].
        true: `(S, N)` bool.
    """
    thresholds = np.full(scores.shape[1], 1.01)
    for _ in range(_ROUNDS):
        for i in range(len(thresholds)):
            values = []
            for candidate in (1.01, *np.quantile(scores[:, i], _SHARES)):
                thresholds[i] = candidate
                values.append((micro_f1(scores > thresholds, true), candidate))
            thresholds[i] = max(values)[1]
    return thresholds.astype(np.float32), micro_f1(scores > thresholds, true)
