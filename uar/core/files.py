"""Reading and writing files; an output takes its name only once it is complete."""

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
    """Yield a temporary path in `path`'s folder; rename it to `path` if the block succeeds.

    The bytes are on disk before the rename: a power cut leaves either the old file or the new one.
    Two processes writing the same file at once use different temporary names, so that either result
    is whole. Temporary files that killed processes left behind on this machine are removed.
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
            error.filename = str(path)  # a full disk names no file; the temporary one is internal
        raise
    finally:
        temporary.unlink(missing_ok=True)


def before_naming(check: Callable[[], None]) -> None:
    """Register `check` to be called before each output of this process takes its name."""
    _BEFORE_NAMING.append(check)


_BEFORE_NAMING: list[Callable[[], None]] = []


def _lives(pid: str) -> bool:
    """Whether a process with this id is running, whoever owns it."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def give_name(file: Path, path: Path) -> None:
    """Make `path` a hard link to `file`, which stays, so that a kill right after loses nothing.

    On a file system without hard links, `path` is a copy.
    """
    with atomic_write(path) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to `NAME.damaged`, replacing an earlier one.

    Returns:
        The new path.
    """
    aside = path.with_name(f"{path.name}.damaged")
    if aside.is_dir():
        shutil.rmtree(aside)
    os.replace(path, aside)
    return aside


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises UserError if the file is absent or malformed."""
    existing(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also from overlong numbers and deep nesting
        raise UserError(f"{path} is not valid JSON: {error}. Restore it.") from None


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a Parquet file."""
    with atomic_write(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet file. Raises UserError if it is absent or damaged."""
    import pandas as pd  # half a second, which `pipeline use` is spared

    try:
        return pd.read_parquet(existing(path))
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        if isinstance(error, UserError) or getattr(error, "errno", None):
            raise
        raise UserError(f"{path} is not a complete Parquet file ({error}). Restore it.") from None


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV file: its header, and its rows as mappings from the header's names to cells.

    Raises:
        UserError: the file is absent, is not CSV in UTF-8, or a row has more or fewer cells than
            the header.
    """
    with existing(path).open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        rows: list[dict[str, str]] = []
        try:
            header = next(reader, [])
            for cells in filter(None, reader):
                if len(cells) != len(header):
                    raise UserError(
                        f"{path}: row {len(rows) + 1}, which ends on line {reader.line_num}: "
                        f"found {len(cells)} cells, expected {len(header)}; put cells that contain "
                        "commas in double quotes"
                    )
                rows.append(dict(zip(header, cells, strict=True)))
        except UnicodeDecodeError as error:
            raise not_utf8(path, error) from None
        except csv.Error as error:
            raise UserError(
                f"{path}: row {len(rows) + 1}, line {reader.line_num}: {error}. Restore the file."
            ) from None
    return header, rows


def not_utf8(path: Path, error: UnicodeDecodeError) -> UserError:
    """The error to raise for a text file in another encoding."""
    return UserError(
        f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
    )


def write_csv(path: Path, table: pd.DataFrame, **options: Any) -> None:
    """Write a CSV file in which no spreadsheet takes text, such as a study's id, for a formula.

    Args:
        options: for `pandas.DataFrame.to_csv`; the index is written only if `index` asks for it.
    """
    with atomic_write(path) as temporary:
        table.map(_no_formula).rename(index=_no_formula).to_csv(
            temporary, **{"index": False, **options}
        )


def _no_formula(value: Any) -> Any:
    """Prefix text that a spreadsheet takes for a formula with `'` (OWASP: CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def open_array(path: Path) -> np.ndarray:
    """Memory-map a `.npy` file. Raises UserError if it is absent or damaged."""
    import numpy as np

    try:
        array = np.load(existing(path), mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):  # numpy opens a ZIP archive as something else
            raise ValueError("an archive")
        return array
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        if isinstance(error, UserError) or getattr(error, "errno", None):
            raise
        raise UserError(
            f"{path} is not a complete array of numbers ({error}). Restore it."
        ) from None


def allocate(path: Path) -> None:
    """Reserve a sparse file's space on the disk, so that a full disk shows up before long work."""
    if hasattr(os, "posix_fallocate"):
        needed = path.stat().st_size
        try:
            with path.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, needed)
        except OSError as error:
            raise _no_room(error.errno, path, needed) from None


def require_room(path: Path, needed: int) -> None:
    """Refuse long work if the disk has no room for its files.

    Args:
        path: the largest file, or the folder.
        needed: bytes.

    Raises:
        OSError: fewer bytes are free.
    """
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    if shutil.disk_usage(folder).free < needed:
        raise _no_room(errno.ENOSPC, path, needed)


def _no_room(number: int | None, path: Path, needed: int) -> OSError:
    number = number or errno.ENOSPC
    return OSError(number, f"{os.strerror(number)}, {needed:,} bytes are needed", str(path))


def sha256(path: Path) -> str:
    """The hash, in hex, of a file's bytes or, for a folder, of its files' names and hashes."""
    if path.is_dir():
        files = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
        lines = (f"{sha256(path / name)}  {name.as_posix()}\n" for name in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with existing(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def existing(path: Path) -> Path:
    """Return `path` itself. Raises UserError if it is not a file."""
    if not path.is_file():
        raise UserError(f"{path} is missing. `dvc repro` makes it; `dvc pull` fetches it.")
    return path
