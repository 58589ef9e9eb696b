"""How the threads of numerical libraries wait, set before the libraries are loaded."""

from __future__ import annotations

from collections.abc import MutableMapping


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Have torch's waiting threads spin for microseconds, unless the user has set how they wait.

    By default, GNU's OpenMP lets them spin for milliseconds, which denies the cores to other
    processes: with a second experiment on the machine, a step takes several times as long. With
    5000 rounds, such a step takes as long as if threads slept at once, and a step without a second
    experiment as long as by default (`python -m benchmarks.openmp`). OpenMP reads this when torch
    is loaded; processes that a stage starts inherit it.
    """
    if not environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        environment["GOMP_SPINCOUNT"] = "5000"
