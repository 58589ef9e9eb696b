"""What `dvc exp show`, `make show` and `dvc metrics diff` print in a terminal of 120 columns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from dvc.cli import main

from pipeline import paths
from pipeline.training import SHORT
from tests.conftest import ROOT
from uar.core.config import Selection
from uar.evaluation.summary import HEADLINE

WIDTH = 120
CHANGED = "train.stage_one.epochs"  # one of the longest names that a knob has
METRICS = {
    "dvclive/stage_one/selected.json": ["val1_C"],
    "dvclive/stage_two/selected.json": ["val2_C"],
    "dvclive/stage_three/selected.json": [],  # off
    str(paths.METRICS): list(HEADLINE),
    str(paths.ANALYSIS): ["alignment", "R@5", "pointing", "chance"],
}
MAKE = f"""
import json, pathlib, yaml
epochs = yaml.safe_load(open("params.yaml"))["train"]["stage_one"]["epochs"]
for path, names in {METRICS}.items():
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    values = {{name: round(1.2345 + epochs / 1000, 4) for name in names}}
    pathlib.Path(path).write_text(json.dumps(values))
"""


AUTHOR = {
    f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


def prepare(folder: Path, *arguments: str) -> None:
    """A command of `dvc` whose output does not matter: in this process it need not start anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in {**AUTHOR, "DVC_NO_ANALYTICS": "1"}.items():
            patch.setenv(name, value)
        assert main(list(arguments)) == 0, arguments


def run(folder: Path, *command: str) -> str:
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": str(WIDTH),
        **AUTHOR,
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's parameters and metrics, made by a stage that invents them; an experiment."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (folder / "make.py").write_text(MAKE)
    stage: dict[str, Any] = {
        "cmd": f"{sys.executable} make.py",
        "deps": ["make.py"],
        "params": [CHANGED],
        "metrics": [{path: {"cache": False}} for path in METRICS],
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    for name in ("pyproject.toml", "constraints.txt", "venv/base.done"):  # an environment, made
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / ".gitignore").write_text("/venv\n")
    run(folder, "git", "init", "--quiet")
    prepare(folder, "init", "--quiet")
    prepare(folder, "repro", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "Demo")
    prepare(folder, "exp", "run", "--name", "humic-botany", "-S", f"{CHANGED}=8")
    return folder


def test_exp_show_begins_with_the_most_informative(project: Path) -> None:
    """DVC's pager cuts lines at the terminal's width and has the rest to the right."""
    lines = run(project, "dvc", "exp", "show").splitlines()
    header = next(line for line in lines if "Experiment" in line)
    assert header[:WIDTH].split()[:10] == [
        "Experiment", "Created", "val1_C", "val2_C", "BLEU-4", "CIDEr", "const_C", "shuf_C",
        "F1", "distinct",
    ]  # fmt: skip
    row = next(line for line in lines if "humic-botany" in line)
    assert row[:WIDTH].split().count("1.2425") == 8


def test_make_show_fits_with_what_changed(project: Path) -> None:
    table = run(project, "make", "--file", str(ROOT / "Makefile"), "show", "VENV=venv")
    lines = table.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= WIDTH
    header = next(line for line in lines if "Experiment" in line)
    assert header.split() == [
        "Experiment", "val2_C", "BLEU-4", "CIDEr", "shuf_C", "F1", "distinct", CHANGED
    ]  # fmt: skip


def test_make_show_says_that_there_is_no_experiment_yet(project: Path, tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(project), "clone")  # which leaves experiments out
    for name in ("pyproject.toml", "constraints.txt", "venv/base.done"):
        (tmp_path / "clone" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "clone" / name).touch()
    said = run(tmp_path / "clone", "make", "--file", str(ROOT / "Makefile"), "show", "VENV=venv")
    assert said.startswith("This commit has no experiments yet.")


def test_queued_experiments_widen_no_table(project: Path) -> None:
    for epochs in (11, 12):
        prepare(project, "exp", "run", "--queue", "-S", f"{CHANGED}={epochs}")
    table = run(project, "make", "--file", str(ROOT / "Makefile"), "show", "VENV=venv")
    assert [epochs for epochs in ("8", "11", "12") if f"  {epochs}  " not in table] == []
    assert max(len(line.rstrip()) for line in table.splitlines()) <= WIDTH
    run(project, "dvc", "queue", "remove", "--queued")


def test_metrics_diff_is_a_line_a_number(project: Path) -> None:
    lines = run(project, "dvc", "metrics", "diff").splitlines()
    assert max(map(len, lines)) <= WIDTH
    names = [line.split()[1] for line in lines[1:]]
    assert sorted(names) == sorted(name for of in METRICS.values() for name in of)
    changes = {line.split()[-1] for line in lines[1:]}
    epochs = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]["stage_one"]["epochs"]
    assert changes == {f"{(8 - epochs) / 1000:.3f}"}


def test_the_numbers_invented_above_are_those_of_the_project() -> None:
    kinds = [part for kind in get_args(Selection) for part in (get_args(kind) or (kind,))]
    assert sorted(SHORT) == sorted(kinds)
    assert max(map(len, SHORT.values())) <= 2
    stages = yaml.safe_load((ROOT / paths.DVC).read_text())["stages"].values()
    tracked = [path for stage in stages for metric in stage.get("metrics", []) for path in metric]
    assert sorted(tracked) == sorted(METRICS)
    assert set(json.loads((ROOT / paths.METRICS).read_text())) <= set(HEADLINE)


def test_with_several_long_parameters_make_show_leaves_scores_out(project: Path) -> None:
    others = {"train.mask_learning_rate": "0.01", "train.lambda3": "0.5"}
    left = [["val2_C", "CIDEr", "shuf_C", "F1"], ["CIDEr", "F1"]]
    for number, scores in enumerate(left, 1):
        changed = dict(list(others.items())[:number]) | {CHANGED: str(20 + number)}
        knobs = [word for item in changed.items() for word in ("-S", "=".join(item))]
        prepare(project, "exp", "run", "--name", f"several-{number}", *knobs)
        table = run(project, "make", "--file", str(ROOT / "Makefile"), "show", "VENV=venv")
        lines = table.splitlines()
        assert max(len(line.rstrip()) for line in lines) <= WIDTH
        (header,) = (line for line in lines if "Experiment" in line)
        assert header.split()[: 1 + len(scores)] == ["Experiment", *scores]
        assert set(header.split()[1 + len(scores) :]) == set(changed)
