"""From what DVC says of experiments to the tables beside the paper's."""

from __future__ import annotations

import csv
import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import paths
from pipeline.__main__ import app
from pipeline.experiments import compare, dvc, paired, results
from pipeline.experiments.dvc import (
    Experiment,
    code_in,
    code_of,
    commit_of,
    is_clean,
    parse_experiments,
    read_file,
)
from pipeline.experiments.results import (
    Cell,
    Result,
    append_results,
    collapsed,
    group,
    read_results,
)
from pipeline.experiments.rows import Ablations, Table, overridden
from pipeline.experiments.tables import csv_text, markdown, published_evidence
from tests.conftest import ROOT, labeller
from uar.core.errors import UserError
from uar.core.runs import TrainingRun, read_runs, record_run
from uar.evaluation.metrics import METRICS
from uar.evaluation.predictions import Prediction, write_predictions
from uar.evaluation.published import read_published
from uar.evaluation.systems import Measures, per_study, score_systems

WHOLE = {"model.fusion": "dual_gate"}
ABLATIONS = Ablations(
    WHOLE,
    {
        "table4": Table(
            title="Table 4: the fusion",
            published="table4_fusion",
            rows={
                "dual_gate": WHOLE,
                "none": {"model.fusion": "none"},
                "addition": {"model.fusion": "addition"},
            },
        )
    },
)
CODE, DATA = "c0dec0dec0", "da7ada7a"


def details(scores: float | None, distinct: int = 50, same: float | None = 0.25) -> dict[str, Any]:
    values = {"r2gen": dict.fromkeys(METRICS, scores)}
    found = {"clinical": {"micro": {"precision": 0.75, "recall": 0.5, "F1": 0.6}}}
    nothing = {"clinical": {"micro": {"precision": 0.0, "recall": 0.0, "F1": 0.0}}}
    return {
        "studies": 100,
        "scores": {
            "model": values | found,
            "constant_report": values | nothing,
            "shuffled_images": values,
        },
        "text": {"model": {"distinct_reports": distinct}},
        "unchanged_with_other_images": 0.75,
        "unchanged_with_findings": same,
        "signatures": {"r2gen": {"BLEU-4": "BLEU-4|r2gen|n:100"}},
        "packages": {"torch": "2.13.0"},
        "selection": {"by": "CIDEr", "epoch": 7, "validation": {"image_gain": 1.25}},
        "data_sha256": {"data/reports.parquet": "ab"},
        "checkpoint_sha256": "cd",
    }


def result(fusion: str, seed: int, scores: float | None, **changes: Any) -> Result:
    params = {"dataset.name": "iu_xray", "dataset.root": f"/{seed}", "model.d_model": 8}
    flat = {**params, "model.fusion": fusion, "train.seed": seed}
    made = Result(
        experiment=f"{fusion}-s{seed}",
        commit="0123456789abcdef",
        clean=True,
        code=CODE,
        data=DATA,
        finished="2026-01-01T00:00:00",
        seed=seed,
        device="cpu",
        seconds=60.0 + seed,
        params=overridden({}, flat),
        details=details(scores),
        analysis={"alignment": {"stage_two": {"score": scores}}, "grounding": None},
        curves={"stage_two": {"CIDEr": [[8, 0.5]], "cross_entropy": [[7, 30.0], [8, 31.0]]}},
    )
    return replace(made, **changes)


# ---- dvc exp show


def shown() -> list[dict[str, Any]]:
    """Recorded with DVC 3.67: `none-s9` failed and was queued again."""
    return json.loads((ROOT / "tests" / "exp_show.json").read_text())


@pytest.fixture
def kept_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What experiments left, by path; their code is the commit's."""
    curve = "dvclive/stage_two/plots/metrics/val/CIDEr.tsv"
    files = {str(paths.DETAILS): json.dumps(details(0.5)), curve: "step\tCIDEr\n0\t1.25\n1\t0.5\n"}
    monkeypatch.setattr(
        results,
        "read_file",
        lambda rev, path: files[str(path)].encode() if str(path) in files else None,
    )
    monkeypatch.setattr(results, "code_of", lambda rev: f"code of {rev[:4]}")
    monkeypatch.setattr(results, "is_clean", lambda commit, rev: commit[:4] == "c17f")
    monkeypatch.setattr(paths, "RUN_LOG", tmp_path / "runs.jsonl")
    return files


