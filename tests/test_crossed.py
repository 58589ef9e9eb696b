"""The test of two methods: by hand, against scipy, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.level import f1, nats, simulate
from tests.test_bootstrap import WORDS
from uar.core.errors import UserError
from uar.evaluation.bootstrap import bootstrap_interval
from uar.evaluation.crossed import Comparison, compare_methods, holm
from uar.evaluation.metrics import Metric, mean_of, text_metrics


def compared(a: np.ndarray, b: np.ndarray) -> Comparison:
    """Of scores `(R, N)`."""
    first, second = ([mean_of(run) for run in scores.tolist()] for scores in (a, b))
    return compare_methods({"m": first}, {"m": second})["m"]


def test_the_variance_is_that_of_runs_and_of_what_runs_share() -> None:
    """By plain loops over the runs of a method and over pairs of runs."""
    generator = np.random.default_rng(0)
    study = generator.normal(0, 1, 40)
    a = study + generator.normal(0, 0.2, (3, 40)) + generator.normal(0, 0.3, (3, 1))
    b = 0.3 * study + generator.normal(0, 0.5, (2, 40)) + generator.normal(1, 0.1, (2, 1))
    found = compared(a, b)

    def covariance(x: np.ndarray, y: np.ndarray) -> float:
        return float(((x - x.mean()) * (y - y.mean())).sum() / (40 - 1) / 40)

    of_runs = [scores.mean(axis=1).var(ddof=1) / len(scores) for scores in (a, b)]
    shared = np.mean([covariance(a[i], a[j]) for i in range(3) for j in range(3) if i != j])
    shared += np.mean([covariance(b[i], b[j]) for i in range(2) for j in range(2) if i != j])
    shared -= 2 * np.mean([covariance(x, y) for x in a for y in b])
    total = sum(of_runs) + shared
    assert (found.a, found.b) == pytest.approx((a.mean(), b.mean()))
    assert found.error == pytest.approx(np.sqrt(total))
    spread = of_runs[0] ** 2 / 2 + of_runs[1] ** 2 / 1 + shared**2 / 39
    assert found.degrees == pytest.approx(total**2 / spread)
    p_value = 2 * stats.t.sf(abs(b.mean() - a.mean()) / np.sqrt(total), total**2 / spread)
    assert found.p_value == pytest.approx(p_value)


def test_of_one_run_each_the_interval_is_the_paired_t_tests_and_there_is_no_p() -> None:
    generator = np.random.default_rng(1)
    a = generator.random((1, 60))
    b = a + generator.normal(0.1, 0.3, (1, 60))
    found = compared(a, b)
    theirs = stats.ttest_rel(b[0], a[0]).confidence_interval(0.95)
    assert found.interval == pytest.approx((theirs.low, theirs.high))
    assert found.p_value is None
    assert found.detectable() is None


def test_one_run_against_several_has_the_interval_of_their_mean_and_no_p() -> None:
    generator = np.random.default_rng(1)
    a = generator.random((1, 60))
    b = a + generator.normal(0.1, 0.3, (3, 60))
    found = compared(a, b)
    theirs = stats.ttest_rel(b.mean(axis=0), a[0]).confidence_interval(0.95)
    assert found.interval == pytest.approx((theirs.low, theirs.high))
    assert found.p_value is None


def test_of_one_study_shared_by_all_runs_it_is_the_two_sample_test_of_runs() -> None:
    """Where studies differ in nothing, only runs are a sample: Welch's test."""
    generator = np.random.default_rng(2)
    a, b = generator.normal(0, 1, (4, 1)), generator.normal(0.5, 2, (5, 1))
    found = compared(a.repeat(30, axis=1), b.repeat(30, axis=1))
    theirs = stats.ttest_ind(b[:, 0], a[:, 0], equal_var=False)
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert found.degrees == pytest.approx(theirs.df)


def test_exchanging_the_methods_changes_the_sign_alone() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.random((3, 50)), generator.random((4, 50)) + 0.05
    one, other = compared(a, b), compared(b, a)
    assert one.difference == pytest.approx(-other.difference)
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))
    assert one.p_value == pytest.approx(other.p_value)
    same = compared(a, a)
    assert (same.difference, same.p_value) == (0, 1)


