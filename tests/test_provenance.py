"""Files of different runs, damaged files and other parameters are refused before any work."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from pipeline.provenance import code_up_to, commit, stages
from uar.core.config import Params
from uar.core.errors import UserError
from uar.core.files import sha256, write_json
from uar.core.provenance import Record, check_origins, differences, release

MAKERS = {"a": "first", "b": "second", "c": "third"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three stages in a row: a, then b of a, then c of b."""
    monkeypatch.chdir(tmp_path)
    for name in MAKERS:
        Path(name).write_text(f"content of {name}")
    make("first", [], "a", size=8)
    make("second", ["a"], "b", size=8, rate=0.1)
    make("third", ["b"], "c", steps=5)
    return tmp_path


def make(stage: str, sources: list[str], out: str, **params: Any) -> None:
    made_from = {source: sha256(Path(source)) for source in sources}
    made = {out: sha256(Path(out))}
    Record(stage, params, made_from, made, "c0de").save(Path(f"records/{stage}.json"))


@pytest.mark.parametrize("build", ["", "+cpu", "+cu130"])
def test_two_builds_of_a_release_are_recorded_alike(
    build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uar.core.provenance.version", lambda package: f"2.13.0{build}")
    assert release("torch") == "2.13.0"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_params: Params) -> Params:
    """A folder with a stand-in for each input of stage one's training."""
    monkeypatch.chdir(tmp_path)
    for path in stages()["train_stage_one"].inputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {path}")
    return tiny_params


def compare(*inputs: str, **params: Any) -> dict[str, str]:
    return check_origins(
        [Path(name) for name in inputs], params, makers=MAKERS, records=Path("records")
    )


def test_files_of_one_run_are_taken(folder: Path) -> None:
    assert compare("a", "c", size=8, steps=5, other=1) == {n: sha256(Path(n)) for n in "ac"}


@pytest.mark.parametrize("name", MAKERS)
def test_a_changed_file_is_refused(folder: Path, name: str) -> None:
    record = json.loads(Path(f"records/{MAKERS[name]}.json").read_text())
    Path(name).write_text(f"content of {name}!")
    with pytest.raises(UserError) as caught:
        compare(name)
    for digest in (sha256(Path(name)), record["made"][name]):
        assert digest[:12] in str(caught.value)
    assert f"but {MAKERS[name]} made" in str(caught.value)


def test_files_of_two_runs_are_refused(folder: Path) -> None:
    """b was made anew, c still is of the old one; c alone tells, through the records."""
    Path("b").write_text("another run's")
    make("second", ["a"], "b", size=8, rate=0.1)
    for inputs in (("b", "c"), ("c",), ("a", "c")):
        with pytest.raises(UserError, match=r"c: made by third from b \w+, but b is now"):
            compare(*inputs)
    compare("a", "b")


def test_a_run_two_stages_before_counts_too(folder: Path) -> None:
    Path("a").write_text("another run's")
    make("first", [], "a", size=8)
    with pytest.raises(UserError, match=r"b: made by second from a \w+, but a is now"):
        compare("c")


def test_another_parameter_is_refused_however_early_it_mattered(folder: Path) -> None:
    with pytest.raises(UserError, match=r"made by first with size 8, but params.yaml says 9"):
        compare("c", size=9)
    with pytest.raises(UserError, match=r"made by third with steps 5, but params.yaml says 6"):
        compare("c", steps=6)
    compare("b", steps=6)  # has no part in b


def test_every_fault_is_named_at_once(folder: Path) -> None:
    Path("a").write_text("x")
    Path("c").write_text("y")
    with pytest.raises(UserError) as caught:
        compare("a", "c", rate=0.2)
    assert str(caught.value).count("\n  ") == 4  # a, c, b of a, and the rate
    assert "dvc checkout" in str(caught.value)


def test_an_absent_file_or_record_is_named(folder: Path) -> None:
    Path("records/first.json").unlink()
    compare("c")  # its makers' records tell what they can
    with pytest.raises(UserError, match="records/first.json is missing"):
        compare("a")
    Path("c").unlink()
    with pytest.raises(UserError, match="c is missing"):
        compare("c")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "null", '"text"', '{"stage": "first"}', "[" * 100_000,
                '{"stage": "first", "params": 1, "made_from": {}, "made": {}}', "\x00\x01"]
)  # fmt: skip
def test_a_damaged_record_is_refused(folder: Path, content: str) -> None:
    Path("records/first.json").write_text(content)
    with pytest.raises(UserError, match="records/first.json"):
        compare("a")


