"""Intervals: against plain resampling, the normal one and scipy's."""

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from scipy import stats

from uar.evaluation.bootstrap import bootstrap_interval
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
