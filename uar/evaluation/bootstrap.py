"""How far the scores of one run can be trusted: intervals over studies.

Scores of resamples come from per-study statistics (`uar.evaluation.metrics.Metric`), exact for
BLEU, METEOR, ROUGE-L and clinical F1. For CIDEr the document frequencies stay those of the whole
reference set. Two methods are compared in `uar.evaluation.crossed`.
"""

from __future__ import annotations

import numpy as np

from uar.evaluation.metrics import Metric

_LEVEL = 0.95  # share of resamples within the interval
_AT_ONCE = 250  # resamples; bounds the memory to that many rows of N counts


def bootstrap_interval(metric: Metric, *, resamples: int, seed: int) -> dict[str, float]:
    """95 % percentile bootstrap interval over studies (Efron and Tibshirani 1993, section 13.3).

    Metrics with the same number of studies and the same seed see the same resamples.

    Args:
        metric: a score of N studies.
        resamples: how many corpora of N studies to draw with replacement.
        seed: fixes the draws.

    Returns:
        `low` and `high`.
    """
    studies = len(metric.statistics)
    generator, even = np.random.default_rng(seed), np.full(studies, 1 / studies)
    full, rest = divmod(resamples, _AT_ONCE)
    drawn = [
        metric.of_resamples(generator.multinomial(studies, even, size=size).astype(float))
        for size in [_AT_ONCE] * full + [rest] * (rest > 0)
    ]
    low, high = np.quantile(np.concatenate(drawn), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return {"low": float(low), "high": float(high)}
