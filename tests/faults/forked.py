"""Stages and commands in forks of this process, which can be killed at an operation or a byte."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from pipeline.__main__ import app as pipeline
from uar.command import app as uar
from uar.core.errors import UserError

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
IDENTICAL, REFUSED = "identical", "refused"  # how a case should end
NOT_READ = "the stage has no part in it"  # does not count as a case

Case = tuple[str, Callable[[], str]]  # what is done, and what does it and returns how it ended


@dataclass(frozen=True)
class Ending:
    """How a forked run ended."""

    code: int  # 0 completed, 1 refused by a sentence, 2 a traceback, -9 killed
    said: str
    operations: int  # that change files


@dataclass(frozen=True)
class Running:
    """A forked run that has not been waited for."""

    pid: int
    reading: int

    def wait(self) -> Ending:
        """Wait for the run and return how it ended."""
        with os.fdopen(self.reading, encoding="utf-8") as pipe:
            text = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        told = json.loads(text.splitlines()[-1]) if text.endswith("\n") else ["", 0]
        return Ending(os.waitstatus_to_exitcode(status), *told)


def run_forked(folder: Path, command: str, **options: Any) -> Ending:
    """Run a command in a fork of this process, with the options of `start`."""
    return start(folder, command, **options).wait()


def start(
    folder: Path,
    command: str,
    at: int | None = None,
    signal_there: signal.Signals = signal.SIGKILL,
    limit: int | None = None,
    killed_by_limit: bool = False,
    moments: Path | None = None,
    barred: bool = False,
) -> Running:
    """Start a command in a fork of this process.

    Args:
        command: one of the pipeline, such as a stage, or `uar` and one of its own; with arguments.
        barred: whether files that their owner may not read or write are barred to root, too.
        at: the operation on a file, counted from 0, before which the run gets `signal_there`.
        limit: largest file in bytes that the process may write.
        killed_by_limit: a write beyond the limit kills midway; else it fails as on a full disk.
        moments: folder for copies of the disk before each operation: what a kill there leaves.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return Running(child, reading)
    code = 2
    said = io.StringIO()
    count = 0
    try:
        os.close(reading)
        os.chdir(folder)
        here = str(folder.resolve())
        # Processes that a stage starts need not import this module.
        main_module = sys.modules["__main__"]
        main_module.__spec__ = main_module.__file__ = None

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event == "open":
                if not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                    return
            elif event not in WRITES:
                return
            place = arguments[0]
            if isinstance(place, str | os.PathLike) and os.path.abspath(place).startswith(here):
                if count == at:
                    os.kill(os.getpid(), signal_there)
                if moments is not None:
                    subprocess.run(["cp", "-a", here, moments / f"{count:04}"], check=True)
                count += 1

        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            sys.addaudithook(watch)
            if limit is not None:
                handler = signal.SIG_DFL if killed_by_limit else signal.SIG_IGN
                signal.signal(signal.SIGXFSZ, handler)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            if barred and os.getuid() == 0:
                give_up_privileges()
            program, *rest = command.split()
            app, words = (uar, rest) if program == "uar" else (pipeline, [program, *rest])
            code = app(words, standalone_mode=False) or 0  # the status of a typer.Exit
    except (UserError, typer.BadParameter) as error:
        code = 1
        said.write(str(error))
    except BaseException:
        said.write(traceback.format_exc())
    finally:
        with contextlib.suppress(BaseException):
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        os.write(writing, (json.dumps([said.getvalue()[-3000:], count]) + "\n").encode())
        os._exit(code)


def give_up_privileges() -> None:
    """Drop all Linux capabilities, so that file modes apply to root as to anybody else."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()):
        raise SystemExit("root cannot give up its privileges here")
