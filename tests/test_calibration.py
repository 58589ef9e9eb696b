"""Calibration of findings, on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from uar.evaluation.calibration import (
    calibration,
    cross_entropy,
    fit_temperature,
    probabilities,
    reliability,
    wilson,
    written_and_right,
)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_is_that_of_least_entropy(sharpness: float) -> None:
    """Logits `sharpness` times too large get about that temperature, as scipy's search does."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (4000, 3))
    true = rng.random(honest.shape) < probabilities(honest, 1.0)
    logits = sharpness * honest
    found = fit_temperature(logits, true)
    best = minimize_scalar(
        lambda t: cross_entropy(logits, true, t), bounds=(0.05, 20), method="bounded"
    )
    assert found == pytest.approx(best.x, rel=1e-3)
    assert found == pytest.approx(sharpness, rel=0.1)
    assert calibration(logits, true, found)["ece"] <= calibration(logits, true, 1.0)["ece"] + 0.005


def test_scores_by_hand() -> None:
    logits = np.log(np.array([[0.85 / 0.15, 0.85 / 0.15], [0.25 / 0.75, 0.25 / 0.75]]))
    true = np.array([[True, False], [False, False]])
    found = calibration(logits, true, 1.0)
    assert found["brier"] == pytest.approx((0.15**2 + 0.85**2 + 2 * 0.25**2) / 4)
    assert found["ece"] == pytest.approx((2 * abs(0.5 - 0.85) + 2 * 0.25) / 4)
    assert found["cross_entropy"] == pytest.approx(
        -(np.log(0.85) + np.log(0.15) + 2 * np.log(0.75)) / 4
    )
    assert [(b["from"], b["count"], b["observed"]) for b in found["bins"]] == [
        (0.2, 2, 0.0),
        (0.8, 2, 0.5),
    ]


def test_the_last_bin_holds_certainty() -> None:
    [last] = reliability(np.array([1.0, 0.95]), np.array([True, True]))
    assert (last["from"], last["count"], last["observed"]) == (0.9, 2, 1.0)


@pytest.mark.parametrize(
    ("right", "of"),
    [(9, 20), (0, 5), (5, 5), (1, 100), (0, 2), (0, 16), (20, 20), (1, 2), (7, 16), (1, 1)],
)
def test_wilsons_interval_is_scipys_and_holds_the_share(right: int, of: int) -> None:
    expected = binomtest(right, of).proportion_ci(method="wilson")
    low, high = wilson(right, of)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert low <= right / of <= high


def test_nothing_counted_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_written_findings_are_counted() -> None:
    written = np.array([[True, False], [True, False], [True, True]])
    true = np.array([[True, True], [False, False], [True, False]])
    assert written_and_right(written, true, ["Edema", "Fracture"]) == {
        "Edema": [2, 3],
        "Fracture": [0, 1],
    }
