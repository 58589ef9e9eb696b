"""How cases ended: a file from which an interrupted run resumes, and the table."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

from tests.conftest import ROOT
from tests.faults.forked import IDENTICAL, NOT_READ, REFUSED
from uar.core.files import sha256

GOOD = (IDENTICAL, REFUSED)


class Log:
    """How cases ended, kept in a file with a line each; those of other code do not count."""

    def __init__(self, path: Path | None) -> None:
        """Read what an interrupted run has left at `path`."""
        code = [ROOT / "params.yaml", ROOT / "dvc.yaml"]
        code += sorted(path for name in ("uar", "pipeline") for path in (ROOT / name).rglob("*.py"))
        self.identity = hashlib.sha256("".join(map(sha256, code)).encode()).hexdigest()[:12]
        self.path = path
        self.project = path and path.with_name(f"{path.name}-{self.identity}")
        self.endings: dict[tuple[str, str], tuple[str, float]] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                identity, kind, case, ended, seconds = json.loads(line)
                if identity == self.identity:
                    self.endings[kind, case] = (ended, seconds)

    def add(self, kind: str, case: str, ended: str, seconds: float) -> None:
        """Keep how a case ended, and print it at once if it is wrong."""
        self.endings[kind, case] = (ended, seconds)
        if ended not in (*GOOD, NOT_READ):
            print(f"{kind}: {case}: {ended}", file=sys.stderr, flush=True)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(
                    json.dumps([self.identity, kind, case, ended, round(seconds, 2)]) + "\n"
                )

    def failed(self) -> list[tuple[str, str]]:
        """Cases that did not end as they should."""
        return [case for case, (end, _) in self.endings.items() if end not in (*GOOD, NOT_READ)]

    def table(self) -> str:
        """A table with one row per kind."""
        lines = ["| kind | cases | identical | refused by a sentence | otherwise | s |"]
        lines += ["|---|---|---|---|---|---|"]
        for kind in dict.fromkeys(kind for kind, _ in self.endings):
            ends = [
                (e, s) for (k, _), (e, s) in self.endings.items() if k == kind and e != NOT_READ
            ]
            counts = Counter(e if e in GOOD else "otherwise" for e, _ in ends)
            columns = [len(ends), *(counts[name] for name in (*GOOD, "otherwise"))]
            columns.append(round(sum(seconds for _, seconds in ends)))
            lines.append(f"| {kind} | {' | '.join(map(str, columns))} |")
        total = sum(seconds for _, seconds in self.endings.values())
        return "\n".join([*lines, "", f"{total / 60:.0f} minutes in all"])
