"""Comparison of two methods, from a few runs of each on the same studies.

Studies and runs (seeds of training) are crossed random effects, as cases and readers are in reader
studies: Obuchowski and Rockette (1995), with each reader reading in only one modality (Hillis 2014,
section 5), since a run belongs to one method. The standard error thus covers another draw of
studies *and* other seeds; `benchmarks/level.py` checks the level by simulation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

from uar.core.errors import UserError
from uar.evaluation.metrics import Metric

LEVEL, POWER = 0.05, 0.8
Key = TypeVar("Key")  # names a metric


@dataclass(frozen=True)
class Comparison:
    """One metric of two methods: means over runs, and how certain their difference is.

    Attributes:
        a: the first method's mean.
        b: the second's.
        error: standard error of b - a, over studies and, where each has several runs, over runs.
        degrees: degrees of freedom of that error (Satterthwaite 1946).
        about_methods: whether each method has several runs; otherwise `error` is only over studies,
            for these runs, and there is no p-value.
    """

    a: float
    b: float
    error: float
    degrees: float
    about_methods: bool

    @property
    def difference(self) -> float:
        """b - a."""
        return self.b - self.a

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of b - a."""
        half = float(stats.t.ppf(1 - LEVEL / 2, self.degrees)) * self.error
        return self.difference - half, self.difference + half

    @property
    def p_value(self) -> float | None:
        """Two-sided p-value for equality of the methods; None if either has only one run."""
        if not self.about_methods:
            return None
        if self.error == 0:
            return 1.0 if self.difference == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.difference) / self.error, self.degrees))

    def detectable(self, tests: int = 1) -> float | None:
        """The smallest difference that 80 % of such comparisons would detect; None with one run.

        Args:
            tests: how many p-values are corrected together; assumes Bonferroni's correction, as
                Holm's is never less powerful.
        """
        if not self.about_methods:
            return None
        quantiles = stats.t.ppf([1 - LEVEL / 2 / tests, POWER], self.degrees)
        return float(quantiles.sum()) * self.error


def compare_methods(
    a: Mapping[Key, Sequence[Metric]], b: Mapping[Key, Sequence[Metric]]
) -> dict[Key, Comparison]:
    """Compare the two methods by every metric that both have.

    Args:
        a: metric name to one metric per run; study i is the same in all.
        b: the other method's, from as many runs or another number.

    Raises:
        UserError: no runs, or runs of different numbers of studies.
    """
    return {name: _compare(a[name], b[name]) for name in a if name in b}


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number: Holm's step-down procedure (1979).

    The k-th smallest of m p-values is multiplied by m - k + 1; no result is above 1 or below
    that of a smaller one. Rejecting those below 0.05 keeps the chance of a false one below 0.05.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.maximum.accumulate(np.asarray(p_values, float)[order] * factors)
    result = np.empty(len(order))
    result[order] = np.minimum(corrected, 1)
    return result.tolist()


def corrected_p(tests: Sequence[Comparison]) -> list[float | None]:
    """Holm-corrected p-values of a table's tests; None, and not counted, where a test has none."""
    values = [test.p_value for test in tests]
    corrected = iter(holm([value for value in values if value is not None]))
    return [None if value is None else next(corrected) for value in values]


def power(tests: Sequence[Comparison]) -> str:
    """The note under a table of tests: the smallest difference that it could have shown."""
    each = [least for test in tests if (least := test.detectable(len(tests))) is not None]
    if not each:
        return "A single run says nothing about its method: no p; the interval covers studies only."
    low, high = f"{min(each):.2g}", f"{max(each):.2g}"
    shown = low if low == high else f"{low} to {high}, by row"
    return f"Smallest difference that this table could have shown (80 % power, Holm): {shown}."


def _compare(a: Sequence[Metric], b: Sequence[Metric]) -> Comparison:
    counts = sorted({len(metric.statistics) for metric in (*a, *b)})
    if not a or not b or len(counts) != 1:
        raise UserError(
            f"runs of {' and '.join(map(str, counts)) or 'no'} studies: methods can only be "
            "compared by their predictions for the same studies"
        )
    [studies] = counts
    scores = [np.array([metric.value() for metric in runs]) for runs in (a, b)]
    influence = np.stack([_influence(metric) for metric in (*a, *b)])  # (R, N)
    covariance = influence @ influence.T / (studies * (studies - 1))
    weights = np.concatenate([np.full(len(a), -1 / len(a)), np.full(len(b), 1 / len(b))])
    about_methods = min(len(a), len(b)) > 1
    if about_methods:
        parts = [(of.var(ddof=1) / len(of), len(of) - 1) for of in scores]  # of each method's runs
        parts.append((max(_between_runs(covariance, len(a)), 0.0), studies - 1))
    else:
        parts = [(float(weights @ covariance @ weights), studies - 1)]
    total = sum(variance for variance, _ in parts)
    spread = sum(variance**2 / degrees for variance, degrees in parts)
    return Comparison(
        a=float(scores[0].mean()),
        b=float(scores[1].mean()),
        error=float(np.sqrt(total)),
        degrees=total**2 / spread if spread else float(studies - 1),
        about_methods=about_methods,
    )


def _influence(metric: Metric) -> np.ndarray:
    """Each study's influence on a score, by the jackknife, `(N,)`; of a mean: its deviations."""
    statistics = metric.statistics
    without = metric.of_sums(statistics.sum(axis=0) - statistics)
    return (len(statistics) - 1) * (without.mean() - without)


def _between_runs(covariance: np.ndarray, runs_of_a: int) -> float:
    """The studies' part of the variance of b - a: Cov2 of a and of b, minus twice Cov3.

    Args:
        covariance: of the runs' scores over studies, `(R, R)`, a's runs first.
        runs_of_a: how many runs are a's.
    """
    of_a, of_b = covariance[:runs_of_a, :runs_of_a], covariance[runs_of_a:, runs_of_a:]
    across = covariance[:runs_of_a, runs_of_a:].mean()
    within = sum((of.sum() - np.trace(of)) / (len(of) * (len(of) - 1)) for of in (of_a, of_b))
    return float(within - 2 * across)
