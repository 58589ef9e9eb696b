"""`python -m benchmarks.openmp`: how long torch's threads may spin while they wait.

A spinning thread keeps its core from whoever has work: on a busy machine, a step then waits for
threads that are not running. Real training steps are run under each setting in turn, with the
machine as it is and next to as many computing processes as it has cores.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks.common import Comparison, row

SETTINGS = {
    "libgomp's default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"GOMP_SPINCOUNT={n}": {"GOMP_SPINCOUNT": str(n)} for n in (1000, 5000, 10_000)},
}
PRESETS = ("demo", "iu_xray_small")
_SECONDS = 2.0  # of steps per turn
_ROUNDS = 3


class Stepper:
    """A separate process that takes real training steps under a setting on request."""

    def __init__(self, preset: str, setting: Mapping[str, str]) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.openmp", preset],
            env={**environment, **setting},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.step_seconds(0)  # warm

    def step_seconds(self, seconds: float = _SECONDS) -> float:
        """Take a turn's steps and return their mean wall time."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(seconds, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def take_turns(preset: str) -> None:
    """Run as a stepper: for each line of standard input, take steps for that many seconds."""
    import torch

    from benchmarks.iu_xray import iu_xray_params
    from benchmarks.step import training_step

    step = training_step(iu_xray_params(preset), torch.device("cpu"), "float32")
    step()
    for line in sys.stdin:
        started, steps, passed = time.perf_counter(), 0, 0.0
        while steps == 0 or passed < float(line):
            step()
            steps += 1
            passed = time.perf_counter() - started
        print(passed / steps, flush=True)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Run other processes that compute all the time."""
    spin = [sys.executable, "-c", "while True: sum(range(10000))"]
    running = [subprocess.Popen(spin) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    """Compare every setting with libgomp's default."""
    cores = os.cpu_count() or 1
    for preset in PRESETS:
        steppers = {name: Stepper(preset, setting) for name, setting in SETTINGS.items()}
        for others in (0, cores):
            with busy(others):
                rounds = [
                    {name: stepper.step_seconds() for name, stepper in steppers.items()}
                    for _ in range(_ROUNDS)
                ]
            medians = {name: statistics.median(r[name] for r in rounds) for name in SETTINGS}
            default = medians["libgomp's default"]
            beside = f"beside {others} busy processes" if others else "alone"
            for name, seconds in medians.items():
                row(f"step of {preset}, {beside}, {name}", Comparison(seconds, default))
        for stepper in steppers.values():
            stepper.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take_turns(sys.argv[1])
    else:
        main()
