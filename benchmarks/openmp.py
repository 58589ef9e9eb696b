"""`python -m benchmarks.openmp`: how long torch's threads may spin while they wait.

A thread that waits actively takes the core from whoever has work: on a busy machine a step then
waits for threads that are not running. Real training steps under each setting, on the machine as
it is and beside as many working processes as it has cores.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.common import Comparison, row

SETTINGS = {
    "libgomp's default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"GOMP_SPINCOUNT={n}": {"GOMP_SPINCOUNT": str(n)} for n in (1000, 10_000, 100_000)},
}
PRESETS = ("demo", "iu_xray_small")
_SECONDS = 4.0  # of steps in a process
_ROUNDS = 1


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other processes that compute."""
    spin = [sys.executable, "-c", "while True: sum(range(10000))"]
    running = [subprocess.Popen(spin) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def step_seconds(preset: str, setting: dict[str, str]) -> float:
    """Seconds of a training step in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-m", "benchmarks.openmp", preset]
    done = subprocess.run(
        command, env=environment | setting, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def time_steps(preset: str) -> float:
    """Mean seconds of a real training step of a preset."""
    import torch

    from benchmarks.iu_xray import iu_xray_params
    from benchmarks.step import training_step

    step = training_step(iu_xray_params(preset), torch.device("cpu"), "float32")
    step()
    step()
    started, steps = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < _SECONDS:
        step()
        steps += 1
    return passed / steps


def main() -> None:
    """Every setting beside libgomp's default, in turns."""
    cores = os.cpu_count() or 1
    for preset in PRESETS:
        for others in (0, cores):
            with busy(others):
                rounds = [
                    {name: step_seconds(preset, s) for name, s in SETTINGS.items()}
                    for _ in range(_ROUNDS)
                ]
            medians = {name: statistics.median(r[name] for r in rounds) for name in SETTINGS}
            default, *_ = medians.values()
            for name, seconds in medians.items():
                beside = f"beside {others} busy processes" if others else "alone"
                row(f"step of {preset}, {beside}, {name}", Comparison(seconds, default))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(time_steps(sys.argv[1]))
    else:
        main()
