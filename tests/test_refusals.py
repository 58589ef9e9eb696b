"""What the system refuses a command is one sentence."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import pytest
from safetensors import SafetensorError

from tests.conftest import ROOT
from uar.core.errors import UserError, form_of, plainly
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
        (MemoryError(), "does not have enough memory"),
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
    said = "cannot open .*input.npy: .*Give this user permission to read it"
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


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (KeyError("digest"), "it has no 'digest'"),
        (KeyError("There is no item named 'manifest.json'"), "There is no item named 'manifest"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "it is not UTF-8"),
        (RecursionError("maximum recursion depth exceeded"), "it is nested too deeply"),
        (EOFError(), "it ends early"),
        (
            TypeError("Index.__init__() got an unexpected keyword"),
            "a part of it is missing or does not",
        ),
        (AttributeError("'NoneType' object has no attribute 'x'"), "a part of it is missing or"),
        (IndexError("list index out of range"), "a part of it is missing or does not have the"),
        (BadZipFile("File is not a zip file"), "File is not a zip file"),
        (RuntimeError(), "it is damaged"),
    ],
)
def test_what_python_says_of_a_file_is_said_without_its_classes(
    error: Exception, said: str
) -> None:
    assert plainly(error).startswith(said)


def test_a_value_of_another_form_is_named_in_words() -> None:
    values = ({}, [], "a", True, 1, 2.5, None, 3j)
    assert [form_of(value) for value in values] == [
        "an object", "a list", "text", "true or false", "a number", "a number", "nothing",
        "another value",
    ]  # fmt: skip


def test_no_message_names_the_class_of_an_error() -> None:
    """But a server's log of a fault in the code, and what another program reports of itself."""
    named = {
        str(path.relative_to(ROOT))
        for folder in ("uar", "pipeline")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"type\(\w+\)\.__name__|\b(error|fault)!r\}", path.read_text("utf-8"))
    }
    assert named == {"uar/viewer/web/app.py", "pipeline/tools/radeval_runner.py"}
