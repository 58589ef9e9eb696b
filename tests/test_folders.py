"""Runs made without DVC, in folders of their own: what is read of them, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline import paths
from pipeline.__main__ import app
from pipeline.experiments import compare, folders
from pipeline.experiments.dvc import code_in
from pipeline.experiments.folders import read_folder
from pipeline.experiments.results import read_results
from pipeline.experiments.rows import Ablations
from pipeline.provenance import stages
from tests.conftest import ROOT, override
from tests.test_results import REPORTS, details, written
from uar.core.errors import UserError
from uar.core.files import sha256, write_json
from uar.core.params_file import load_params
from uar.core.provenance import Record
from uar.core.runs import TrainingRun, record_run
from uar.evaluation.predictions import write_predictions
from uar.evaluation.summary import headline

ABLATIONS = Ablations.load(ROOT / paths.ABLATIONS)
STAGES = ("train_stage_one", "train_stage_two", "train_stage_three", "evaluate", "analyze")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OUTS = [path for name in STAGES for path in stages()[name].outs]

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Makes a folder as the stages leave it, of the parameters named. They count from /here."""
    monkeypatch.setattr(folders, "commit_of", lambda code: COMMIT)
    here = tmp_path / "here"
    here.mkdir()
    for name in (paths.PARAMS, paths.ABLATIONS, paths.DVC):
        shutil.copy(ROOT / name, here)
    monkeypatch.chdir(here)

    def make(name: str, **changes: Any) -> Path:
        folder = tmp_path / name
        raw = yaml.safe_load((ROOT / paths.PARAMS).read_text())
        for key, value in changes.items():
            override(raw, key.replace("__", "."), value)
        folder.mkdir()
        (folder / paths.PARAMS).write_text(yaml.safe_dump(raw))
        for path in OUTS:
            content = {
                paths.LOGS / "stage_two" / "plots": "metrics/val/CIDEr.tsv",
                paths.LOGS / "stage_one" / "plots": "metrics/val/image_gain.tsv",
            }.get(path)
            file = folder / path / content if content else folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("step\tvalue\n1\t0.5\n2\t0.75\n" if content else f"{path} of {name}")
        write_predictions(folder / paths.PREDICTIONS, written(*REPORTS))
        seed = raw["train"]["seed"]
        about = details(0.5 + seed / 10)
        about["checkpoint_sha256"] = sha256(folder / paths.STAGE_THREE)
        write_json(folder / paths.DETAILS, about)
        write_json(folder / paths.METRICS, headline(about))
        write_json(folder / paths.ANALYSIS_DETAILS, {"retrieval": {}})
        seal(folder)
        return folder

    return make


def seal(folder: Path, *names: str, code: str | None = "") -> None:
    """Write records as the stages do; with `code`, of other code or of none."""
    params = load_params(folder / paths.PARAMS)
    for name in names or STAGES:
        stage = stages()[name]
        sources = (path for path in stage.inputs if (folder / path).exists())
        Record(
            name,
            stage.values(params),
            {str(path): sha256(folder / path) for path in sources},
            {str(path): sha256(folder / path) for path in stage.outs},
            stage.code_hash() if code == "" else code,
        ).save(folder / stage.record)


def test_a_run_becomes_a_result(make_run: MakeRun) -> None:
    weights = "/secret/place/evaluate-weights"
    labellers = {"evaluate__chexbert": weights}
    folder = make_run("one", train__seed=3, dataset__root="/secret", **labellers)
    trained = sha256(folder / paths.STAGE_THREE)
    record_run(
        folder / paths.RUN_LOG,
        TrainingRun(
            checkpoint=trained,
            start="ef",
            seconds=50.0,
            device="GPU",
            processes=1,
            finished="2026-01-01T00:00:00Z",
        ),
    )
    found = read_folder(folder, ABLATIONS)
    assert found.experiment.startswith("uar-s3-")
    assert (found.seed, found.device, found.seconds) == (3, "GPU", 50.0)
    assert (found.commit, found.clean, found.code) == (COMMIT, True, code_in(ROOT))
    assert found.finished[:10] in ("2025-12-31", "2026-01-01")  # of any time zone
    assert found.details["scores"]["model"]["r2gen"]["CIDEr"] == 0.8
    assert found.analysis == {"retrieval": {}}
    assert found.curves == {
        "stage_one": {"image_gain": [[1, 0.5], [2, 0.75]]},
        "stage_two": {"CIDEr": [[1, 0.5], [2, 0.75]]},
    }
    assert "secret" not in json.dumps(found.params)
    assert found.params["evaluate"]["chexbert"] == "evaluate-weights"
    again = read_folder(folder, ABLATIONS)
    assert again == found


