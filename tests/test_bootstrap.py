"""Intervals and the paired test: against plain resampling, and what must hold of any test."""

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from scipy import stats

from uar.core.errors import UserError
from uar.evaluation.bootstrap import (
    PairedTest,
    bootstrap_interval,
    holm,
    paired_test,
    seeds_interval,
)
from uar.evaluation.metrics import Metric, text_metrics

WORDS = [
    "the",
    "heart",
    "is",
    "normal",
    "in",
    "size",
    "lungs",
    "are",
    "clear",
    "no",
    "effusion",
    "or",
    "pneumothorax",
    ".",
]


def texts(studies: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(4, 20))) for _ in range(studies)]


def perturbed(references: list[str], share: float, seed: int) -> list[str]:
    """References with a share of their words replaced."""
    generator = np.random.default_rng(seed)
    return [
        " ".join(
            generator.choice(WORDS) if generator.random() < share else word for word in text.split()
        )
        for text in references
    ]


def paired(a: Metric, b: Metric, resamples: int, seed: int) -> PairedTest:
    return paired_test({"m": [a]}, {"m": [b]}, resamples=resamples, seed=seed)["m"]


def mean_of(values: np.ndarray) -> Metric:
    statistics = np.stack([values, np.ones(len(values))], axis=1)
    return Metric(statistics, lambda sums: sums[..., 0] / sums[..., 1])


def test_interval_of_bleu_equals_plain_resampling() -> None:
    references = texts(40, seed=1)
    candidates = perturbed(references, 0.4, seed=2)
    resamples, seed = 50, 3

    scores = []
    generator = np.random.default_rng(seed)
    for counts in generator.multinomial(40, np.full(40, 1 / 40), size=resamples):
        rows = np.repeat(np.arange(40), counts)
        gts = {i: [references[row]] for i, row in enumerate(rows)}
        res = {i: [candidates[row]] for i, row in enumerate(rows)}
        scores.append(Bleu(4).compute_score(gts, res, verbose=0)[0])
    for n in range(4):
        low, high = np.quantile([score[n] for score in scores], [0.025, 0.975])
        metric = text_metrics(references, candidates)[f"BLEU-{n + 1}"]
        fast = bootstrap_interval(metric, resamples=resamples, seed=seed)
        assert fast == pytest.approx({"low": low, "high": high}, rel=1e-9)


def test_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(5, 2, size=400)
    half = 1.96 * values.std() / np.sqrt(400)
    bounds = bootstrap_interval(mean_of(values), resamples=4000, seed=0)
    assert bounds["low"] == pytest.approx(values.mean() - half, abs=0.02)
    assert bounds["high"] == pytest.approx(values.mean() + half, abs=0.02)


def test_interval_is_fixed_by_its_seed_and_narrows_with_studies() -> None:
    few, many = (mean_of(np.random.default_rng(1).random(n)) for n in (50, 5000))
    assert bootstrap_interval(few, resamples=300, seed=4) == bootstrap_interval(
        few, resamples=300, seed=4
    )
    assert bootstrap_interval(few, resamples=300, seed=4) != bootstrap_interval(
        few, resamples=300, seed=5
    )
    widths = [
        bounds["high"] - bounds["low"]
        for bounds in (bootstrap_interval(m, resamples=300, seed=4) for m in (few, many))
    ]
    assert widths[0] > 5 * widths[1]


def test_a_better_system_is_told_from_an_equal_one() -> None:
    references = texts(80, seed=5)
    good, worse, equal = (
        text_metrics(references, perturbed(references, share, seed))
        for share, seed in ((0.2, 6), (0.5, 7), (0.2, 8))
    )
    for name in good:
        better = paired(worse[name], good[name], 500, 0)
        assert better.p_value == pytest.approx(1 / 501)
        assert 0 < better.low < better.b - better.a < better.high
        assert paired(equal[name], good[name], 500, 0).p_value > 0.05
        same = paired(good[name], good[name], 500, 0)
        assert (same.low, same.high, same.p_value) == (0, 0, 1)


def test_exchanging_the_systems_changes_the_sign_alone() -> None:
    references = texts(60, seed=9)
    a, b = (text_metrics(references, perturbed(references, s, 10))["BLEU-4"] for s in (0.3, 0.35))
    one, other = (paired(*pair, 400, 1) for pair in ((a, b), (b, a)))
    assert (one.a, one.b) == (other.b, other.a)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p_value == pytest.approx(other.p_value)


