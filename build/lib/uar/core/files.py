"""Whole files only: an output takes its name when it is complete."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uar.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises UserError if the file is absent or malformed."""
    existing(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also numbers and nestings without end
        raise UserError(f"{path} is not valid JSON: {error}. Restore it.") from None


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a Parquet file."""
    with whole_file(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet file. Raises UserError if it is absent."""
    import pandas as pd  # half a second that `use` need not wait

    return pd.read_parquet(existing(path))


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hex."""
    with existing(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def existing(path: Path) -> Path:
    """`path` itself. Raises UserError if no file is there."""
    if not path.is_file():
        raise UserError(f"{path} is missing. `dvc repro` makes it; `dvc pull` fetches it.")
    return path
