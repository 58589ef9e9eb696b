"""`python -m benchmarks.arithmetic`: training steps in portable and in native arithmetic.

Each kind runs in its own process, since libraries read their settings when they are loaded; the
processes take turns. `iu_xray_small` trains in bfloat16, for which some CPUs have instructions;
portable arithmetic multiplies it in float32.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from contextlib import ExitStack

from uar.core.arithmetic import PORTABLE, set_up, unsupported

ROUNDS = 5
STEPS = {"demo": 20, "iu_xray_small": 5}  # per round
PRECISIONS = {"demo": ("float32",), "iu_xray_small": ("bfloat16", "float32")}


class Worker:
    """A process that runs a round of training steps on request."""

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
        """Run one round and return its seconds."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input, which ends it


def compare(preset: str, precisions: tuple[str, str]) -> tuple[float, float]:
    """Median seconds per step, native and portable, in these precisions."""
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
    """Run as a worker: for each line of standard input, print the seconds of a round."""
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
    """Print the rows, measured with one thread, as in both presets."""
    from benchmarks.common import Comparison, row  # loads torch, too early for a worker

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
