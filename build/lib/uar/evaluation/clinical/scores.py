"""Precision, recall and F1 of the observations that generated reports assert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from uar.core.errors import UserError
from uar.evaluation.clinical.labels import OBSERVATIONS, Label
from uar.evaluation.metrics import Metric

Uncertain = Literal["positive", "negative", "ignore"]


def clinical_metrics(
    reference: np.ndarray, generated: np.ndarray, uncertain: Uncertain
) -> dict[str, dict[str, Metric]]:
    """Clinical efficacy: the positive class of each observation, one-against-rest.

    Micro scores count all observations alike, macro scores average over the observations. A share
    of nothing is 0, so an observation that neither side ever asserts lowers the macro scores.

    Args:
        reference: labels `(N, C)` of the reference reports, values of `Label`.
        generated: labels of the generated ones, likewise.
        uncertain: what an uncertain label counts as; `ignore` leaves the study out of that
            observation's counts if either label is uncertain.

    Returns:
        `micro` and `macro`: `precision`, `recall` and `F1`; `F1`: each of `OBSERVATIONS`, where
        C is their number.

    Raises:
        UserError: labels of a different number of studies.
    """
    counts = confusion(reference, generated, uncertain)  # (N, C, 3)
    statistics = counts.reshape(len(counts), -1).astype(float)

    def metric(of_counts: Callable[[np.ndarray], np.ndarray]) -> Metric:
        return Metric(statistics, lambda sums: of_counts(sums.reshape(*sums.shape[:-1], -1, 3)))

    scores = {"precision": precision, "recall": recall, "F1": f1}
    return {
        "micro": {k: metric(lambda c, of=of: of(c.sum(axis=-2))) for k, of in scores.items()},
        "macro": {k: metric(lambda c, of=of: of(c).mean(axis=-1)) for k, of in scores.items()},
        "F1": {k: metric(lambda c, i=i: f1(c[..., i, :])) for i, k in enumerate(OBSERVATIONS)},
    }


def confusion(reference: np.ndarray, generated: np.ndarray, uncertain: Uncertain) -> np.ndarray:
    """True positives, false positives and false negatives `(N, C, 3)`, each 0 or 1."""
    if reference.shape != generated.shape:
        raise UserError(f"labels {reference.shape} of references, {generated.shape} of reports")
    positive = [Label.POSITIVE, Label.UNCERTAIN] if uncertain == "positive" else [Label.POSITIVE]
    true, said = np.isin(reference, positive), np.isin(generated, positive)
    counts = np.stack([true & said, ~true & said, true & ~said], axis=-1)
    if uncertain == "ignore":
        unsure = (reference == Label.UNCERTAIN) | (generated == Label.UNCERTAIN)
        counts &= ~unsure[..., None]
    return counts


def precision(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FP) of counts `(..., 3)`."""
    return _share(counts[..., 0], counts[..., 0] + counts[..., 1])


def recall(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FN) of counts `(..., 3)`."""
    return _share(counts[..., 0], counts[..., 0] + counts[..., 2])


def f1(counts: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of counts `(..., 3)`."""
    return _share(2 * counts[..., 0], 2 * counts[..., 0] + counts[..., 1] + counts[..., 2])


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.where(whole == 0, 1, whole)