def test_no_changed_byte_of_a_record_goes_unseen(folder: Path) -> None:
    path = Path("records/first.json")
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        if changed.split() != content.split():  # but of blanks between its words
            with pytest.raises(UserError, match="records/first.json"):
                compare("a")


def test_a_record_of_before_code_was_kept_is_read(folder: Path) -> None:
    path = Path("records/first.json")
    old = Record("first", {"size": 8}, {}, {"a": sha256(Path("a"))})
    old.save(path)
    assert "code" not in json.loads(path.read_text())
    assert Record.load(path) == old
    compare("a", "c", size=8)


def test_files_and_records_of_another_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    inputs, records = [Path("a"), Path("c")], Path("records")

    def compared(size: int) -> dict[str, str]:
        return check_origins(inputs, {"size": size}, makers=MAKERS, records=records, folder=folder)

    assert set(compared(8)) == {"a", "c"}
    with pytest.raises(UserError, match="made by first with size 8, but params.yaml says 9"):
        compared(9)


def test_differences_are_named_by_their_place() -> None:
    old = {"code": {"a.py": "1", "b.py": "2"}, "params": {"seed": 0}, "gone": 1}
    new = {"code": {"a.py": "1", "b.py": "3"}, "params": {"seed": 0, "more": 1}}
    assert differences(old, new) == ["code b.py", "params more", "gone"]
    assert differences(new, new) == []
    assert differences(None, new) == [""]


def test_a_folders_hash_is_of_names_and_contents(tmp_path: Path) -> None:
    write_json(tmp_path / "one" / "x" / "a.json", 1)
    first = sha256(tmp_path / "one")
    write_json(tmp_path / "one" / "x" / "b.json", 1)
    assert sha256(tmp_path / "one") != first
    (tmp_path / "one" / "x" / "b.json").unlink()
    assert sha256(tmp_path / "one") == first
    (tmp_path / "one" / "x" / "a.json").rename(tmp_path / "one" / "a.json")
    assert sha256(tmp_path / "one") != first


@pytest.mark.parametrize("library", ["torch", "numpy", "safetensors"])
def test_work_of_another_librarys_version_is_not_resumed(
    project: Params, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    stage = stages()["train_stage_one"]
    before = stage.identity(project)
    assert differences(before, stage.identity(project)) == []

    def newer(package: str) -> str:
        return version(package) + (".post1" if package == library else "")

    monkeypatch.setattr("pipeline.provenance.version", newer)
    assert differences(before, stage.scratch(project).identity) == [f"version {library}"]


def test_work_of_other_inputs_parameters_or_code_is_not_resumed(
    project: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a stage reads: each of its inputs, each of its parameters, each file of code."""
    stage = stages()["train_stage_one"]
    before = stage.identity(project)
    for path in stage.inputs:
        content = path.read_bytes()
        path.write_bytes(content + b"!")
        assert differences(before, stage.identity(project)) == [f"input {path}"]
        path.write_bytes(content)
    raw = project.model_dump(mode="json")
    raw["train"]["lambda2"] += 1
    other = Params.model_validate(raw)
    assert differences(before, stage.identity(other)) == ["params train.lambda2"]
    file = "uar/training/losses.py"
    monkeypatch.setattr(
        "pipeline.provenance.sha256",
        lambda path: "another" if str(path).endswith(file) else sha256(path),
    )
    assert differences(before, stage.identity(project)) == [f"code {file}"]


def test_the_code_of_a_stage_is_that_of_all_before_it() -> None:
    export = code_up_to("export")
    assert {Path("uar/model"), Path("uar/training"), Path("uar/tokens/dvae.py")} <= set(export)
    figures = [path for path in export if path.is_relative_to("uar/analysis")]
    assert figures == [Path("uar/analysis/heatmap.py")]  # which the page draws with
    assert Path("uar/training") not in code_up_to("tokenize")


def test_a_bundle_names_the_last_commit_of_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert commit("export") is None

    def committed(name: str, content: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "add", "-A"], check=True)
        subprocess.run(["git", *who, "commit", "-qm", name], check=True)
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
        return head.stdout.strip()

    subprocess.run(["git", "init", "-q"], check=True)
    committed("README.md", "")
    assert commit("export") is None
    code = committed("uar/model/uar.py", "a = 1")
    for other in ("dvc.lock", "README.md", "uar/analysis/figures.py"):
        committed(other, "b")
        assert commit("export") == code
    (tmp_path / "uar/model/uar.py").write_text("a = 2")
    assert commit("export") == f"{code}-dirty"
    assert committed("uar/model/uar.py", "a = 3") == commit("export") != code
