"""When and where training ran: a line a run in a file that no version control holds.

Seconds and device differ between machines that compute the same numbers, so they are in no output;
the checkpoint's hash tells which run made it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One run of a training stage.

    Attributes:
        checkpoint: SHA-256 of what it made.
        start: SHA-256 of the checkpoint it started from, if any.
        seconds: by the clock, those of the checkpoint it started from included where known.
        device: in words.
        processes: that trained together.
        finished: time stamp, ISO 8601, UTC.
    """

    checkpoint: str
    start: str | None
    seconds: float | None
    device: str
    processes: int
    finished: str


def record_run(path: Path, run: Run) -> None:
    """Append a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def read_runs(path: Path) -> dict[str, Run]:
    """The last run of each checkpoint, by its hash; a line that is no run is passed over."""
    runs: dict[str, Run] = {}
    if not path.is_file():
        return runs
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            run = Run(**json.loads(line))
        except (ValueError, TypeError):
            continue
        runs[run.checkpoint] = run
    return runs
