"""How far a score may be trusted: intervals, paired tests of two systems, many tests at once.

Studies are drawn anew, and with several runs of a system (seeds of its training) those as well.
Every run has the same studies, so the two are crossed and drawn independently of each other: the
pigeonhole bootstrap (Owen 2007). Scores of resamples come from per-study statistics
(`uar.evaluation.metrics.Metric`), exact for BLEU, METEOR, ROUGE-L and clinical F1. For CIDEr the
document frequencies stay those of the whole reference set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    return seeds_interval([metric], resamples=resamples, seed=seed, level=level)


def seeds_interval(
    runs: Sequence[Metric], *, resamples: int, seed: int, level: float = 0.95
) -> dict[str, float]:
    """The same of the mean score over runs, over studies and runs.

    With few runs it is too narrow, by about sqrt((R - 1) / R) of the runs' share of the spread.

    Args:
        runs: R metrics of the same N studies, one a training seed.
        resamples: draws of N studies, and of R runs, with replacement.
        seed: of the draws.
        level: share of resamples within the interval.

    Returns:
        `low` and `high`.

    Raises:
        UserError: no runs, or runs of different numbers of studies.
    """
    low, high = np.quantile(_resampled(runs, resamples, seed), [(1 - level) / 2, (1 + level) / 2])
    return {"low": float(low), "high": float(high)}


@dataclass(frozen=True)
class PairedTest:
    """Two systems' scores in one metric on the same studies, means over matched runs."""

    a: float  # the first system's mean
    b: float  # the second's
    low: float  # of the 95 % bootstrap interval of b - a, over studies and runs
    high: float
    p_value: float  # two-sided, approximate randomisation over studies
    same_sign: int  # runs whose own difference has the sign of b - a


def paired_test(
    a: Mapping[str, Sequence[Metric]],
    b: Mapping[str, Sequence[Metric]],
    *,
    resamples: int,
    seed: int,
) -> dict[str, PairedTest]:
    """Paired bootstrap and approximate randomisation for each metric.

    The interval is that of the difference over resamples, the same for both systems (Koehn 2004).
    The p-value is the share of random exchanges of the two systems' reports, study by study and in
    all matched runs at once, after which the mean scores differ at least as much as they do
    (Riezler and Maxwell 2005), one added to both counts: it is never below 1 / (resamples + 1). It
    is about studies, for these runs; what other seeds would do, the interval and `same_sign` say.

    Args:
        a: metric name to one metric a run; study i of all is the same.
        b: the other system's, its run r matched with a's. Metrics that only one has are left out.
        resamples: draws, and exchanges.
        seed: of both.

    Raises:
        UserError: a different number of studies or of runs.
    """
    return {name: _test_pair(a[name], b[name], resamples, seed) for name in a if name in b}


def _test_pair(a: Sequence[Metric], b: Sequence[Metric], resamples: int, seed: int) -> PairedTest:
    if len(a) != len(b):
        raise UserError(f"{len(a)} runs against {len(b)}: a paired test needs matched runs")
    drawn = _resampled(b, resamples, seed) - _resampled(a, resamples, seed)
    low, high = np.quantile(drawn, [0.025, 0.975])
    each = np.array([y.value() - x.value() for x, y in zip(a, b, strict=True)])
    difference = each.mean()
    exchanged = _exchanged(a, b, resamples, seed)
    # exchanges that change nothing give the same difference up to rounding
    extreme = (np.abs(exchanged) >= abs(difference) * (1 - 1e-9)).sum()
    return PairedTest(
        a=float(np.mean([metric.value() for metric in a])),
        b=float(np.mean([metric.value() for metric in b])),
        low=float(low),
        high=float(high),
        p_value=float(extreme + 1) / (resamples + 1),
        same_sign=int((np.sign(each) == np.sign(difference)).sum()),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number: Holm's step-down procedure (1979).

    Of m p-values the k-th smallest is multiplied by m - k + 1; none is below a smaller one's or
    above 1. Rejecting those below 0.05 keeps the chance of any false rejection below 0.05.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.maximum.accumulate(np.asarray(p_values, float)[order] * factors)
    result = np.empty(len(order))
    result[order] = np.minimum(corrected, 1)
    return result.tolist()


def _resampled(runs: Sequence[Metric], resamples: int, seed: int) -> np.ndarray:
    """Mean scores of `resamples` draws of studies and of runs."""
    studies = _studies(runs)
    generator, of_runs = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    even = np.full(studies, 1 / studies)
    drawn = []
    for size in _sizes(resamples):
        counts = generator.multinomial(studies, even, size=size).astype(float)
        each = np.stack([metric.of_resamples(counts) for metric in runs], axis=1)  # (size, R)
        shares = of_runs.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=size)
        drawn.append((each * shares).sum(axis=1) / len(runs))
    return np.concatenate(drawn)


def _exchanged(a: Sequence[Metric], b: Sequence[Metric], resamples: int, seed: int) -> np.ndarray:
    """Mean differences b - a after exchanging each study's systems with probability one half."""
    studies = _studies([*a, *b])
    generator = np.random.default_rng(seed)
    differences = []
    for size in _sizes(resamples):
        exchanges = generator.integers(0, 2, size=(size, studies)).astype(float)
        total = np.zeros(size)
        for one, other in zip(a, b, strict=True):
            moved = exchanges @ (other.statistics - one.statistics)
            total += other.of_sums(other.statistics.sum(axis=0) - moved)
            total -= one.of_sums(one.statistics.sum(axis=0) + moved)
        differences.append(total / len(a))
    return np.concatenate(differences)


def _studies(runs: Sequence[Metric]) -> int:
    counts = {len(metric.statistics) for metric in runs}
    if len(counts) != 1:
        raise UserError(
            f"{' against '.join(str(len(m.statistics)) for m in runs) or 'no'} studies: runs that "
            "are compared or averaged need predictions of the same studies"
        )
    return counts.pop()


def _sizes(resamples: int) -> list[int]:
    full, rest = divmod(resamples, _AT_ONCE)
    return [_AT_ONCE] * full + [rest] * (rest > 0)
