"""The ways back of docs/undo.md, typed in a small project of one stage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

PAGE = (ROOT / "docs/undo.md").read_text(encoding="utf-8")
MAKE = """
import pathlib, yaml
pathlib.Path("model").write_text(str(yaml.safe_load(open("params.yaml"))["train"]["epochs"]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen epochs, committed, and an experiment with eight."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_text("train:\n  epochs: 16\n")
    (folder / "make.py").write_text(MAKE)
    stage = {
        "cmd": f"{sys.executable} make.py",
        "deps": ["make.py"],
        "params": ["train.epochs"],
        "outs": ["model"],
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    typed(folder, "git init --quiet && dvc init --quiet && dvc repro --quiet")
    typed(folder, "git add --all && git commit --quiet --message Demo")
    typed(folder, "dvc exp run --name shorter -S train.epochs=8")
    return folder


def typed(folder: Path, command: str, fails: bool = False) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **{f"GIT_{who}": "a@b" for who in ("AUTHOR_NAME", "COMMITTER_NAME")},
        **{f"GIT_{who}": "a@b" for who in ("AUTHOR_EMAIL", "COMMITTER_EMAIL")},
    }
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert bool(done.returncode) == fails, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def of_page(command: str) -> str:
    assert f"`{command}`" in PAGE
    return command


def epochs(project: Path) -> tuple[str, str]:
    return (project / "params.yaml").read_text().split()[-1], (project / "model").read_text()


def test_an_experiment_is_undone_restored_and_deleted(project: Path) -> None:
    assert epochs(project) == ("8", "8")
    typed(project, of_page("git restore . && dvc checkout"))
    assert epochs(project) == ("16", "16")
    assert "shorter" in typed(project, of_page("dvc exp show"))
    typed(project, "dvc get . model --rev shorter -o members/shorter")  # as docs/models.md does
    assert (project / "members/shorter").read_text() == "8"
    typed(project, of_page("dvc exp apply NAME").replace("NAME", "shorter"))
    assert epochs(project) == ("8", "8")
    typed(project, of_page("git restore . && dvc checkout"))
    typed(project, of_page("dvc exp remove NAME").replace("NAME", "shorter"))
    assert "shorter" not in typed(project, "dvc exp show")
    assert epochs(project) == ("16", "16")


def test_a_key_that_does_not_exist_changes_nothing(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    typed(project, "dvc exp run -S train.epocs=8", fails=True)
    assert (project / "params.yaml").read_bytes() == before


def test_status_names_the_parameter(project: Path) -> None:
    (project / "params.yaml").write_text("train:\n  epochs: 4\n")
    assert "train.epochs" in typed(project, of_page("dvc status"))
    typed(project, of_page("git restore . && dvc checkout"))


def test_an_output_changed_or_deleted_by_hand_comes_back(project: Path) -> None:
    (project / "model").unlink()
    typed(project, of_page("dvc checkout"))
    assert epochs(project) == ("16", "16")
    (project / "model").write_text("edited")
    typed(project, of_page("dvc checkout --force"))
    assert epochs(project) == ("16", "16")
