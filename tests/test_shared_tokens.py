"""A colleague who has a clone and a bucket, and no film: trains on the tokens in the bucket."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo
from typer.testing import CliRunner

from pipeline import paths
from pipeline.__main__ import app
from tests.conftest import ROOT
from tests.test_push import CREDENTIALS, Bucket
from tests.test_push import server as server  # a fixture
from uar.core.files import read_json, sha256


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Runs a command in a folder and returns what it says."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "nobody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "nobody@example.org")

    def run(folder: Path, command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(
            command.split(), cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    return run


def copy_project(to: Path) -> None:
    """What git tracks, without documents, recorded results, and stages after the one that trains.

    DVC reads dvc.yaml dozens of times in each command.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("results/", "docs/", "dvc.lock")):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    stages, later, _ = (to / paths.DVC).read_text().partition("\n  train_stage_two:")
    assert later
    (to / paths.DVC).write_text(stages)


def make_tokens(folder: Path, *stages: str) -> None:
    """What `dvc repro` does, in this process: starting Python for each stage takes most of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in stages:
            result = CliRunner().invoke(app, [stage])
            assert result.exception is None, result.output
        with Repo() as repo:
            for stage in stages:
                repo.commit(stage, force=True)


def test_a_clone_trains_on_the_tokens_of_a_bucket(
    tmp_path: Path, server: str, run: Callable[..., str], tiny_raw: dict[str, Any]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    bucket = Bucket(server)
    copy_project(first)
    (first / paths.PARAMS).write_text(yaml.safe_dump(tiny_raw))
    for command in (  # as docs/remotes.md has them
        "git init --quiet",
        f"dvc remote add --default store {bucket.url}",
        f"dvc remote modify store endpointurl {server}",
    ):
        run(first, command)
    make_tokens(first, "ingest", "preprocess", "dvae", "tokenize")
    said = run(first, "dvc repro vocabulary tokenize")
    assert re.findall("Running stage '(.*)'", said) == ["vocabulary"]
    for command in ("dvc push", "git add --all", "git commit --quiet --message Tokens"):
        run(first, command)

    run(tmp_path, f"git clone --quiet {first} {second}")
    said = run(second, "dvc exp run --pull -S train.lambda2=0.5 train_stage_one")
    assert re.findall("Running stage '(.*)'", said) == ["train_stage_one"]
    assert not (second / "data/raw").exists()  # no film was generated, nor decoded
    assert sha256(second / paths.TOKENS) == sha256(first / paths.TOKENS)
    record = read_json(second / paths.PROVENANCE / "train_stage_one.json")
    assert record["params"]["train.lambda2"] == 0.5
    assert record["made"][str(paths.STAGE_ONE)] == sha256(second / paths.STAGE_ONE)
