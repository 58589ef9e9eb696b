"""What becomes of the files that pydicom's package brings: `python -m tests.public_films`.

A table in docs/data.md, of pydicom's release in constraints.txt.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pydicom

from uar.core.errors import UserError
from uar.data.films import read_film

FOLDER = Path(pydicom.__file__).parent / "data"


def files() -> list[Path]:
    """DICOM files and directories; no text, table or archive."""
    return sorted(
        path
        for path in FOLDER.rglob("*")
        if path.is_file()
        and (path.suffix in (".dcm", "") and path.name not in ("README", "LICENSE"))
    )


def outcome(path: Path) -> str:
    """ "read", or why not, numbers left out."""
    try:
        read_film(path)
    except UserError as reason:
        why = str(reason).removeprefix(f"{path}: ").replace("MONOCHROME2", "grayscale")
        return re.sub(r"[\d,]+(?= frames| of [\d,]+ bytes)|(?<= of )[\d,]+(?= bytes)", "n", why)
    return "read"


def table() -> str:
    """Counted outcomes, the most frequent first, in Markdown."""
    counts = Counter(map(outcome, files()))
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    return "\n".join(["| outcome | files |", "|---|---|", *(f"| {why} | {n} |" for why, n in rows)])


if __name__ == "__main__":
    print(table())
