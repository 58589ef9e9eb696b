"""Calibration of findings: their probabilities, and how often a written finding is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_BINS = 10
_STEPS, _RIDGE = 100, 1e-9  # of Newton's method
_LEAST = 1e-12  # smallest probability in a logarithm
_Z = 1.959964  # of a 95 % interval


class Scaling(NamedTuple):
    """What turns logits into probabilities: sigmoid(slope logit + shift)."""

    slope: float
    shift: float

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Turn logits of any shape into probabilities."""
        return np.asarray(1 / (1 + np.exp(-np.clip(self.slope * logits + self.shift, -80, 80))))

    def cross_entropy(self, logits: np.ndarray, true: np.ndarray) -> float:
        """Mean binary cross-entropy, in nats, of logits and bools of the same shape."""
        scaled = self.slope * logits + self.shift
        return float(np.mean(np.logaddexp(0, np.where(true, -scaled, scaled))))


AS_TRAINED = Scaling(1.0, 0.0)


def fit_scaling(logits: np.ndarray, true: np.ndarray) -> Scaling:
    """Fit the scaling of least cross-entropy (Platt 1999), with a slope between 1/20 and 20.

    All findings share one scaling, since most are too rare for one of their own. The shift undoes
    what oversampling studies with findings in training adds to every logit. With n true and m false
    findings, true ones count as (n + 1) / (n + 2) and false ones as 1 / (m + 2), so that the fit
    stays finite if the logits separate them. Newton's method is used, cross-entropy being convex.

    Args:
        logits: `(S, N)`, of studies that the model was not trained on.
        true: `(S, N)` bool.
    """
    x, n = logits.ravel().astype(np.float64), int(true.sum())
    target = np.where(true.ravel(), (n + 1) / (n + 2), 1 / (x.size - n + 2))
    ones, found = np.stack([x, np.ones_like(x)]), np.array([1.0, 0.0])
    for _ in range(_STEPS):
        likely = Scaling(*found).probabilities(x)
        slope = ones @ (likely - target)
        curvature = (ones * (likely * (1 - likely))) @ ones.T + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        found = found - step / max(1.0, np.abs(step).max())
    return Scaling(float(np.clip(found[0], 1 / 20, 20)), float(found[1]))


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


def calibration_of_probabilities(predicted: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """How well predicted probabilities agree with what is true.

    Args:
        predicted: of any shape.
        true: bool of the same shape.

    Returns:
        `cross_entropy` in nats, `brier` (mean squared error of the probability), `ece` (expected
        calibration error: mean over predictions of |observed - predicted| of their bin) and the
        bins of `reliability`.
    """
    bins = reliability(predicted, true)
    gaps = [b["count"] * abs(b["observed"] - b["predicted"]) for b in bins]
    likely = np.where(true, predicted, 1 - predicted)
    return {
        "cross_entropy": float(-np.log(np.maximum(likely, _LEAST)).mean()),
        "brier": float(np.mean((predicted - true) ** 2)),
        "ece": sum(gaps) / predicted.size,
        "bins": bins,
    }


def calibration(logits: np.ndarray, true: np.ndarray, scaling: Scaling) -> dict[str, Any]:
    """`calibration_of_probabilities` of the probabilities that a scaling makes from logits."""
    predicted = scaling.probabilities(logits)
    cross_entropy = scaling.cross_entropy(logits, true)  # from logits, exact however large
    return calibration_of_probabilities(predicted, true) | {"cross_entropy": cross_entropy}


def wilson(right: int, of: int) -> tuple[float, float]:
    """Wilson's (1927) 95 % score interval of a share; (0, 1) of no trials."""
    if not of:
        return 0.0, 1.0
    share, spread = right / of, _Z**2 / of
    middle = share + spread / 2
    half = _Z * ((share * (1 - share) + spread / 4) / of) ** 0.5
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return max(0.0, min(share, low)), min(1.0, max(share, high))  # keeps a share of 0 or 1 inside


def written_and_right(
    generated: np.ndarray, true: np.ndarray, names: Sequence[str]
) -> dict[str, list[int]]:
    """Count how many reports assert each finding rightly, and how many assert it at all.

    Args:
        generated: `(S, N)` bool, what the model's reports assert.
        true: `(S, N)` bool, what the references assert.
        names: of the N findings.
    """
    right, written = (generated & true).sum(axis=0), generated.sum(axis=0)
    return {n: [int(r), int(w)] for n, r, w in zip(names, right, written, strict=True)}
