"""Calibration of findings, on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest

from uar.evaluation.calibration import (
    AS_TRAINED,
    Scaling,
    calibration,
    fit_scaling,
    reliability,
    wilson,
    written_and_right,
)


@pytest.mark.parametrize(("sharpness", "added"), [(0.4, 0.0), (1.0, 1.5), (3.0, -2.0)])
def test_the_scaling_is_that_of_least_entropy(sharpness: float, added: float) -> None:
    """Logits that are too large and shifted are put right, as by scipy's search."""
    rng = np.random.default_rng(0)
    honest = rng.normal(-1, 2, (4000, 3))
    true = rng.random(honest.shape) < AS_TRAINED.probabilities(honest)
    logits = sharpness * honest + added
    found = fit_scaling(logits, true)
    best = minimize(lambda p: Scaling(*p).cross_entropy(logits, true), [1.0, 0.0])
    assert found == pytest.approx(tuple(best.x), rel=5e-3, abs=5e-3)  # and Platt's targets
    assert found.slope == pytest.approx(1 / sharpness, rel=0.1)
    assert found.shift == pytest.approx(-added / sharpness, abs=0.15)
    calibrated, raw = (calibration(logits, true, scaling) for scaling in (found, AS_TRAINED))
    assert calibrated["ece"] <= raw["ece"] + 0.005


def test_logits_that_part_all_findings_get_a_finite_scaling() -> None:
    logits = np.array([[-3.0, -2], [2, 3]])
    found = fit_scaling(logits, logits > 0)
    assert 0 < found.slope < 5 and abs(found.shift) < 1
    steep = np.repeat([[-0.01], [0.01]], 500, axis=0)
    assert fit_scaling(steep, steep > 0).slope == 20  # the largest
    nothing = fit_scaling(logits, np.zeros_like(logits, bool))  # no finding at all
    assert nothing.probabilities(logits).max() < 0.6


def test_scores_by_hand() -> None:
    logits = np.log(np.array([[0.85 / 0.15, 0.85 / 0.15], [0.25 / 0.75, 0.25 / 0.75]]))
    true = np.array([[True, False], [False, False]])
    found = calibration(logits, true, AS_TRAINED)
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
