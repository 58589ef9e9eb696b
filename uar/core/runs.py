"""When and where training ran: one line per run, in a file outside version control.

Seconds and device differ between machines that compute the same numbers, so no output contains
them; the checkpoint's hash tells which run made it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One run of a training stage.

    Attributes:
        checkpoint: SHA-256 of the checkpoint it made.
        start: SHA-256 of the checkpoint it started from, if any.
        seconds: wall-clock time, including that of the checkpoint it started from; None: unknown.
        device: its name, in words.
        processes: how many trained together.
        finished: time stamp, ISO 8601, UTC.
    """

    checkpoint: str
    start: str | None
    seconds: float | None
    device: str
    processes: int
    finished: str


def record_run(path: Path, run: TrainingRun) -> None:
    """Append a run's line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def read_runs(path: Path) -> dict[str, TrainingRun]:
    """The last run of each checkpoint, by its hash; malformed lines are skipped."""
    runs: dict[str, TrainingRun] = {}
    if not path.is_file():
        return runs
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            run = TrainingRun(**json.loads(line))
        except (ValueError, TypeError):
            continue
        runs[run.checkpoint] = run
    return runs
