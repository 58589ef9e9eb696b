"""`python -m benchmarks.level`: how often equal methods are called "different" at p < 0.05.

Runs of two equal methods are simulated: each study has a score, to which each method adds a value
per study, and each run (training seed) one shift for all studies and a value per study. The spread
of runs is in standard errors of the difference over studies. `uar.evaluation.crossed` claims 5 %.
How often the interval over studies, of one run each, excludes 0 shows why one run has no p-value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from uar.evaluation.crossed import LEVEL, compare_methods
from uar.evaluation.metrics import Metric, mean_of

RUNS = (1, 3, 5)
SPREADS = (0.0, 0.5, 1.0, 2.0, 4.0)
STUDIES = 180
Kind = Callable[[np.ndarray], Metric]  # from simulated scores (N,) to a metric


class Shares(NamedTuple):
    """Shares of `repeats` pairs of equal methods that are called different."""

    crossed: float | None  # None: no p-value is given
    one_run: float  # by an interval over studies that excludes 0


def nats(scores: np.ndarray) -> Metric:
    """A mean over studies."""
    return mean_of(scores.tolist())


def f1(scores: np.ndarray) -> Metric:
    """A ratio of sums like F1: every second study has a finding; a score above 0 is right."""
    right, found = scores > 0, np.arange(len(scores)) % 2 == 0
    counts = np.stack([right & found, ~right & ~found, ~right & found], axis=1).astype(float)
    return Metric(counts, lambda s: 2 * s[..., 0] / (2 * s[..., 0] + s[..., 1] + s[..., 2]))


def simulate(runs: int, spread: float, repeats: int, seed: int, kind: Kind = nats) -> Shares:
    """Compare two equal methods of `runs` runs each, `repeats` times.

    Args:
        spread: standard deviation of runs, in standard errors of the difference over studies.
    """
    generator = np.random.default_rng(seed)
    error = np.sqrt(2 / STUDIES)  # of methods that each deviate by 1 on a study
    crossed = alone = 0
    for _ in range(repeats):
        study = generator.normal(0, 2, STUDIES)
        methods = []
        for _ in range(2):
            own = study + generator.normal(0, 1, STUDIES)
            shifts = generator.normal(0, spread * error, (runs, 1))
            scores = own + shifts + generator.normal(0, 1, (runs, STUDIES))
            methods.append([kind(of_run) for of_run in scores])
        p_value = compare_methods({"": methods[0]}, {"": methods[1]})[""].p_value
        crossed += p_value is not None and p_value < LEVEL
        first = compare_methods({"": methods[0][:1]}, {"": methods[1][:1]})[""]  # over studies
        alone += first.interval[0] > 0 or first.interval[1] < 0
    return Shares(crossed / repeats if runs > 1 else None, alone / repeats)


def main(repeats: int = 2000) -> None:
    """Print a table for each kind of metric."""
    for kind in (nats, f1):
        print(f"\n{kind.__name__}, {STUDIES} studies, {repeats} pairs of equal methods a cell\n")
        print(
            "| runs | spread of runs | p < .05 | one run's interval without 0 |\n|---|---|---|---|"
        )
        for runs in RUNS:
            for spread in SPREADS:
                found = simulate(runs, spread, repeats, seed=0, kind=kind)
                crossed = "no p" if found.crossed is None else f"{found.crossed:.3f}"
                print(f"| {runs} | {spread:g} | {crossed} | {found.one_run:.3f} |", flush=True)


if __name__ == "__main__":
    main()
