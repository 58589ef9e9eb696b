"""`python -m tests.public_films`: whether the files in pydicom's package are read, or why not.

The table is in docs/data.md, for pydicom's release in constraints.txt.
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
    """DICOM files and DICOM directories, but no texts, tables or archives."""
    return sorted(
        path
        for path in FOLDER.rglob("*")
        if path.is_file()
        and (path.suffix in (".dcm", "") and path.name not in ("README", "LICENSE"))
    )


def outcome(path: Path) -> str:
    """Return "read", or why a file is refused, with numbers left out."""
    try:
        read_film(path)
    except UserError as reason:
        why = str(reason).removeprefix(f"{path}: ").replace("MONOCHROME2", "grayscale")
        return re.sub(r"[\d,]+(?= frames| of [\d,]+ bytes)|(?<= of )[\d,]+(?= bytes)", "n", why)
    return "read"


def table() -> str:
    """A Markdown table of the counted outcomes, the most frequent first."""
    counts = Counter(map(outcome, files()))
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    return "\n".join(["| outcome | files |", "|---|---|", *(f"| {why} | {n} |" for why, n in rows)])


if __name__ == "__main__":
    print(table())
