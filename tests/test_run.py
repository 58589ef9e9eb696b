"""What every stage does alike: its lock, Ctrl-C, a disk that takes no more."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from safetensors import SafetensorError

from pipeline import paths
from pipeline.run import alone, full_disk_explained, interruption_explained
from tests.conftest import ROOT
from uar.core.errors import UserError

HOLDER = """
import sys, time
from pipeline.run import alone
with alone("ingest"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_runs_of_a_stage_are_refused_until_the_first_has_ended(folder: Path) -> None:
    """It is killed: nothing but the system takes its lock away."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=folder, env=environment, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=rf"already \(process {holder.pid}\)"), alone("ingest"):
            pass
        with alone("tokenize"):  # another stage's lock is another
            pass
        holder.send_signal(signal.SIGKILL)
    with alone("ingest"):
        assert (paths.SCRATCH / "ingest.lock").read_text() == str(os.getpid())
    assert not list(paths.SCRATCH.iterdir())


def test_a_lock_that_a_dead_process_left_is_taken(folder: Path) -> None:
    paths.SCRATCH.mkdir()
    (paths.SCRATCH / "ingest.lock").write_text("1")
    with alone("ingest"):
        pass


def test_other_ranks_hold_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    with alone("ingest"):
        monkeypatch.setenv("RANK", "1")
        with alone("ingest"):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(UserError), alone("ingest"):
            pass


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
    with pytest.raises(UserError, match=message), full_disk_explained():
        fail()


def test_what_is_needed_is_said() -> None:
    message = r"cannot write x: No space left on device, 7 bytes are needed. [\d,]+ bytes are free"
    error = OSError(errno.ENOSPC, "No space left on device, 7 bytes are needed", "x")
    with pytest.raises(UserError, match=message), full_disk_explained():
        raise error


def test_other_errors_stay_what_they_are() -> None:
    for error in (OSError(errno.ENOENT, "No such file"), KeyError("x"), UserError("said")):
        with pytest.raises(type(error)) as caught, full_disk_explained():
            raise error
        assert caught.value is error


@pytest.mark.parametrize(("kept", "said"), [(True, "the same command"), (False, "nothing")])
def test_ctrl_c_is_one_line(
    folder: Path, caplog: pytest.LogCaptureFixture, kept: bool, said: str
) -> None:
    caplog.set_level(logging.INFO)
    scratch = folder / "scratch"
    if kept:
        scratch.mkdir()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    try:
        with pytest.raises(typer.Exit) as caught, interruption_explained(scratch):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.exit_code == 130
    assert len(caplog.messages) == 1
    assert said in caplog.text
