"""Whole files only: an output takes its name when it is complete."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uar.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    Its bytes are on the disk before it takes the name: a power cut leaves the old file or the new.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def give_name(file: Path, path: Path) -> None:
    """Make `path` another name of `file`, which stays: a kill right after loses nothing.

    A copy where the file system has no second names.
    """
    with atomic_write(path) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder, and return its new name; an earlier one of it goes."""
    aside = path.with_name(f"{path.name}.damaged")
    if aside.is_dir():
        shutil.rmtree(aside)
    os.replace(path, aside)
    return aside


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON."""
    with atomic_write(path) as temporary:
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
    with atomic_write(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet file. Raises UserError if it is absent or is none."""
    import pandas as pd  # half a second that `use` need not wait

    try:
        return pd.read_parquet(existing(path))
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no whole Parquet file ({error}). Restore it.") from None


def write_csv(path: Path, table: pd.DataFrame, **options: Any) -> None:
    """Write a CSV file in which no text, such as a study's id, is a formula to a spreadsheet.

    Args:
        options: of `pandas.DataFrame.to_csv`; without `index`, no index is written.
    """
    with atomic_write(path) as temporary:
        table.map(_no_formula).rename(index=_no_formula).to_csv(
            temporary, **{"index": False, **options}
        )


def _no_formula(value: Any) -> Any:
    """A text that a spreadsheet would compute, behind an apostrophe (OWASP's CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def open_array(path: Path) -> np.ndarray:
    """Memory-map a `.npy` file. Raises UserError if it is absent or is none."""
    import numpy as np

    try:
        array = np.load(existing(path), mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):  # of a ZIP archive numpy makes something else
            raise ValueError("an archive")
        return array
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no whole array of numbers ({error}). Restore it.") from None


def allocate(path: Path) -> None:
    """Take a sparse file's room on the disk now, so that a full disk is known before long work."""
    if hasattr(os, "posix_fallocate"):
        needed = path.stat().st_size
        try:
            with path.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, needed)
        except OSError as error:
            raise _no_room(error.errno, path, needed) from None


def require_room(path: Path, needed: int) -> None:
    """Refuse long work whose files the disk has no room for.

    Args:
        path: of the largest file, or of the folder.
        needed: bytes.

    Raises:
        OSError: fewer are free.
    """
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    if shutil.disk_usage(folder).free < needed:
        raise _no_room(errno.ENOSPC, path, needed)


def _no_room(number: int | None, path: Path, needed: int) -> OSError:
    number = number or errno.ENOSPC
    return OSError(number, f"{os.strerror(number)}, {needed:,} bytes are needed", str(path))


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hex; of a folder, over its files' names and hashes."""
    if path.is_dir():
        files = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
        lines = (f"{sha256(path / name)}  {name.as_posix()}\n" for name in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with existing(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def existing(path: Path) -> Path:
    """`path` itself. Raises UserError if no file is there."""
    if not path.is_file():
        raise UserError(f"{path} is missing. `dvc repro` makes it; `dvc pull` fetches it.")
    return path
