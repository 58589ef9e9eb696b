"""Operating-system errors as sentences: disks, permissions, paths, memory."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uar.core.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # of writing only
_REFUSED = {errno.EACCES, errno.EPERM}  # of writing, or of reading


@contextmanager
def errors_explained(memory: str = "") -> Iterator[None]:
    """Turn a refusal by the operating system into a sentence, for every command.

    Args:
        memory: what would need less memory, as a sentence.

    Raises:
        UserError: in place of a system error about a file, a device or the memory.
    """
    try:
        yield
    except MemoryError as error:
        raise UserError(
            f"this machine, or this process, does not have enough memory. {memory}".strip()
        ) from error
    except BrokenPipeError:
        raise  # the output's reader wants no more
    except Exception as error:
        number = getattr(error, "errno", None) or _number_in(str(error))
        name = getattr(error, "filename", None)
        named = isinstance(name, str | bytes | os.PathLike)
        if not isinstance(number, int) or not (named or number in _FULL):
            raise
        place = os.fsdecode(name) if named else None  # type: ignore[arg-type]
        reason = getattr(error, "strerror", None) or os.strerror(number)
        raise UserError(_sentence(number, reason, place)) from error


def _sentence(number: int, reason: str, place: str | None) -> str:
    """Say what the system's error `number`, in its words `reason`, means, and what to do."""
    if number in _FULL or (number in _REFUSED and not _unreadable(place)):
        path = Path(place or "").absolute()
        folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
        free = shutil.disk_usage(folder).free
        return (
            f"cannot write{f' {place}' if place else ''}: {reason}. {free:,} bytes are free on the "
            f"disk of {folder}. Make room or make it writable, then run the same "
            "command again: earlier outputs are unchanged, and a long stage continues where "
            "it stopped."
        )
    shown = place if place is None or len(place) < 200 else f"{place[:200]}..."
    advice = {
        errno.EISDIR: "It is a folder where a file should be.",
        errno.ENOTDIR: "A part of it is a file where a folder should be.",
        errno.ENAMETOOLONG: "Use a shorter path.",
        errno.ELOOP: "Its symbolic links lead in a circle.",
        errno.ENOENT: "Correct the path, or create what it names.",
        errno.EACCES: "Give this user permission to read it.",
        errno.EPERM: "Give this user permission to read it.",
    }.get(number, "Then run the same command again.")
    return f"cannot open {shown}: {reason}. {advice}"


def _unreadable(place: str | None) -> bool:
    """Whether it is reading that was refused: this user may not read what is there."""
    return place is not None and os.path.exists(place) and not os.access(place, os.R_OK)


def _number_in(message: str) -> int | None:
    """The error number in the message of a library that gives it nowhere else."""
    for number in (*_FULL, *_REFUSED):
        if f"os error {number})" in message or os.strerror(number) in message:
            return number
    return None
