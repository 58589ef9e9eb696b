"""Intervals and the paired test: against plain resampling, and what must hold of any test."""

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu

from uar.core.errors import UserError
from uar.evaluation.bootstrap import bootstrap_interval, paired_test
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
        better = paired_test(worse, good, resamples=500, seed=0)[name]
        assert better.p_value == pytest.approx(1 / 501)
        assert 0 < better.low < better.b - better.a < better.high
        assert paired_test(equal, good, resamples=500, seed=0)[name].p_value > 0.05
        same = paired_test(good, good, resamples=500, seed=0)[name]
        assert (same.low, same.high, same.p_value) == (0, 0, 1)


def test_exchanging_the_systems_changes_the_sign_alone() -> None:
    references = texts(60, seed=9)
    a, b = (text_metrics(references, perturbed(references, s, 10)) for s in (0.3, 0.35))
    one, other = (paired_test(*pair, resamples=400, seed=1)["BLEU-4"] for pair in ((a, b), (b, a)))
    assert (one.a, one.b) == (other.b, other.a)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p_value == pytest.approx(other.p_value)


def test_p_value_of_few_studies_is_the_exact_one() -> None:
    """Four studies have 16 exchanges; two of them differ as much as what was seen."""
    a, b = mean_of(np.zeros(4)), mean_of(np.array([1.0, 2.0, 3.0, 4.0]))
    result = paired_test({"m": a}, {"m": b}, resamples=20_000, seed=0)["m"]
    assert result.p_value == pytest.approx(2 / 16, abs=0.01)


def test_a_missing_score_stays_missing_and_other_studies_are_refused() -> None:
    metric = mean_of(np.arange(5.0))
    assert paired_test({"m": None}, {"m": metric}, resamples=10, seed=0) == {"m": None}
    with pytest.raises(UserError, match="5 studies against 4"):
        paired_test({"m": metric}, {"m": mean_of(np.arange(4.0))}, resamples=10, seed=0)
