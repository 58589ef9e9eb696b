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

# Their scratch stays until dvc.lock has the run.
_KEPT_FOR_DVC = ("train_stage_one", "train_stage_two", "train_stage_three")
_ENDED = "ended.json"  # the record of a whole run, in its scratch folder


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
        end_with_dvc()
        with interruption_explained(scratch), alone(name):
            if _first_process():
                forget_recorded_runs()
            stage.check(params)
            if "threads" in stage.params:
                from uar.core.device import make_deterministic  # torch, which text stages lack

                make_deterministic(True)  # training asks params.yaml
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
    """Hold the lock of a stage or a command, which ends with the process however it ends.

    Raises:
        UserError: another process runs it in this folder.
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
            f"{name} is running in this folder already (process {holder}). Wait for it or stop "
            "it; two at once would write the same files."
        ) from None
    with lock:
        path.write_text(str(os.getpid()), encoding="utf-8")
        yield
        path.write_text("", encoding="utf-8")


def end_with_dvc() -> None:
    """End this process when the DVC that started it ends, before another output takes its name.

    Otherwise a second `dvc repro` would run, or hash files, while this one still writes them. A
    shell may stand between the two, so that Linux's signal of a parent's death says too little.
    """
    if "DVC_STAGE" not in os.environ:
        return
    dvc = _who_set("DVC_STAGE")
    if dvc is None:
        return

    def check() -> None:
        if not _runs(dvc):
            os._exit(1)  # as killed: what is done is kept

    def follow() -> None:
        while True:
            check()
            time.sleep(0.1)

    before_naming(check)
    threading.Thread(target=follow, daemon=True).start()


def _who_set(variable: str) -> psutil.Process | None:
    """The nearest process above this one without a variable that this one's environment has."""
    try:
        for parent in psutil.Process().parents():
            if variable not in parent.environ():
                return parent
    except psutil.Error:  # of another user, or gone
        pass
    return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


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
