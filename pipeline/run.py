"""What all stages have in common: one run at a time, inputs compared, outputs recorded."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import typer
from filelock import FileLock, Timeout

from pipeline import paths
from uar.core.arithmetic import set_up
from uar.core.errors import UserError
from uar.core.files import before_naming

log = logging.getLogger(__name__)

# Stages whose scratch folder stays until dvc.lock records the run.
_KEPT_FOR_DVC = ("train_stage_one", "train_stage_two", "train_stage_three")
_ENDED = "ended.json"  # the record of a finished run, in its scratch folder


def as_stage(name: str, function: Callable[..., None]) -> Callable[..., None]:
    """Wrap a stage's function: check its inputs before it runs, record its outputs afterwards.

    The scratch folder is removed last: a stage killed at any time before finds its work again.
    """

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        from pipeline.provenance import stages
        from uar.core.params_file import load_params

        params = load_params(paths.PARAMS)
        if reason := set_up(os.environ, params.arithmetic, params.threads):
            raise UserError(
                f"{reason} Set arithmetic: native in {paths.PARAMS}; results are then specific to "
                "this machine, not the recorded ones (docs/reproducibility.md)."
            )
        stage = stages()[name]
        scratch = paths.SCRATCH / name
        end_with_dvc()
        with interruption_explained(scratch), alone(name):
            if _first_process():
                forget_recorded_runs()
            stage.check(params)
            if "threads" in stage.params:
                from uar.core.device import make_deterministic  # loads torch; text stages do not

                make_deterministic(True)  # training follows params.yaml
            function(*arguments, **options)
            if _first_process():
                stage.write_record(params)
                if "DVC_STAGE" in os.environ and name in _KEPT_FOR_DVC and scratch.is_dir():
                    shutil.copyfile(stage.record, scratch / _ENDED)
                else:
                    shutil.rmtree(scratch, ignore_errors=True)

    return run


def forget_recorded_runs() -> None:
    """Remove the scratch folders of finished runs that dvc.lock records.

    DVC writes dvc.lock after a stage has ended. If killed in between, it reruns the stage, which
    finds its last epoch. Once the run is in dvc.lock, another one is meant to start afresh.
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
    """Hold the lock of a stage or a command, which is released however the process ends.

    Raises:
        UserError: another process is running it in this folder.
    """
    if not _first_process():
        yield
        return
    path = paths.SCRATCH / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip() or "unknown"
        raise UserError(
            f"{name} is already running in this folder (process {holder}). Wait for it or stop "
            "it; two at once would write the same files."
        ) from None
    with lock:
        path.write_text(str(os.getpid()), encoding="utf-8")
        yield
        path.write_text("", encoding="utf-8")


def end_with_dvc() -> None:
    """End this process when the DVC that started it ends, before another output takes its name.

    Otherwise a second `dvc repro` would run, or hash files, while this one still writes them. A
    shell may stand between the two, so Linux's signal of a parent's death is not enough.
    """
    if "DVC_STAGE" not in os.environ:
        return
    dvc = _who_set("DVC_STAGE")
    if dvc is None:
        return

    def check() -> None:
        if not _runs(dvc):
            os._exit(1)  # as if killed: what is done is kept

    def follow() -> None:
        while True:
            check()
            time.sleep(0.1)

    before_naming(check)
    threading.Thread(target=follow, daemon=True).start()


def _who_set(variable: str) -> psutil.Process | None:
    """The nearest ancestor process whose environment lacks a variable that this one's has."""
    try:
        for parent in psutil.Process().parents():
            if variable not in parent.environ():
                return parent
    except psutil.Error:  # it belongs to another user, or is gone
        pass
    return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def interruption_explained(scratch: Path) -> Iterator[None]:
    """Say in one line what Ctrl-C has left behind."""
    try:
        yield
    except KeyboardInterrupt:
        kept = "; finished work is kept, and the same command continues from there"
        log.info(f"stopped{kept if scratch.is_dir() else '; no half-written files are left'}")
        raise typer.Exit(128 + 2) from None


def _first_process() -> bool:
    """Whether this is the one that writes among the processes that torchrun or Slurm started."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