def test_no_report_of_the_data_set_is_kept(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results go into git."""
    folder = make_run("one")
    about = json.loads((folder / paths.DETAILS).read_text())
    constant = {"report": "the heart is normal .", "chosen_by": "validation CIDEr"}
    about["systems"] = {"constant_report": constant}
    write_json(folder / paths.DETAILS, about)
    seal(folder)
    monkeypatch.setattr(compare, "read_experiments", lambda: {})
    assert CliRunner().invoke(app, ["compare", str(folder), "--save"]).exit_code == 0
    kept = read_results(paths.RESULT_RUNS)[-1]
    assert kept.details["systems"]["constant_report"] == {"chosen_by": "validation CIDEr"}
    assert all("the heart is normal" not in p.read_text() for p in paths.RESULTS.rglob("*.*"))


def test_without_a_log_of_the_training_the_evaluations_time_counts(make_run: MakeRun) -> None:
    folder = make_run("one")
    os.utime(folder / paths.DETAILS, (86_400 * 365, 86_400 * 365))
    found = read_folder(folder, ABLATIONS)
    assert (found.device, found.seconds) == (None, None)
    assert found.finished.startswith("197")


def test_a_run_that_was_not_analyzed_is_read_without(make_run: MakeRun) -> None:
    folder = make_run("one")
    (folder / paths.ANALYSIS_DETAILS).unlink()
    assert read_folder(folder, ABLATIONS).analysis == {}


@pytest.mark.parametrize("path", OUTS, ids=str)
def test_a_file_of_another_run_is_refused(make_run: MakeRun, path: Path) -> None:
    folder, other = make_run("one"), make_run("two", train__seed=1)
    if (folder / path).is_dir():
        (folder / path / "more.tsv").write_text("1")
    elif path == paths.ANALYSIS_DETAILS:
        (folder / path).write_text("{}")
    elif path in (paths.PREDICTIONS, paths.CURVES):
        (folder / path).write_text("other")
    else:
        shutil.copy(other / path, folder / path)
    with pytest.raises(UserError, match=rf"one: these files do not belong together:\n  {path} has"):
        read_folder(folder, ABLATIONS)
    if (folder / path).is_file() and path != paths.ANALYSIS_DETAILS:
        (folder / path).unlink()
        with pytest.raises(UserError, match=rf"{path} is missing"):
            read_folder(folder, ABLATIONS)


@pytest.mark.parametrize(
    "key",
    ["train.seed", "train.lambda1", "decode.beam_size", "train.select_by", "evaluate.resamples"],
)
def test_another_parameter_is_refused(make_run: MakeRun, key: str) -> None:
    """Also how reports were written and an epoch chosen, in which stages may differ."""
    folder = make_run("one")
    raw = yaml.safe_load((folder / paths.PARAMS).read_text())
    override(raw, key, "BLEU-4" if key == "train.select_by" else 2)
    (folder / paths.PARAMS).write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match=rf"with {key} .*, but params.yaml says"):
        read_folder(folder, ABLATIONS)


def test_reports_may_be_written_otherwise_than_in_training(make_run: MakeRun) -> None:
    """But not otherwise than params.yaml says."""
    folder = make_run("one", decode__beam_size=2)
    raw = yaml.safe_load((folder / paths.PARAMS).read_text())
    override(raw, "decode.beam_size", 5)
    (folder / paths.PARAMS).write_text(yaml.safe_dump(raw))
    with pytest.raises(
        UserError, match=r"evaluate was run with decode\.beam_size 2, but params.yaml"
    ):
        read_folder(folder, ABLATIONS)
    seal(folder, "evaluate")
    with pytest.raises(
        UserError, match=r"analyze was run with decode\.beam_size 2, but params.yaml"
    ):
        read_folder(folder, ABLATIONS)
    seal(folder, "analyze")
    assert read_folder(folder, ABLATIONS).params["decode"]["beam_size"] == 5


def test_an_evaluation_of_another_checkpoint_is_refused(make_run: MakeRun) -> None:
    folder = make_run("one")
    (folder / paths.STAGE_THREE).write_text("trained again")
    seal(folder, "train_stage_three")
    with pytest.raises(UserError, match="made by evaluate from models/stage_three.safetensors"):
        read_folder(folder, ABLATIONS)


def test_metrics_of_another_evaluation_are_refused(make_run: MakeRun) -> None:
    folder = make_run("one")
    write_json(folder / paths.METRICS, headline(details(0.25)))
    said = r"metrics.json and .*details.json are from two evaluations"
    with pytest.raises(UserError, match=said):
        read_folder(folder, ABLATIONS)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_run_with_other_code_is_refused(make_run: MakeRun, name: str) -> None:
    folder = make_run("one")
    seal(folder, name, code="another")
    with pytest.raises(UserError, match=f"one: {name} was run with code other than"):
        read_folder(folder, ABLATIONS)


def test_a_run_whose_records_hold_no_code_has_none(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_run("one")
    seal(folder, "train_stage_two", code=None)
    found = read_folder(folder, ABLATIONS)
    assert (found.code, found.clean, found.commit) == (None, None, COMMIT)
    assert "records do not name its code" in caplog.text


def test_code_of_no_commit_is_not_clean(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "commit_of", lambda code: None)
    monkeypatch.setattr(folders, "head", lambda: "ab" * 20)
    found = read_folder(make_run("one"), ABLATIONS)
    assert (found.commit, found.clean) == ("ab" * 20, False)


def test_code_in_the_folder_is_the_runs(make_run: MakeRun) -> None:
    folder = make_run("one")
    shutil.copy(ROOT / paths.DVC, folder)
    for name in ("pipeline", "uar"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert read_folder(folder, ABLATIONS).code == code_in(ROOT)
    (folder / "uar" / "model" / "uar.py").write_text("changed")
    with pytest.raises(UserError, match="train_stage_one was run with code other"):
        read_folder(folder, ABLATIONS)


def test_a_run_of_older_or_newer_code_has_the_parameters_of_then(make_run: MakeRun) -> None:
    folder = make_run("one")
    shutil.copy(ROOT / paths.DVC, folder)
    for name in ("pipeline", "uar"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    raw = yaml.safe_load((folder / paths.PARAMS).read_text())
    del raw["decode"]["length_penalty"]
    raw["train"]["lambda4"] = 1
    raw["train"]["warmup"] = "1e-1"  # a text to YAML
    (folder / paths.PARAMS).write_text(yaml.safe_dump(raw))
    for name in STAGES:  # as that code would have written them
        record = Record.load(folder / stages()[name].record)
        params = {k: v for k, v in record.params.items() if k != "decode.length_penalty"}
        replace(record, params=params).save(folder / stages()[name].record)
    text = (ROOT / paths.DVC).read_text()
    (folder / paths.DVC).write_text(re.sub(r"decode\.length_penalty(,\s*|)", "", text))
    found = read_folder(folder, ABLATIONS).params
    assert "length_penalty" not in found["decode"]
    assert (found["train"]["lambda4"], found["train"]["warmup"]) == (1, 0.1)


def test_parameters_of_no_row_are_refused(make_run: MakeRun) -> None:
    folder = make_run("one", train__lambda2=0.5)
    with pytest.raises(UserError, match=r"no row of ablations.yaml: .*train.lambda2 0.5"):
        read_folder(folder, ABLATIONS)


def test_compare_saves_folders_once(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "read_experiments", dict)
    made = [str(make_run(str(seed), train__seed=seed)) for seed in range(2)]
    shown = CliRunner().invoke(app, ["compare", *made])
    assert shown.exception is None, shown.output
    assert "2 runs in 1 settings, 2 of them not yet saved" in shown.output
    assert not paths.RESULT_RUNS.exists()
    for _ in range(2):
        assert CliRunner().invoke(app, ["compare", *made, made[0], "--save"]).exit_code == 0
    assert [kept.seed for kept in read_results(paths.RESULT_RUNS)] == [0, 1]
    assert "| uar | – | – | 0.550 ± 0.071 (0.530)" in (paths.RESULTS / "RESULTS.md").read_text()
    with pytest.raises(UserError, match="nowhere/params.yaml is missing"):
        CliRunner().invoke(app, ["compare", "nowhere"], catch_exceptions=False)


def test_rows_in_folders_are_tested_with_all_their_runs(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "read_experiments", dict)
    small: dict[str, Any] = {
        "evaluate__resamples": 20, "evaluate__meteor": False, "evaluate__protocols": ["r2gen"]
    }  # fmt: skip
    raw = yaml.safe_load(paths.PARAMS.read_text())
    for key, value in small.items():
        override(raw, key.replace("__", "."), value)
    paths.PARAMS.write_text(yaml.safe_dump(raw))
    one_stage = {"train__two_stage": False, **small}
    made = [make_run(f"uar{seed}", train__seed=seed, **small) for seed in (0, 1, 2)]
    made += [make_run(f"f{seed}", train__seed=seed, **one_stage) for seed in (1, 2)]
    for folder in made[3:]:
        write_predictions(folder / paths.PREDICTIONS, written("no .", "a .", *REPORTS[2:]))
        seal(folder, "evaluate")
    tested = CliRunner().invoke(app, ["compare", *map(str, made), "--against", "uar"])
    assert tested.exception is None, tested.output
    assert "4 studies; runs: uar 3, f 2." in tested.output.replace("\n", " ")
    [row, *_] = [line.split() for line in tested.output.splitlines() if line.startswith("f ")]
    assert row[1] == "1.000"
    assert float(row[2]) < 0.9
