"""`python -m benchmarks`: run every benchmark and write their table to benchmarks/README.md."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

from benchmarks.common import machine
from uar.core.device import resolve_device
from uar.core.files import atomic_write

MODULES = (
    "cra",
    "generation",
    "step",
    "openmp",
    "arithmetic",
    "tokenization",
    "distributed",
    "ingest",
    "scaling",
)
README = Path(__file__).parent / "README.md"
HEAD = "| | fast | reference | ratio | |\n|---|---|---|---|---|\n"


def run(module: str) -> str:
    """Run a benchmark, show its output, and return the table rows in it."""
    command = [sys.executable, "-m", f"benchmarks.{module}"]
    print("$ python -m", command[-1], flush=True)
    rows = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("| "):
                rows.append(line)
    if process.returncode:
        raise SystemExit(f"benchmarks.{module} failed with exit status {process.returncode}")
    return "".join(rows)


def with_table(text: str, kind: str, table: str) -> str:
    """`text` with `table` put between the markers for a kind of device."""
    begin, end = f"<!-- {kind}: begin -->", f"<!-- {kind}: end -->"
    if begin not in text or end not in text:
        raise SystemExit(f"{README} has no place for this table: add {begin} and {end}\n\n{table}")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{table}{end}{rest.partition(end)[2]}"


def main() -> None:
    """Run all benchmarks, then replace the table for this kind of device."""
    device = resolve_device("auto")
    rows = "".join(run(module) for module in MODULES)
    table = f"`make bench`, {date.today()}, {machine(device)}:\n\n{HEAD}{rows}"
    text = with_table(README.read_text(encoding="utf-8"), device.type, table)
    with atomic_write(README) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{README} has the new table")


if __name__ == "__main__":
    main()
