"""What every stage does alike: its lock, its end with DVC, Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import typer
import yaml

from pipeline import paths
from pipeline.provenance import stages
from pipeline.run import (
    alone,
    as_stage,
    end_with_dvc,
    interruption_explained,
)
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


@pytest.mark.parametrize(("params", "deterministic"), [(("threads",), True), ((), False)])
def test_a_stage_that_computes_gives_the_same_bits(
    params: tuple[str, ...],
    deterministic: bool,
    monkeypatch: pytest.MonkeyPatch,
    raw_params: dict[str, Any],
) -> None:
    """On a GPU too; one of texts loads no torch for it."""
    paths.PARAMS.write_text(yaml.safe_dump(raw_params))
    stage = replace(stages()["ingest"], params=params, inputs=(), outs=())
    monkeypatch.setattr("pipeline.provenance.stages", lambda *root: {"ingest": stage})
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        found = []
        as_stage("ingest", lambda: found.append(torch.are_deterministic_algorithms_enabled()))()
    finally:
        torch.use_deterministic_algorithms(before)
    assert found == [deterministic]


def test_two_runs_of_a_stage_are_refused_until_the_first_has_ended(folder: Path) -> None:
    """It is killed: nothing but the system takes its lock away."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=folder, env=environment, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        said = rf"already running in this folder \(process {holder.pid}\)"
        with pytest.raises(UserError, match=said), alone("ingest"):
            pass
        with alone("tokenize"):  # another stage's lock is another
            pass
        holder.send_signal(signal.SIGKILL)
    with alone("ingest"):
        assert (paths.SCRATCH / "ingest.lock").read_text() == str(os.getpid())
    assert {path.name for path in paths.SCRATCH.iterdir()} == {"ingest.lock", "tokenize.lock"}


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


UNDER_DVC = """
import sys, time
from pathlib import Path
from pipeline.run import end_with_dvc
from uar.core.files import atomic_write
end_with_dvc()
print(__import__("os").getpid(), flush=True)
for i in range(600):
    with atomic_write(Path("output")) as temporary:
        temporary.write_text(str(i))
        time.sleep(0.05)
"""


@pytest.mark.parametrize("shell", ["", "; true"], ids=["itself", "under a shell"])
def test_a_stage_ends_when_its_dvc_does_before_it_writes_again(folder: Path, shell: str) -> None:
    """DVC alone is killed; the shell that it started between them is not, and stays there."""
    (folder / "stage.py").write_text(UNDER_DVC)
    dvc = f"import os, subprocess; subprocess.run('{sys.executable} stage.py{shell}', shell=True," \
          " env={**os.environ, 'DVC_STAGE': 'x'})"  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("DVC_STAGE", None)
    with subprocess.Popen(
        [sys.executable, "-c", dvc], cwd=folder, env=environment, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        stage = psutil.Process(int(parent.stdout.readline()))
        while not (folder / "output").exists():
            time.sleep(0.05)
        assert stage.is_running()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        written = (folder / "output").read_text()
        stage.wait(timeout=60)
        assert (folder / "output").read_text() == written


def test_a_stage_by_hand_follows_no_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    before = threading.active_count()
    end_with_dvc()
    assert threading.active_count() == before


@pytest.mark.parametrize(("kept", "said"), [(True, "the same command"), (False, "no half-written")])
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
