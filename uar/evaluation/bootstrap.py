"""How far a score may be trusted: intervals of one system, a paired test of two.

Studies are what is drawn anew; the model, its seed and its decoding stay. Scores of resamples come
from per-study statistics (`uar.evaluation.metrics.Metric`), exact for BLEU, METEOR, ROUGE-L and
clinical F1.
For CIDEr the document frequencies stay those of the whole reference set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from uar.core.errors import UserError
from uar.evaluation.metrics import Metric

_AT_ONCE = 250  # resamples; bounds the memory to that many rows of N counts


def bootstrap_interval(
    metric: Metric, *, resamples: int, seed: int, level: float = 0.95
) -> dict[str, float]:
    """Percentile bootstrap interval over studies (Efron and Tibshirani 1993, section 13.3).

    Metrics with equally many studies and the same seed see the same resamples.

    Args:
        metric: of N studies.
        resamples: how many corpora of N studies to draw with replacement.
        seed: of the draws.
        level: share of resamples within the interval.

    Returns:
        `low` and `high`.
    """
    scores = _resampled(metric, resamples, seed)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return {"low": float(low), "high": float(high)}


@dataclass(frozen=True)
class PairedTest:
    """Two systems' scores in one metric on the same studies."""

    a: float
    b: float
    low: float  # of the 95 % bootstrap interval of b - a
    high: float
    p_value: float  # two-sided, approximate randomisation


def paired_test(
    a: Mapping[str, Metric | None],
    b: Mapping[str, Metric | None],
    *,
    resamples: int,
    seed: int,
) -> dict[str, PairedTest | None]:
    """Paired bootstrap and approximate randomisation for each metric.

    The interval is that of the difference over resamples of studies, the same for both systems
    (Koehn 2004). The p-value is the share of random exchanges of the two systems' reports, study by
    study, after which the scores differ at least as much as they do (Riezler and Maxwell 2005),
    one added to both counts: it is never below 1 / (resamples + 1).

    Args:
        a: metric name to metric; study i of both is the same.
        b: the same metrics of the other system.
        resamples: draws, and exchanges.
        seed: of both.

    Returns:
        By metric name; None where either system has no such score.

    Raises:
        UserError: a different number of studies.
    """
    result: dict[str, PairedTest | None] = {}
    for name in a:
        one, other = a[name], b[name]
        result[name] = None
        if one is not None and other is not None:
            result[name] = _test_pair(one, other, resamples, seed)
    return result


def _test_pair(a: Metric, b: Metric, resamples: int, seed: int) -> PairedTest:
    if len(a.statistics) != len(b.statistics):
        raise UserError(
            f"{len(a.statistics)} studies against {len(b.statistics)}: a paired test needs two "
            "predictions of each study"
        )
    drawn = _resampled(b, resamples, seed) - _resampled(a, resamples, seed)
    low, high = np.quantile(drawn, [0.025, 0.975])
    difference = b.value() - a.value()
    exchanged = _exchanged(a, b, resamples, seed)
    # exchanges that change nothing give the same difference up to rounding
    extreme = (np.abs(exchanged) >= abs(difference) * (1 - 1e-9)).sum()
    return PairedTest(
        a=a.value(),
        b=b.value(),
        low=float(low),
        high=float(high),
        p_value=float(extreme + 1) / (resamples + 1),
    )


def _resampled(metric: Metric, resamples: int, seed: int) -> np.ndarray:
    """Scores of `resamples` corpora drawn with replacement."""
    generator = np.random.default_rng(seed)
    studies = len(metric.statistics)
    even = np.full(studies, 1 / studies)
    return np.concatenate(
        [
            metric.of_resamples(generator.multinomial(studies, even, size=size).astype(float))
            for size in _sizes(resamples)
        ]
    )


def _exchanged(a: Metric, b: Metric, resamples: int, seed: int) -> np.ndarray:
    """Differences b - a after exchanging each study's systems with probability one half."""
    generator = np.random.default_rng(seed)
    change = b.statistics - a.statistics
    sum_a, sum_b = a.statistics.sum(axis=0), b.statistics.sum(axis=0)
    differences = []
    for size in _sizes(resamples):
        moved = generator.integers(0, 2, size=(size, len(change))).astype(float) @ change
        differences.append(b.of_sums(sum_b - moved) - a.of_sums(sum_a + moved))
    return np.concatenate(differences)


def _sizes(resamples: int) -> list[int]:
    full, rest = divmod(resamples, _AT_ONCE)
    return [_AT_ONCE] * full + [rest] * (rest > 0)