def test_p_value_of_few_studies_is_the_exact_one() -> None:
    """Four studies have 16 exchanges; two of them differ as much as what was seen."""
    a, b = mean_of(np.zeros(4)), mean_of(np.array([1.0, 2.0, 3.0, 4.0]))
    result = paired(a, b, 20_000, 0)
    assert result.p_value == pytest.approx(2 / 16, abs=0.01)


def test_what_cannot_be_paired_is_left_out_or_refused() -> None:
    metric = mean_of(np.arange(5.0))
    assert paired_test(
        {"m": [metric], "n": [metric]}, {"m": [metric]}, resamples=10, seed=0
    ).keys() == {"m"}
    with pytest.raises(UserError, match="5 against 4 studies"):
        paired(metric, mean_of(np.arange(4.0)), 10, 0)
    with pytest.raises(UserError, match="1 runs against 2"):
        paired_test({"m": [metric]}, {"m": [metric] * 2}, resamples=10, seed=0)
    with pytest.raises(UserError, match="no studies"):
        seeds_interval([], resamples=10, seed=0)


# ---- against scipy


def test_the_interval_is_scipys() -> None:
    values = np.random.default_rng(3).gamma(2.0, size=120)
    found = bootstrap_interval(mean_of(values), resamples=20_000, seed=0)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    spread = values.std() / np.sqrt(120)
    assert found["low"] == pytest.approx(theirs.low, abs=0.05 * spread)
    assert found["high"] == pytest.approx(theirs.high, abs=0.05 * spread)


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.4])
def test_the_p_value_is_scipys(shift: float) -> None:
    generator = np.random.default_rng(4)
    a = generator.random(60)
    b = a + generator.normal(shift, 1.0, 60)
    theirs = stats.permutation_test(
        (a, b),
        lambda x, y: np.mean(y) - np.mean(x),
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).pvalue
    assert paired(mean_of(a), mean_of(b), 20_000, 0).p_value == pytest.approx(theirs, abs=0.015)


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


# ---- several runs


def test_runs_that_are_the_same_widen_nothing() -> None:
    metric = mean_of(np.random.default_rng(5).random(40))
    one = bootstrap_interval(metric, resamples=500, seed=2)
    three = seeds_interval([metric] * 3, resamples=500, seed=2)
    assert three == pytest.approx(one)
    other = mean_of(np.random.default_rng(6).random(40))
    single, many = (
        paired_test({"m": [metric] * n}, {"m": [other] * n}, resamples=500, seed=2)["m"]
        for n in (1, 3)
    )
    assert (single.low, single.high, single.p_value) == pytest.approx(
        (many.low, many.high, many.p_value)
    )
    assert (single.same_sign, many.same_sign) == (1, 3)


def test_the_interval_over_runs_and_studies_by_plain_loops() -> None:
    """Studies and runs drawn one by one; runs that differ widen what studies alone would give."""
    generator = np.random.default_rng(7)
    scores = generator.normal(0, 1, (4, 50)) + generator.normal(0, 0.5, (4, 1))
    drawn = []
    for _ in range(4000):
        runs, studies = generator.integers(0, 4, 4), generator.integers(0, 50, 50)
        drawn.append(scores[np.ix_(runs, studies)].mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = seeds_interval([mean_of(row) for row in scores], resamples=4000, seed=0)
    assert found["low"] == pytest.approx(low, abs=0.04)
    assert found["high"] == pytest.approx(high, abs=0.04)
    only_studies = bootstrap_interval(mean_of(scores.mean(axis=0)), resamples=4000, seed=0)
    assert found["high"] - found["low"] > 2 * (only_studies["high"] - only_studies["low"])


def test_runs_that_disagree_are_seen() -> None:
    generator = np.random.default_rng(8)
    a = [mean_of(generator.random(80)) for _ in range(3)]
    shifts = (0.9, 0.3, -0.6)
    b = [mean_of(m.statistics[:, 0] + shift) for m, shift in zip(a, shifts, strict=True)]
    result = paired_test({"m": a}, {"m": b}, resamples=1000, seed=0)["m"]
    assert result.b - result.a == pytest.approx(0.2)
    assert result.same_sign == 2
    assert result.low < 0 < result.high  # another draw of seeds may have turned it round
    assert result.p_value < 0.01  # though for these seeds it is no accident of the studies
