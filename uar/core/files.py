"""Whole files only: an output takes its name when it is complete."""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator
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
    Each writer has a name of its own, so that of two at once each leaves a whole file; what a
    killed one of this machine has left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
    for left in path.parent.glob(f".{glob.escape(path.name)}.{machine}-*.partial"):
        if not _lives(left.name.rpartition(f".{machine}-")[2].partition("-")[0]):
            left.unlink(missing_ok=True)
    own = f"{machine}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{own}.partial")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        for check in _BEFORE_NAMING:
            check()
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or os.fsdecode(error.filename) == str(temporary):
            error.filename = str(path)  # a full disk names no file, and the temporary one is ours
        raise
    finally:
        temporary.unlink(missing_ok=True)


def before_naming(check: Callable[[], None]) -> None:
    """Have `check` called before any output of this process takes its name."""
    _BEFORE_NAMING.append(check)


_BEFORE_NAMING: list[Callable[[], None]] = []


def _lives(pid: str) -> bool:
    """Whether a process of this id is there, of anybody."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


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
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


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


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a Parquet file, or some of its columns. Raises UserError if it is absent or is none."""
    import pandas as pd  # half a second that `use` need not wait

    try:
        return pd.read_parquet(existing(path), columns=columns)
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        if isinstance(error, UserError) or getattr(error, "errno", None):
            raise
        raise UserError(f"{path} is no whole Parquet file ({error}). Restore it.") from None


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The header of a CSV file, and its rows by the header's names.

    Raises:
        UserError: the file is absent, is no UTF-8 CSV, or a row has other cells than the header.
    """
    with existing(path).open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        rows: list[dict[str, str]] = []
        try:
            header = next(reader, [])
            for cells in filter(None, reader):
                if len(cells) != len(header):
                    raise UserError(
                        f"{path}: row {len(rows) + 1}, which ends in line {reader.line_num}: "
                        f"{len(cells)} cells found, {len(header)} expected; put cells that hold "
                        "commas in double quotes"
                    )
                rows.append(dict(zip(header, cells, strict=True)))
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
            ) from None
        except csv.Error as error:
            raise UserError(
                f"{path}: row {len(rows) + 1}, line {reader.line_num}: {error}. Restore the file."
            ) from None
    return header, rows


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
        if isinstance(error, UserError) or getattr(error, "errno", None):
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