def test_p_is_below_the_level_where_the_interval_leaves_zero_out() -> None:
    generator = np.random.default_rng(4)
    seen = set()
    for shift in (0.0, 0.2, 0.4, 0.8):
        found = compared(generator.normal(0, 1, (3, 80)), generator.normal(shift, 1, (3, 80)))
        assert found.p_value is not None
        low, high = found.interval
        assert (found.p_value < 0.05) == (low > 0 or high < 0)
        seen.add(found.p_value < 0.05)
    assert seen == {True, False}


def test_a_score_that_is_no_mean_has_the_bootstraps_error() -> None:
    """BLEU by the jackknife and by resampling."""
    generator = np.random.default_rng(5)
    references = [" ".join(generator.choice(WORDS, 12)) for _ in range(300)]
    candidates = [
        " ".join(w if generator.random() > 0.4 else generator.choice(WORDS) for w in text.split())
        for text in references
    ]
    bleu = text_metrics(references, candidates)["BLEU-4"]
    nothing = Metric(np.ones((300, 1)), lambda sums: 0 * sums[..., 0])
    found = compare_methods({"m": [nothing]}, {"m": [bleu]})["m"]
    theirs = bootstrap_interval(bleu, resamples=4000, seed=0)
    assert found.interval == pytest.approx((theirs["low"], theirs["high"]), abs=0.006)


def test_what_cannot_be_compared_is_left_out_or_refused() -> None:
    five, four = mean_of(list(range(5))), mean_of(list(range(4)))
    assert compare_methods({"m": [five], "n": [five]}, {"m": [five]}).keys() == {"m"}
    with pytest.raises(UserError, match="runs of 4 and 5 studies"):
        compare_methods({"m": [five]}, {"m": [four]})
    with pytest.raises(UserError, match="runs of no studies"):
        compare_methods({"m": []}, {"m": []})


@pytest.mark.parametrize("kind", [nats, f1])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("runs", [3, 5])
def test_equal_methods_are_called_different_one_time_in_twenty(
    runs: int, spread: float, kind: object
) -> None:
    """600 pairs: a rate of .05 has a standard error of .009. `benchmarks.level` has the table."""
    found = simulate(runs, spread, 600, seed=7, kind=kind)  # type: ignore[arg-type]
    assert found.crossed is not None
    assert 0.02 <= found.crossed <= 0.08


def test_one_run_each_would_be_called_different_far_too_often() -> None:
    """Why it has no p-value: its interval is over studies alone."""
    found = simulate(1, 1.0, 400, seed=8)
    assert found.crossed is None
    assert found.one_run > 0.15
    assert simulate(1, 0.0, 400, seed=8).one_run < 0.08


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    generator = np.random.default_rng(9)
    deviation, runs, studies = 0.3, 5, 100
    truth = Comparison(0, 0, np.sqrt(2 * (deviation**2 / runs)), 2 * (runs - 1), True)
    least = truth.detectable()
    assert least is not None
    told = 0
    for _ in range(400):
        a, b = (
            (shift + generator.normal(0, deviation, (runs, 1))).repeat(studies, axis=1)
            for shift in (0, least)
        )
        p_value = compared(a, b).p_value
        assert p_value is not None
        told += p_value < 0.05
    assert told / 400 == pytest.approx(0.8, abs=0.06)
    corrected = truth.detectable(tests=7)
    assert corrected is not None
    assert corrected > least


def test_holm_lies_between_hochberg_and_bonferroni() -> None:
    """By hand (Holm 1979), and never below scipy's Benjamini-Hochberg or above Bonferroni."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    values = np.random.default_rng(0).random(30) ** 3
    corrected = np.array(holm(values.tolist()))
    assert (corrected >= stats.false_discovery_control(values) - 1e-12).all()
    assert (corrected <= np.minimum(values * 30, 1) + 1e-12).all()
    assert (np.diff(corrected[np.argsort(values)]) >= 0).all()
