"""DVC is killed without the stage that it started."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline import paths
from tests.conftest import ROOT
from tests.faults.forked import IDENTICAL, Case
from tests.faults.project import contents, copy_of


def orphans(whole: Path, seconds: tuple[float, ...]) -> Iterator[Case]:
    """Stop only `dvc repro`, start another at once, and compare dvc.lock with the files there."""
    for after in seconds:
        yield f"train_stage_one, {after:g} s after its start", partial(_orphan, whole, after)


def _orphan(whole: Path, after: float) -> str:
    folder = copy_of(whole)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
    environment.pop("DVC_STAGE", None)

    def dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["dvc", *arguments], cwd=folder, env=environment, capture_output=True, text=True
        )

    try:
        shutil.copy(ROOT / paths.DVC, folder)
        for name in ("uar", "pipeline"):
            (folder / name).symlink_to(ROOT / name)
        dvc("init", "--no-scm")
        first = dvc("commit", "-f")
        if first.returncode:
            return f"dvc commit: {first.stderr[-500:]}"
        command = ["dvc", "repro", "-f", "-s", "train_stage_one"]
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as stopped:  # fmt: skip
            lock = folder / paths.SCRATCH / "train_stage_one.lock"
            while not (lock.is_file() and lock.read_text()) and stopped.poll() is None:
                time.sleep(0.05)
            time.sleep(after)
            stopped.terminate()
        begun = time.monotonic()
        while True:  # while the lock is still held, a sentence refuses the run
            second = dvc("repro", "-s", "train_stage_one")
            if "is already running in this folder" not in second.stdout + second.stderr:
                break
            if time.monotonic() - begun > 60:
                return "its stage lives on"
        if second.returncode:
            return f"does not go on: {second.stderr[-500:]}"
        time.sleep(2)
        status = dvc("status", "train_stage_one")
        if "up to date" not in status.stdout:
            return f"dvc.lock is of other bytes: {status.stdout[-500:]}"
        expected = contents(whole, [paths.STAGE_ONE])
        return IDENTICAL if contents(folder, [paths.STAGE_ONE]) == expected else "other bytes"
    finally:
        shutil.rmtree(folder)
