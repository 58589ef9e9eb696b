"""params.yaml is in the form that DVC writes, so that `dvc exp run -S` changes a value alone."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from pipeline.tools.use import use
from tests.conftest import ROOT
from uar.core.params_file import known_keys

PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))
FORM = """\
`dvc exp run -S` would write params.yaml in another way. A null is written as nothing after the
colon; a list has one value a line below its key (`- 3`, indented like the key), and no blank line
or line of comment after it; a comment starts in column 30, or one blank after a longer value:
{}"""


@pytest.fixture(scope="module", params=PRESETS)
def merged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """params.yaml with a preset merged into it."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "presets", folder / "presets")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        use(request.param)
    return folder / "params.yaml"


@pytest.fixture
def params(merged: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copy(merged, tmp_path / "params.yaml")


def value_of(raw: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        raw = raw[part]
    return raw


def changed(before: str, after: str) -> list[str]:
    """Lines that went (-) and came (+)."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and not line.startswith(("+++", "---"))]


def test_every_parameter_says_what_it_is() -> None:
    """The documents' page of parameters is made of these comments (docs/hooks.py)."""
    lines = (ROOT / "params.yaml").read_text().splitlines()
    named = [line for line in lines if re.match(r" *[a-z]\w*:", line)]
    assert len(named) > len(known_keys())  # sections too
    bare = [line for line in named if not re.search(r"\S +# \S", line)]
    sections = {key.split(".")[depth] for key in known_keys() for depth in range(key.count("."))}
    assert {line.strip(" :") for line in bare} <= sections


def test_values_set_to_themselves_change_no_byte(params: Path) -> None:
    """All but floats, of which DVC writes what was typed in Python's form (1e-05)."""
    raw = yaml.safe_load(params.read_text())
    values = {key: value_of(raw, key) for key in known_keys()}
    same = [f"{k}={json.dumps(v)}" for k, v in values.items() if not isinstance(v, float)]
    before = params.read_text()
    apply_overrides(params, same)
    after = params.read_text()
    assert after == before, FORM.format("\n".join(changed(before, after)))


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.lambda3=0.5", "lambda3", "0.5"),
        ("dvae.encoder=models/mine.pkl", "encoder", "models/mine.pkl"),
        ("model.tir=false", "tir", "false"),
    ],
)
def test_an_override_changes_the_value_alone(
    params: Path, override: str, key: str, value: str
) -> None:
    before = params.read_text()
    apply_overrides(params, [override])
    gone, come = changed(before, params.read_text())
    assert gone.split(" # ")[1] == come.split(" # ")[1]  # the comment
    assert come.split("#")[0].split() == ["+", f"{key}:", value]


def test_there_and_back_restores_every_byte(params: Path) -> None:
    before = params.read_text()
    raw = yaml.safe_load(before)
    there = {"model.extractor.depths": [1, 1, 1, 1], "dvae.encoder": "a.pkl", "model.tir": False}
    apply_overrides(params, [f"{key}={json.dumps(value)}" for key, value in there.items()])
    assert yaml.safe_load(params.read_text()) != raw
    apply_overrides(params, [f"{key}={json.dumps(value_of(raw, key))}" for key in there])
    assert params.read_text() == before


def test_dvc_exp_run_itself_changes_one_line(tmp_path: Path) -> None:
    """The whole command, on a stage that only copies."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    stage = {"cmd": "echo 1 > out", "params": ["train.lambda3"], "outs": ["out"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": stage}}))
    names = {
        f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    environment = {**os.environ, **names, "DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    dvc = [sys.executable, "-m", "dvc"]
    for command in (
        ["git", "init", "--quiet"],
        [*dvc, "init", "--quiet"],
        ["git", "add", "--all"],
        ["git", "commit", "--quiet", "--message", "first"],
        [*dvc, "exp", "run", "--set-param", "train.lambda3=0.25"],
    ):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    before, after = (ROOT / "params.yaml").read_text(), (tmp_path / "params.yaml").read_text()
    gone, come = changed(before, after)
    assert (gone.split()[1], come.split()[1:3]) == ("lambda3:", ["lambda3:", "0.25"])
