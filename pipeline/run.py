"""What every stage does alike: one run at a time, its inputs compared, its outputs recorded."""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from pipeline import paths
from uar.core.arithmetic import set_up
from uar.core.errors import UserError

log = logging.getLogger(__name__)

_KEPT_FOR_DVC = ("train_stage_one", "train_stage_two")  # their scratch, until dvc.lock has the run
_ENDED = "ended.json"  # the record of a whole run, in its scratch folder

_UNWRITABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
}


def as_stage(name: str, function: Callable[..., None]) -> Callable[..., None]:
    """A stage's function, run between the check of its inputs and the record of its outputs.

    Its scratch folder goes last: killed at any time before, the stage finds its work again.
    """

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        from pipeline.provenance import stages
        from uar.core.params_file import load_params

        params = load_params(paths.PARAMS)
        if reason := set_up(os.environ, params.arithmetic, params.threads):
            raise UserError(
                f"{reason} Set arithmetic: native in {paths.PARAMS}: results are then this "
                "machine's own, not the recorded ones (docs/reproducibility.md)."
            )
        stage = stages()[name]
        scratch = paths.SCRATCH / name
        with interruption_explained(scratch), full_disk_explained(), alone(name):
            if _first_process():
                forget_recorded_runs()
            stage.check(params)
            function(*arguments, **options)
            if _first_process():
                stage.write_record(params)
                if "DVC_STAGE" in os.environ and name in _KEPT_FOR_DVC and scratch.is_dir():
                    shutil.copyfile(stage.record, scratch / _ENDED)
                else:
                    shutil.rmtree(scratch, ignore_errors=True)

    return run


def forget_recorded_runs() -> None:
    """Remove the scratch folders of whole runs that dvc.lock holds.

    DVC writes dvc.lock after a stage has ended; killed in between, it runs the stage again, and a
    training finds its last epoch. Once the run is in dvc.lock, another one is meant to be anew.
    """
    ended = {name: paths.SCRATCH / name / _ENDED for name in _KEPT_FOR_DVC}
    ended = {name: record for name, record in ended.items() if record.is_file()}
    if not ended:
        return
    import yaml

    try:
        lock = yaml.safe_load(paths.DVC_LOCK.read_text(encoding="utf-8"))["stages"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return  # DVC has recorded nothing, or will say what is wrong with it
    for name, record in ended.items():
        outs = lock.get(name, {}).get("outs", [])
        digest = hashlib.md5(record.read_bytes()).hexdigest()
        if {"path": f"{paths.PROVENANCE}/{name}.json", "md5": digest} in [
            {key: out.get(key) for key in ("path", "md5")} for out in outs
        ]:
            shutil.rmtree(record.parent)


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold a stage's lock, which ends with the process however it ends.

    Raises:
        UserError: another process runs the stage in this folder.
    """
    if not _first_process():
        yield
        return
    path = paths.SCRATCH / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise UserError(
                f"{name} is running in this folder already (process {holder}). Wait for it or stop "
                "it; two at once would write the same files."
            ) from None
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            break
        file.close()  # its holder ended, and the name with it, between the two calls
    try:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


@contextmanager
def full_disk_explained() -> Iterator[None]:
    """Turn a write that the disk refuses into a sentence."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None) or _number_in(str(error))
        if number not in _UNWRITABLE:
            raise
        name = getattr(error, "filename", None)
        place = f" {os.fsdecode(name)}" if isinstance(name, str | bytes) else ""
        reason = getattr(error, "strerror", None) or os.strerror(number)
        free = shutil.disk_usage(Path()).free
        raise UserError(
            f"cannot write{place}: {reason}. {free:,} bytes are free on the disk of "
            f"{Path().resolve()}. Make room or make it writable, then give the same command: "
            "outputs of before that are whole are as they were, and a long stage goes on where it "
            "stopped."
        ) from error


def _number_in(message: str) -> int | None:
    """The error number in a message of a library that keeps it nowhere else."""
    for number in _UNWRITABLE:
        if f"os error {number})" in message or os.strerror(number) in message:
            return number
    return None


@contextmanager
def interruption_explained(scratch: Path) -> Iterator[None]:
    """Say in one line what Ctrl-C left."""
    try:
        yield
    except KeyboardInterrupt:
        kept = "; what is done is kept, and the same command goes on from there"
        log.info(f"stopped{kept if scratch.is_dir() else ', with nothing half written'}")
        raise typer.Exit(128 + 2) from None


def _first_process() -> bool:
    """Whether this is the process that writes, of those that torchrun or Slurm started."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
