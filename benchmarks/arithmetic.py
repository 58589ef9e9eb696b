"""`python -m benchmarks.arithmetic`: training steps in portable arithmetic, beside native ones.

Each kind is a process of its own, since libraries read their settings when they are loaded. They
take turns. `iu_xray_small` trains in bfloat16, which some CPUs have instructions for; portable
arithmetic multiplies it in float32.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from contextlib import ExitStack

from uar.core.arithmetic import PORTABLE, set_up, unsupported

ROUNDS = 5
STEPS = {"demo": 20, "iu_xray_small": 5}  # in a round
PRECISIONS = {"demo": ("float32",), "iu_xray_small": ("bfloat16", "float32")}


class Worker:
    """A process that takes rounds of training steps when it is asked to."""

    def __init__(self, arithmetic: str, preset: str, precision: str) -> None:
        plain = {key: value for key, value in os.environ.items() if key not in PORTABLE}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.arithmetic", arithmetic, preset, precision],
            env=plain,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round(self) -> float:
        """Seconds of one."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # its input ends, and it with it


def compare(preset: str, precisions: tuple[str, str]) -> tuple[float, float]:
    """Median seconds a step, native and portable, in these precisions."""
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(arithmetic, preset, precision))
            for arithmetic, precision in zip(("native", "portable"), precisions, strict=True)
        ]
        for worker in workers:
            worker.round()  # warm
        times = [[worker.round() for worker in workers] for _ in range(ROUNDS)]
    native, portable = zip(*times, strict=True)
    return statistics.median(native) / STEPS[preset], statistics.median(portable) / STEPS[preset]


def work(arithmetic: str, preset: str, precision: str) -> None:
    """A worker's process: for each line that is read, print the seconds of a round."""
    set_up(os.environ, arithmetic, 1)
    import torch

    from benchmarks.common import seconds
    from benchmarks.iu_xray import iu_xray_params
    from benchmarks.step import training_step

    if reason := set_up(os.environ, arithmetic, 1):
        raise SystemExit(reason)
    step = training_step(iu_xray_params(preset), torch.device("cpu"), precision)

    def steps() -> None:
        for _ in range(STEPS[preset]):
            step()

    for _ in sys.stdin:
        print(seconds(steps), flush=True)


def main() -> None:
    """One thread, as both presets have it."""
    from benchmarks.common import Comparison, row  # torch, which a worker must not have loaded yet

    if reason := unsupported():
        print(reason)
        return
    for preset, of in PRECISIONS.items():
        for precision in of:
            row(
                f"training step, {preset}, native {of[0]}, portable {precision}",
                Comparison(*compare(preset, (of[0], precision))),
                threads=1,
            )


if __name__ == "__main__":
    work(*sys.argv[1:]) if len(sys.argv) > 1 else main()
