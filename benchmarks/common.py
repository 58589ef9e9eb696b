"""What the benchmarks share: alternating rounds, a row of the table, a line about the machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from uar.core.device import describe


@dataclass(frozen=True)
class Comparison:
    """Median seconds of two ways to do the same thing, measured alternately."""

    fast: float
    slow: float

    @property
    def ratio(self) -> float:
        """How many times faster the fast way is."""
        return self.slow / self.fast


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call, including work queued on a GPU."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def time_both(
    fast: Callable[[], object], slow: Callable[[], object], rounds: int = 5, warmup: int = 1
) -> Comparison:
    """Time both in each of `rounds` rounds, so that a busy machine disturbs them alike.

    Args:
        warmup: untimed rounds first (for compilation and memory pools).
    """
    for _ in range(warmup):
        fast()
        slow()
    times = [(seconds(fast), seconds(slow)) for _ in range(rounds)]
    return Comparison(*(statistics.median(column) for column in zip(*times, strict=True)))


def row(name: str, comparison: Comparison, **more: object) -> None:
    """Print one row of the table: `| name | fast | reference | ratio | more |`."""
    notes = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in more.items())
    fast, slow = duration(comparison.fast), duration(comparison.slow)
    print(f"| {name} | {fast} | {slow} | {comparison.ratio:.2f} | {notes} |", flush=True)


def duration(value: float) -> str:
    """Format seconds in ms or s, whichever fits."""
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"


def machine(device: torch.device) -> str:
    """Device, threads and versions in one line."""
    return (
        f"{describe(device)} ({platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads), Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
