"""What the system refuses a command is one sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from uar.core.errors import UserError
from uar.core.refusals import errors_explained


def refuse(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "fail",
    [
        lambda: refuse(OSError(errno.ENOSPC, "No space left on device", "data/tokens.npy")),
        lambda: refuse(OSError(errno.EROFS, "Read-only file system", "data/tokens.npy")),
        lambda: refuse(PermissionError(errno.EACCES, "Permission denied", "data/tokens.npy")),
        lambda: refuse(OSError(errno.EFBIG, "File too large", b"data/tokens.npy")),
        lambda: refuse(SafetensorError("I/O error: No space left on device (os error 28)")),
    ],
)
def test_a_disk_that_takes_no_more_is_a_sentence(fail: Callable[[], None]) -> None:
    message = r"cannot write.*bytes are free on the disk of"
    with pytest.raises(UserError, match=message), errors_explained():
        fail()


def test_what_is_needed_is_said() -> None:
    message = r"cannot write x: No space left on device, 7 bytes are needed. [\d,]+ bytes are free"
    error = OSError(errno.ENOSPC, "No space left on device, 7 bytes are needed", "x")
    with pytest.raises(UserError, match=message), errors_explained():
        raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "a/b"), "cannot open a/b: No such.*Corr"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), "cannot open x: .*It is a folder"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"), "cannot open x: .*a folder sh"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), "x{200}[.]{3}: .*shorter"),
        (OSError(errno.ELOOP, "Too many levels", "x"), "cannot open x: .*in a circle"),
        (OSError(errno.EIO, "Input/output error", "x"), "cannot open x: Input/output error"),
        (MemoryError(), "memory .* is not enough"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(error: Exception, said: str) -> None:
    with pytest.raises(UserError, match=said), errors_explained():
        raise error


def test_an_input_that_may_not_be_read_does_not_ask_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "input.npy").touch()
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "input.npy"))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)  # root may read all
    said = "cannot open .*input.npy: .*Let this user read it"
    with pytest.raises(UserError, match=said), errors_explained():
        raise error
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    said = "cannot write .*input.npy: .*Make room or make it writable"
    with pytest.raises(UserError, match=said), errors_explained():
        raise error


def test_other_errors_stay_what_they_are() -> None:
    for error in (OSError("no number"), BrokenPipeError(), KeyError("x"), UserError("said")):
        with pytest.raises(type(error)) as caught, errors_explained():
            raise error
        assert caught.value is error
