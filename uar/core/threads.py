"""How the threads of numerical libraries wait and how many there are, said before these load."""

from __future__ import annotations

from collections.abc import MutableMapping


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Have torch's waiting threads spin for microseconds, unless the user has said how they wait.

    GNU's OpenMP lets them spin for milliseconds, which keeps the cores from other processes, as
    from a second experiment: a step beside them takes several times as long. With 5000 rounds
    it takes as long as with threads that sleep at once, and alone as long as by default
    (`python -m benchmarks.openmp`). OpenMP reads this when torch is loaded; processes that a stage
    starts inherit it.
    """
    if not environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        environment["GOMP_SPINCOUNT"] = "5000"
