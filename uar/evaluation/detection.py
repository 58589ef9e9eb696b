"""How well probabilities of findings tell which studies have them: AUC, AP and micro F1."""

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
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]  # ties get their mean rank
    above = ranks[labels.astype(bool)].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the curve of precision over recall, as a sum of steps; NaN without positives.

    Args:
        scores: `(N,)`; ties are found together.
        labels: `(N,)` bool.
    """
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    found, hits = np.arange(1, len(labels) + 1), labels[order].cumsum()
    last = np.append(np.diff(scores[order]) != 0, True)  # the last of equal scores
    gained = np.diff(hits[last], prepend=0)
    return float((gained * hits[last] / found[last]).sum() / hits[-1])


def mean_auc(scores: np.ndarray, true: np.ndarray, at_least: int = 4) -> float:
    """Mean `auc` over the findings `(S, N)` that `at_least` or more studies have; NaN if none."""
    each = [
        auc(scores[:, i], true[:, i]) for i in range(true.shape[1]) if true[:, i].sum() >= at_least
    ]
    return float(np.nanmean(each)) if each else float("nan")


def micro_f1(found: np.ndarray, true: np.ndarray) -> float:
    """2 TP / (found + true) over all studies and findings, `(S, N)` bool; 0 if there are none."""
    total = found.sum() + true.sum()
    return float(2 * (found & true).sum() / total) if total else 0.0