def test_a_recorded_dvc_exp_show(kept_files: dict[str, Any]) -> None:
    found = parse_experiments(shown())
    assert {name: e.state for name, e in found.items()} == {
        "uar-s1": "success",
        "none-s2": "queued",
        "none-s9": "queued",
    }
    assert found["none-s2"].params["model"]["fusion"] == "none"
    record_run(
        paths.RUN_LOG,
        TrainingRun(
            checkpoint="cd",
            start="ef",
            seconds=50.0,
            device="cpu",
            processes=1,
            finished="2026-01-01T00:00:00",
        ),
    )
    one = Result.of_experiment(found["uar-s1"])
    assert one is not None
    assert (one.experiment, one.seed, one.device, one.seconds) == ("uar-s1", 1, "cpu", 50.0)
    assert one.commit == "c17fde9b741303b163ed150a7e45cfb62d1de46c"
    assert (one.code, one.clean) == ("code of c1e5", True)
    assert one.details == details(0.5)
    assert one.analysis == {}
    assert one.curves == {"stage_two": {"CIDEr": [[0, 1.25], [1, 0.5]]}}
    assert Result.of_experiment(found["none-s2"]) is None
    assert Result.of_experiment(replace(found["uar-s1"], name="data-0a1b2c3d")) is None
    paths.RUN_LOG.unlink()
    elsewhere = Result.of_experiment(found["uar-s1"])
    assert elsewhere is not None
    assert (elsewhere.device, elsewhere.seconds) == (None, None)
    kept_files.clear()
    assert Result.of_experiment(found["uar-s1"]) is None

    (master,) = (baseline for baseline in shown() if baseline["name"] == "master")
    failed = [e for e in master["experiments"] if e["executor"]["state"] == "failed"]
    assert parse_experiments([{**master, "experiments": failed}])["none-s9"].state == "failed"


def test_a_dvc_exp_show_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so when a worker removes a file in between."""
    failures = ["once", "twice"]

    def call_dvc(*arguments: str) -> str:
        if failures:
            raise UserError(failures.pop())
        return json.dumps(shown())

    monkeypatch.setattr(dvc, "_dvc", call_dvc)
    monkeypatch.setattr(dvc, "_checked", lambda command: "")
    monkeypatch.setattr(dvc.time, "sleep", lambda seconds: None)
    assert set(dvc.read_experiments()) == {"uar-s1", "none-s2", "none-s9"}
    failures += ["always"] * 9
    with pytest.raises(UserError, match="always"):
        dvc.read_experiments()


def test_code_and_files_of_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a repository: code that a stage names counts, and nothing else."""
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)

    def call(*command: str) -> str:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(**contents: str) -> str:
        for name, text in contents.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        call("git", "add", "-A")
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
        call("git", *identity, "commit", "-qm", "a")
        return call("git", "rev-parse", "HEAD")

    call("git", "init", "-q")
    call("dvc", "init", "-q")
    (tmp_path / "dvc.yaml").write_text(
        "stages: {a: {cmd: 'true', deps: [uar/used.txt, uar/sub, params.yaml]}}"
    )
    (tmp_path / "params.yaml").write_text("a: 1")
    (tmp_path / "uar" / "sub").mkdir(parents=True)
    (tmp_path / "uar" / "sub" / "b.py").write_text("b = 1")
    first = commit(notes="one", uar__other="1")
    same = commit(notes="two")
    assert code_of(first) == code_of(same) == code_in(tmp_path)
    assert commit_of(code_of(first)) == first
    assert is_clean(first, same)
    for name in ("b.py", "c.py", "b/c.csv", "b-c.py", "b.csv"):  # git has an order of its own
        (tmp_path / "uar" / "sub" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "uar" / "sub" / name).write_text("b = 2")
    (tmp_path / "uar" / "sub" / "c.py").chmod(0o755)
    assert commit_of(code_in(tmp_path)) is None
    other = commit(notes="three")
    assert code_of(other) == code_in(tmp_path)
    assert commit_of(code_in(tmp_path)) == other == dvc.head()
    assert commit_of(code_of(first)) == first
    assert code_of(other) != code_of(first)
    assert not is_clean(first, other)
    assert read_file(first, Path("notes")) == b"one"
    assert read_file(other, Path("notes")) == b"three"
    assert read_file(other, Path("absent")) is None
    assert read_file("0" * 40, Path("notes")) is None


