"""How well probabilities of findings tell who has them: AUC and micro F1."""

from __future__ import annotations

import numpy as np


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Probability that a positive outscores a negative, ties counted half; NaN without both.

    Args:
        scores: `(N,)`.
        labels: `(N,)` bool.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]  # of ties, their mean
    above = ranks[labels.astype(bool)].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def mean_auc(scores: np.ndarray, true: np.ndarray, at_least: int = 4) -> float:
    """Mean `auc` over the findings `(S, N)` that at least so many studies have; NaN if none."""
    each = [
        auc(scores[:, i], true[:, i]) for i in range(true.shape[1]) if true[:, i].sum() >= at_least
    ]
    return float(np.nanmean(each)) if each else float("nan")


def micro_f1(found: np.ndarray, true: np.ndarray) -> float:
    """2 TP / (found + true) over all studies and findings, `(S, N)` bool; 0 if there are none."""
    total = found.sum() + true.sum()
    return float(2 * (found & true).sum() / total) if total else 0.0
