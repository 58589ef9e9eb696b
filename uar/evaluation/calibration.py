"""Calibration of findings: their probabilities, and how often a written one is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_BINS = 10
_GOLDEN = (5**0.5 - 1) / 2
_Z = 1.959964  # of a 95 % interval


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """sigmoid(logit / T), of any shape."""
    scaled = np.clip(logits / temperature, -80, 80)
    return 1 / (1 + np.exp(-scaled))


def cross_entropy(logits: np.ndarray, true: np.ndarray, temperature: float) -> float:
    """Mean binary cross-entropy, nats, of logits and bool of one shape."""
    scaled = logits / temperature
    return float(np.mean(np.logaddexp(0, np.where(true, -scaled, scaled))))


def fit_temperature(logits: np.ndarray, true: np.ndarray) -> float:
    """T of least `cross_entropy` (Guo et al. 2017, section 4.2), between 1/20 and 20.

    One for all findings, since most are too rare for one of their own. The entropy is convex in
    1/T and so has one minimum, which a golden-section search finds.

    Args:
        logits: `(S, N)`, of studies that the model was not trained on.
        true: `(S, N)` bool.
    """
    low, high = 1 / 20, 20.0  # of 1/T
    for _ in range(60):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if cross_entropy(logits, true, 1 / left) <= cross_entropy(logits, true, 1 / right):
            high = right
        else:
            low = left
    return 2 / (low + high)


def reliability(predicted: np.ndarray, true: np.ndarray) -> list[dict[str, Any]]:
    """Ten equal bins of probability: how many predictions, their mean, and the share that is true.

    Args:
        predicted: probabilities of any shape.
        true: bool of the same shape.
    """
    flat, hit = predicted.ravel(), true.ravel()
    bins = np.minimum((flat * _BINS).astype(int), _BINS - 1)
    return [
        {
            "from": i / _BINS,
            "count": int((bins == i).sum()),
            "predicted": float(flat[bins == i].mean()),
            "observed": float(hit[bins == i].mean()),
        }
        for i in range(_BINS)
        if (bins == i).any()
    ]


def calibration(logits: np.ndarray, true: np.ndarray, temperature: float) -> dict[str, Any]:
    """Calibration of all findings together, at a temperature.

    Returns:
        `cross_entropy` in nats, `brier` (mean squared error of the probability), `ece` (expected
        calibration error: mean over predictions of |observed - predicted| of their bin) and the
        bins of `reliability`.
    """
    predicted = probabilities(logits, temperature)
    bins = reliability(predicted, true)
    gaps = [b["count"] * abs(b["observed"] - b["predicted"]) for b in bins]
    return {
        "cross_entropy": cross_entropy(logits, true, temperature),
        "brier": float(np.mean((predicted - true) ** 2)),
        "ece": sum(gaps) / predicted.size,
        "bins": bins,
    }


def wilson(right: int, of: int) -> tuple[float, float]:
    """95 % interval of a share by Wilson's score (1927); (0, 1) of nothing."""
    if not of:
        return 0.0, 1.0
    share, spread = right / of, _Z**2 / of
    middle = share + spread / 2
    half = _Z * ((share * (1 - share) + spread / 4) / of) ** 0.5
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return max(0.0, min(share, low)), min(1.0, max(share, high))  # of 0 and 1, despite rounding


def written_and_right(
    generated: np.ndarray, true: np.ndarray, names: Sequence[str]
) -> dict[str, list[int]]:
    """Of each finding, how many reports assert it, rightly, and how many in all.

    Args:
        generated: `(S, N)` bool, what the model's reports assert.
        true: `(S, N)` bool, what the references assert.
        names: of the N findings.
    """
    right, written = (generated & true).sum(axis=0), generated.sum(axis=0)
    return {n: [int(r), int(w)] for n, r, w in zip(names, right, written, strict=True)}