def test_runs_are_logged_beside_version_control(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "runs.jsonl"
    assert read_runs(path) == {}
    for seconds in (1.0, 2.0):
        record_run(
            path,
            TrainingRun(
                checkpoint="ab",
                start=None,
                seconds=seconds,
                device="cpu",
                processes=1,
                finished="2026-01-01",
            ),
        )
    with path.open("a") as file:
        file.write('{"checkpoint": "cd"}\n{"half a li\n')
    assert read_runs(path) == {
        "ab": TrainingRun(
            checkpoint="ab",
            start=None,
            seconds=2.0,
            device="cpu",
            processes=1,
            finished="2026-01-01",
        )
    }


# ---- grouping


def test_cells() -> None:
    assert str(Cell.of([0.1, 0.2, 0.3])) == "0.200 ± 0.100"  # sample standard deviation
    assert str(Cell.of([0.25])) == "0.250"
    assert str(Cell.of([])) == "–"
    assert str(Cell.of([0.1, None])) == "–"


def test_settings_are_what_rows_and_seeds_share() -> None:
    wider = result("none", 0, 0.5)
    wider = replace(wider, params=overridden(wider.params, {"model.d_model": 16}))
    other = result("gates", 0, 0.5)  # no row of any table
    two = group([result("none", 1, 0.2), result("none", 0, 0.1), wider, other], ABLATIONS)
    assert len(two) == 2
    by_width = {setting.params["model.d_model"]: setting for setting in two}
    assert [run.seed for run in by_width[8].models["none"]] == [0, 1]
    assert by_width[16].models == {"none": [wider]}


@pytest.mark.parametrize("change", [{"code": "other"}, {"data": "other"}])
def test_runs_of_other_code_or_data_are_never_averaged(change: dict[str, Any]) -> None:
    runs = [result("none", 0, 0.1), result("none", 1, 0.2, **change)]
    assert [len(setting.runs) for setting in group(runs, ABLATIONS)] == [1, 1]


def test_portable_and_native_runs_are_never_averaged() -> None:
    old = result("none", 0, 0.1)
    native, portable = (
        replace(
            result("none", seed, 0.2), params=overridden(old.params, {"arithmetic": arithmetic})
        )
        for seed, arithmetic in ((1, "native"), (2, "portable"))
    )
    settings = group([old, native, portable], ABLATIONS)
    # records of before there was a choice are native, and their setting has the name it had
    assert [run.seed for setting in settings for run in setting.runs] == [0, 1, 2]
    assert [len(setting.runs) for setting in settings] == [2, 1]
    assert settings[0].id == group([old], ABLATIONS)[0].id
    assert settings[1].params["arithmetic"] == "portable"


def test_runs_whose_code_is_unknown_are_apart_by_commit() -> None:
    runs = [result("none", seed, 0.1, code=None, commit=f"{seed // 2}" * 40) for seed in range(4)]
    settings = group(runs, ABLATIONS)
    assert [setting.code for setting in settings] == ["commit 0000000000", "commit 1111111111"]
    assert [len(setting.runs) for setting in settings] == [2, 2]


def test_the_last_of_the_same_run_counts() -> None:
    old = result("none", 0, 0.1)
    new = result("none", 0, 0.2, finished="2026-01-02T00:00:00")
    for runs in ([old, new], [new, old]):
        (setting,) = group(runs, ABLATIONS)
        assert setting.models == {"none": [new]}


def test_a_recipe_changed_after_a_test_score_is_marked() -> None:
    first = result("none", 0, 0.1)
    wider = replace(
        result("none", 0, 0.2, finished="2026-01-02"),
        params=overridden(first.params, {"model.d_model": 16}),
    )
    demo = replace(
        result("none", 0, 0.2, finished="2026-01-03"),
        params=overridden(first.params, {"dataset.name": "demo"}),
    )
    settings = group([demo, wider, first], ABLATIONS)
    assert [(s.dataset, s.scored_before) for s in settings] == [
        ("demo", 0), ("iu_xray", 0), ("iu_xray", 1),
    ]  # fmt: skip
    text = markdown(settings, ABLATIONS)
    headings = [line.split()[-1] for line in text.splitlines() if ", setting" in line]
    old, new = (setting.id for setting in settings[1:])
    assert headings == [settings[0].id, new, old]
    assert text.count("No earlier recipe of this data set was scored on the test split") == 2
    assert text.count("The test scores of 1 earlier recipes of this data set were known") == 1


@pytest.mark.parametrize(
    ("distinct", "same", "mark"),
    [(5, 0.49, ""), (4, 0.1, " †1/1"), (50, 0.5, " †1/1"), (4, None, " †1/1"), (5, None, "")],
)
def test_collapsed_runs_are_marked(distinct: int, same: float | None, mark: str) -> None:
    assert collapsed([result("none", 0, 0.1, details=details(0.1, distinct, same))]) == mark


# ---- tables


def test_the_pages_exact_text() -> None:
    """Two seeds of one row, one of another, none of the third."""
    runs = [
        result("dual_gate", 0, 0.25),
        result("dual_gate", 1, 0.35, details=details(0.35, 3, None)),
        result("none", 0, 0.5, clean=False, curves=None),
    ]
    (setting,) = settings = group(runs, ABLATIONS)
    text = markdown(settings, ABLATIONS)
    nats = "cross-entropy, nats | image gain, nats |"
    head = f"|  | {nats} BLEU-1 | BLEU-2 | BLEU-3 | BLEU-4 | METEOR | ROUGE-L | CIDEr |"
    looking = (
        " distinct reports | same with other images | same, studies with a finding |"
        " image gain, validation | CIDEr, another study's images | findings, micro F1 | precision |"
        " recall |"
    )
    findings = "0.600 ± 0.000 | 0.750 ± 0.000 | 0.500 ± 0.000"
    rule = " --- |"
    tables = f"""
## iu_xray, setting {setting.id}

Code: c0dec0dec0. Data: da7ada7a. Signature: `BLEU-4|r2gen|n:100`. Packages: torch 2.13.0. \
No earlier recipe of this data set was scored on the test split.

<details><summary>parameters that its rows share</summary>

```yaml
dataset.name: iu_xray
model.d_model: 8
```

</details>

### Table 4: the fusion

{head}{looking} epoch | seeds | commit | tree | device | time | params |
|{rule * 25}
| dual_gate †1/2 | – | – \
| 0.300 ± 0.071 (0.530) | 0.300 ± 0.071 (0.365) | 0.300 ± 0.071 (0.263) \
| 0.300 ± 0.071 (0.200) | 0.300 ± 0.071 (0.218) | 0.300 ± 0.071 (0.405) | 0.300 ± 0.071 (0.501) \
| 50 3 of 100 | 75% 75% | 25% – | 1.250 ± 0.000 | 0.300 ± 0.071 | {findings} \
| CIDEr: 7/8 7/8 | 0 1 | 0123456789 | clean | cpu | 60 s |  |
| none | – | – \
| 0.500 (0.439) | 0.500 (0.296) | 0.500 (0.208) | 0.500 (0.155) | 0.500 (0.193) \
| 0.500 (0.373) | 0.500 (0.405) | 50 of 100 | 75% | 25% | 1.250 | 0.500 | 0.600 | 0.750 | 0.500 \
| CIDEr: 7 | 0 | 0123456789 | changed | cpu | 60 s | model.fusion=none |
| addition | – | – \
| – (0.487) | – (0.318) | – (0.225) | – (0.167) | – (0.214) | – (0.386) | – (0.376) \
| – | – | – | – | – | – | – | – |  |  |  |  |  |  | model.fusion=addition |

### Evidence beyond the paper's tables

|  | {nats} CIDEr |{looking} findings, macro F1 | five findings, micro F1 | No Finding F1 \
| micro F1, nearest study | micro F1, constant | alignment score | alignment score, true pairs \
| R@5, image to report | median rank | pointing, chance | pointing without TIR | pointing with TIR \
| epoch | seeds |
|{rule * 26}
| dual_gate †1/2 | – | – \
| 0.300 ± 0.071 | 50 3 of 100 | 75% 75% | 25% – | 1.250 ± 0.000 | 0.300 ± 0.071 \
| {findings} |{" – |" * 4} 0.000 ± 0.000 | 0.300 ± 0.071 |{" – |" * 6} CIDEr: 7/8 7/8 | 0 1 |
| none | – | – \
| 0.500 | 50 of 100 | 75% | 25% | 1.250 | 0.500 | 0.600 | 0.750 | 0.500 |{" – |" * 4} 0.000 \
| 0.500 |{" – |" * 6} CIDEr: 7 | 0 |
"""
    assert text.endswith(tables)
    first = text.removesuffix(tables)
    assert f"## Table 1: IU X-Ray\n\n{head}{looking} epoch | seeds |\n|{rule * 20}\n" in first
    blank = "|  " * 9
    assert (
        f"| CoAtt |  |  | (0.455) | (0.288) | (0.205) | (0.154) | (–) | (0.369) | (0.277) {blank}|"
        in first
    )
    assert "| SentSAT+KG ‡ |  |  | (0.441) | (0.291) | (0.203) | (0.417) |" in first
    assert first.count("‡ SentSAT+KG: as printed in the paper") == 1
    cells = "| 0.300 ± 0.071 " * 7
    label = "UAR, this project †1/2"
    own = "| 50 3 of 100 | 75% 75% | 25% – | 1.250 ± 0.000 | 0.300 ± 0.071 "
    own += f"| {findings} | CIDEr: 7/8 7/8 "
    assert f"| {label}, {setting.id} | – | – {cells}{own}| 0 1 |\n" in first
    zeros = "| 0.000 ± 0.000 " * 3
    for label, said in {"constant report": zeros, "another study's images": "| – | – | – "}.items():
        assert f"| {label}, {setting.id} |  |  {cells}|  |  |  |  |  {said}|  | 0 1 |\n" in first
    assert "† A run has collapsed if its distinct reports are fewer than 5 %" in first


def test_the_csv_has_every_cell_and_digit() -> None:
    run = result("none", 3, 1 / 3, seconds=None)
    run.details["scores"]["model"]["r2gen"]["METEOR"] = None
    (setting,) = settings = group([run], ABLATIONS)
    lines = list(csv.DictReader(csv_text(settings, ABLATIONS).splitlines()))
    published = [line for line in lines if line["table"] == "table1"]
    assert len(published) == (11 + 10) * len(METRICS)
    assert [line["paper"] for line in published if line["row"] == "CoAtt"] == [
        "0.455", "0.288", "0.205", "0.154", "", "0.369", "0.277",
    ]  # fmt: skip
    cells = {(line["row"], line["metric"]): line for line in lines if line["table"] == "table4"}
    assert len(cells) == 3 * len(METRICS)
    assert cells["none", "CIDEr"] == {
        "setting": setting.id,
        "dataset": "iu_xray",
        "table": "table4",
        "row": "none",
        "metric": "CIDEr",
        "mean": "0.3333333333333333",
        "sd": "",
        "paper": "0.405",
        "collapsed": "0",
        "seeds": "3",
        "selected_by": "CIDEr",
        "epochs": "7/8",
        "commits": "0123456789",
        "tree": "clean",
        "code": CODE,
        "data": DATA,
        "devices": "cpu",
        "seconds": "",
        "params": "model.fusion=none",
    }
    assert cells["none", "METEOR"]["mean"] == cells["addition", "CIDEr"]["mean"] == ""
    assert cells["addition", "CIDEr"]["paper"] == "0.376"
    more = {(line["row"], line["metric"]): line for line in lines if line["table"] == "evidence"}
    assert more["none", "alignment score"]["mean"] == str(1 / 3)
    assert more["none", "distinct reports"]["mean"] == "50.0"
    assert more["none", "pointing with TIR"]["mean"] == ""  # no boxes
    assert published_evidence("a", "alignment score") == 0.49  # Figure 4 (a)
    assert published_evidence("a", "CIDEr") is None  # Table 2 has it


@pytest.mark.parametrize("name", ["table1_iu_xray", "table1_mimic_cxr", "table2_modules"])
def test_published_rows_hold_every_metric(name: str) -> None:
    rows = read_published(name)
    assert all(list(row) == list(METRICS) for row in rows.values())
    assert (rows["UAR"] if "UAR" in rows else rows["uar"])["CIDEr"] in (0.501, 0.246)
    if name == "table1_iu_xray":
        assert rows["R2Gen"]["CIDEr"] is None


# ---- results/runs and the command


def test_committed_results_are_results_and_their_tables() -> None:
    kept = read_results(ROOT / paths.RESULT_RUNS)
    assert len(kept) >= 41
    assert all(run.params["train"]["seed"] == run.seed for run in kept)
    assert all("root" not in run.params["dataset"] for run in kept)
    ablations = Ablations.load(ROOT / paths.ABLATIONS)
    settings = group(kept, ablations)
    assert (ROOT / paths.RESULTS / "RESULTS.md").read_text() == markdown(settings, ablations)
    assert (ROOT / paths.RESULTS / "RESULTS.csv").read_text() == csv_text(settings, ablations)


def test_results_are_appended_and_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    assert read_results(folder) == []
    one, two = result("none", 0, 0.1), result("none", 1, None)
    append_results(folder, [one])
    path = folder / f"iu_xray-{CODE}.jsonl"
    before = path.read_text()
    append_results(folder, [two])
    assert path.read_text().startswith(before)
    assert read_results(folder) == [one, two]
    old = result("none", 2, 0.2, clean=None, code=None)
    append_results(folder, [old])
    assert sorted(path.name for path in folder.iterdir()) == ["iu_xray-0123456789.jsonl", path.name]
    assert read_results(folder) == [old, one, two]


@pytest.mark.parametrize(
    ("line", "found"),
    [('{"r2gen": {}}', r"found \['r2gen'\]"), ("[1]", "found a list"), ("{", "not JSON")],
)
def test_a_line_that_is_no_result_is_refused(tmp_path: Path, line: str, found: str) -> None:
    path = tmp_path / "demo-0123456789.jsonl"
    path.write_text(f"{json.dumps(asdict(result('none', 0, 0.1)))}\n{line}\n")
    with pytest.raises(UserError, match=rf"demo-0123456789.jsonl, line 2: .*{found}"):
        read_results(tmp_path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and the rows, and nothing else."""
    for name in (paths.PARAMS, paths.ABLATIONS):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_compare_writes_when_asked_and_reads_in_another_clone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kept_files: dict[str, Any]
) -> None:
    monkeypatch.setattr(compare, "read_experiments", lambda: parse_experiments(shown()))
    before = sorted(folder.rglob("*"))
    invoked = CliRunner().invoke(app, ["compare"])
    assert invoked.exit_code == 0, invoked.output
    assert "1 runs in 1 settings, 1 of them not yet saved" in invoked.output
    assert "0.500" in invoked.output
    assert sorted(folder.rglob("*")) == before

    assert CliRunner().invoke(app, ["compare", "--save"]).exit_code == 0
    page = (paths.RESULTS / "RESULTS.md").read_text()
    assert "| uar | – | – | 0.500 (0.530)" in page
    [kept] = read_results(paths.RESULT_RUNS)
    assert kept.details == details(0.5)
    assert "root" not in kept.params["dataset"]
    CliRunner().invoke(app, ["compare", "--save"])
    assert read_results(paths.RESULT_RUNS) == [kept]  # once

    monkeypatch.setattr(compare, "read_experiments", dict)  # as in another clone
    assert CliRunner().invoke(app, ["compare", "--save"]).exit_code == 0
    assert (paths.RESULTS / "RESULTS.md").read_text() == page


# ---- tests of methods


REPORTS = ["the heart is normal .", "the lungs are clear .", "there is an effusion .", "no edema ."]


def written(*generated: str) -> list[Prediction]:
    return [
        Prediction(str(i), report=truth, reference=truth, generated=text, log_probability=-1.0)
        for i, (truth, text) in enumerate(zip(REPORTS, generated, strict=True))
    ]


@pytest.fixture
def clone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Experiment]:
    """Finished runs of three rows with two seeds, and one of an older setting."""
    whole = Ablations.load().whole | {"dataset.name": "demo"}
    experiments, outputs = {}, {}
    for row, change, right in (
        ("base", {"model.lsu": False, "model.integration": False, "train.lambda2": 0,
                  "model.tir": "none", "train.two_stage": False}, 1),
        ("a", {"model.integration": False, "train.lambda2": 0, "model.tir": "none",
               "train.two_stage": False}, 2),
        ("uar", {}, 3),
    ):  # fmt: skip
        for seed in (0, 1):
            params = overridden({}, {**whole, **change, "train.seed": seed})
            name = f"{row}-s{seed}"
            experiments[name] = Experiment(
                name, "success", f"rev {name}", "c", f"2026-01-0{seed + 1}", params,
                {str(paths.METRICS): {}},
            )  # fmt: skip
            said = [*REPORTS[:right], *["the the ."] * (4 - right)]
            outputs[f"rev {name}"] = [
                replace(p, cross_entropy=10.0 - right + int(p.study_id) + seed / 10, image_gain=1.0)
                for p in written(*said)
            ]
    outputs["rev old"] = outputs["rev uar-s0"]
    experiments["old"] = replace(experiments["uar-s0"], name="old", finished="2025", rev="rev old")

    def read(rev: str, path: Path) -> bytes | None:
        if path == paths.DETAILS:
            measures = Measures({"clinical": labeller()}, {}, ["r2gen"], meteor=False)
            scores = score_systems({"model": outputs[rev]}, measures)["model"]
            recorded = {"per_study": per_study(outputs[rev], scores)}
            return json.dumps(details(0.5) | recorded).encode()
        if path != paths.PREDICTIONS:
            return None
        write_predictions(folder / "copy.jsonl", outputs[rev])
        return (folder / "copy.jsonl").read_bytes()

    for module in (paired, results):
        monkeypatch.setattr(module, "read_file", read)
    monkeypatch.setattr(results, "code_of", lambda rev: "old" if rev == "rev old" else "new")
    monkeypatch.setattr(results, "is_clean", lambda commit, rev: True)
    monkeypatch.setattr(compare, "read_experiments", lambda: experiments)
    monkeypatch.setattr("pipeline.measures.Labeller", labeller)
    monkeypatch.setenv("COLUMNS", "150")
    text = paths.PARAMS.read_text().replace("meteor: true", "meteor: false")
    paths.PARAMS.write_text(text.replace("  - r2gen\n  - coco\n", "  - r2gen\n"))
    return experiments


def test_paired_takes_files_experiments_and_rows(
    folder: Path, clone: dict[str, Experiment]
) -> None:
    write_predictions(folder / "own.jsonl", written(*REPORTS))

    def rows(*sources: str) -> dict[str, list[str]]:
        invoked = CliRunner().invoke(app, ["compare", "--paired", *sources])
        assert invoked.exception is None, invoked.output
        return {line.split()[0]: line.split() for line in invoked.output.splitlines() if line}

    own = rows("own.jsonl", "uar-s0")
    assert own["BLEU-1"][1:3] == ["1.000", "0.889"]  # 16 of 18 words
    assert own["BLEU-1"][-3:] == ["-", "-", "-"]  # of one run no p-value, nor any power
    assert own["4"][1:7] == ["studies;", "runs:", "own.jsonl", "1,", "uar-s0", "1."]
    assert "cross_entropy" not in own  # the file has none
    by_row = rows("base", "uar")
    assert by_row["cross_entropy"][1:4] == ["10.550", "8.550", "-2.000"]
    corrected = float(by_row["cross_entropy"][-2])
    assert float(by_row["cross_entropy"][-3]) < corrected <= 1  # over all that the table shows
    assert by_row["4"][3:7] == ["base", "2,", "uar", "2."]
    assert rows("uar-s0", "old")["BLEU-1"][1:3] == ["0.889", "0.889"]


def test_what_cannot_be_paired_is_named(folder: Path, clone: dict[str, Experiment]) -> None:
    def refusal(*options: str) -> str:
        error = CliRunner().invoke(app, ["compare", *options]).exception
        assert isinstance(error, UserError)
        return str(error)

    unknown = refusal("--paired", "uar", "nobody")
    assert unknown.startswith("'nobody' is neither a file nor a row or experiment of this clone")
    assert "a, base, uar, a-s0" in unknown
    write_predictions(folder / "own.jsonl", written(*REPORTS))
    for number, change in enumerate(({"study_id": "9"}, {"reference": "the heart ."})):
        rows = written(*REPORTS)
        write_predictions(folder / "other.jsonl", [*rows[:3], replace(rows[3], **change)])
        message = refusal("--paired", "own.jsonl", "other.jsonl")
        found = ("study 3 against 9", "study 3 has different references")[number]
        assert f"own.jsonl and other.jsonl, line 4: {found}" in message
    write_predictions(folder / "fewer.jsonl", written(*REPORTS)[1:])
    assert "4 studies against 3" in refusal("--paired", "own.jsonl", "fewer.jsonl")
    assert "no setting 'f00'; available: " in refusal("--against", "uar", "--setting", "f00")
    assert "no finished run of row 'f'" in refusal("--against", "f")
    assert CliRunner().invoke(app, ["compare", "--paired", "a.jsonl"]).exit_code == 2


def test_rows_against_one_are_corrected_for_their_number(clone: dict[str, Experiment]) -> None:
    invoked = CliRunner().invoke(app, ["compare", "--against", "base"])
    assert invoked.exception is None, invoked.output
    words = " ".join(invoked.output.split())
    assert words.startswith("cross_entropy (nats, lower is better), each row against base")
    table = invoked.output.split("image_gain")[0]
    lines = {line.split()[0]: line.split() for line in table.splitlines() if line.strip()}
    for row, change in (("a", "-1.000"), ("uar", "-2.000")):
        assert lines[row][3] == change
        p_value, corrected = float(lines[row][-2]), float(lines[row][-1])
        assert p_value <= corrected <= 1
    assert lines["Smallest"][1:8] == [
        "difference",
        "that",
        "this",
        "table",
        "could",
        "have",
        "shown",
    ]
    assert "Holm's correction over the rows of each table" in words
    assert "CIDEr (r2gen)" in words
    assert "micro F1 (clinical)" in words
    assert "METEOR" not in invoked.output  # not asked for


def test_a_recorded_setting_is_tested_as_before_where_its_predictions_are_gone(
    folder: Path, clone: dict[str, Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CliRunner().invoke(app, ["compare", "--save"]).exit_code == 0
    page = (paths.RESULTS / "RESULTS.md").read_text()
    assert "| against base, nats, lower is better | difference |" in page
    assert "| uar | -2.000 |" in page
    assert "Smallest difference that this table could have shown (80 % power, Holm): " in page
    kept = group(read_results(paths.RESULT_RUNS), Ablations.load())
    known = {setting.code: setting.id for setting in kept}

    against = ["compare", "--against", "base", "--setting", known["new"]]
    before = CliRunner().invoke(app, against)
    assert "micro F1 (clinical)" in before.output
    monkeypatch.setattr(compare, "read_experiments", dict)  # as in another clone
    here = CliRunner().invoke(app, against)
    assert here.exception is None, here.output
    assert here.output == before.output

    error = (
        CliRunner()
        .invoke(app, ["compare", "--against", "uar", "--setting", known["old"]])
        .exception
    )
    assert "there is no other row to test against uar" in str(error)

    [path] = paths.RESULT_RUNS.glob("demo-new.jsonl")
    path.write_text(path.read_text().replace('"statistics"', '"no_statistics"', 1))
    fewer = CliRunner().invoke(app, against)  # a run was recorded before any but nats were
    assert "-2.000" in fewer.output
    assert "image_gain (nats)" in fewer.output
    assert "BLEU" not in fewer.output
    path.write_text(path.read_text().replace('"per_study"', '"no_study"'))
    error = CliRunner().invoke(app, ["compare", "--against", "base"]).exception
    assert "has no recorded per-study scores" in str(error)
