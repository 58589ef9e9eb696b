"""From what DVC says of experiments to the tables beside the paper's."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import paths
from pipeline.__main__ import app
from pipeline.experiments import compare, dvc, paired
from pipeline.experiments.dvc import parse_experiments
from pipeline.experiments.results import Cell, Result, csv_text, group, markdown, published_evidence
from pipeline.experiments.rows import Ablations, Table, overridden
from tests.conftest import ROOT
from uar.core.errors import UserError
from uar.evaluation.metrics import METRICS
from uar.evaluation.predictions import Prediction, write_predictions
from uar.evaluation.published import read_published

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


def result(fusion: str, seed: int, scores: float, **changes: Any) -> Result:
    params = {"dataset.name": "iu_xray", "dataset.root": f"/{seed}", "model.d_model": 8}
    flat = {**params, "model.fusion": fusion, "train.seed": seed}
    values = {"r2gen": dict.fromkeys(METRICS, scores)}
    made = Result(
        experiment=f"{fusion}-s{seed}",
        commit="0123456789abcdef",
        finished="2026-01-01T00:00:00",
        seed=seed,
        device="cpu",
        seconds=60.0 + seed,
        params=overridden({}, flat),
        metrics={**values, "constant_report": values, "shuffled_images": values},
        analysis={"alignment": {"stage_two": {"score": scores}}, "grounding": None},
    )
    return replace(made, **changes)


# ---- dvc exp show


def test_a_recorded_dvc_exp_show() -> None:
    """Recorded with DVC 3.67: `none-s9` failed and was queued again."""
    shown = json.loads((ROOT / "tests" / "exp_show.json").read_text())
    found = parse_experiments(shown)
    assert {name: e.state for name, e in found.items()} == {
        "uar-s1": "success",
        "none-s2": "queued",
        "none-s9": "queued",
    }
    assert found["none-s2"].params["model"]["fusion"] == "none"
    one = Result.of_experiment(found["uar-s1"])
    assert one is not None
    assert (one.experiment, one.seed, one.device, one.seconds) == ("uar-s1", 1, "cpu", 50.0)
    assert one.commit == "c17fde9b741303b163ed150a7e45cfb62d1de46c"
    assert one.metrics == {"r2gen": {"BLEU-4": 0.1, "CIDEr": 0.25}}  # DVC drops the null METEOR
    assert Result.of_experiment(found["none-s2"]) is None
    assert Result.of_experiment(replace(found["uar-s1"], name="data-0a1b2c3d")) is None

    (master,) = (baseline for baseline in shown if baseline["name"] == "master")
    failed = [e for e in master["experiments"] if e["executor"]["state"] == "failed"]
    assert parse_experiments([{**master, "experiments": failed}])["none-s9"].state == "failed"


def test_a_dvc_exp_show_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so when a worker removes a file in between."""
    failures = ["once", "twice"]

    def call_dvc(*arguments: str) -> str:
        if failures:
            raise UserError(failures.pop())
        return (ROOT / "tests" / "exp_show.json").read_text()

    monkeypatch.setattr(dvc, "_dvc", call_dvc)
    monkeypatch.setattr(dvc, "_checked", lambda command: "")
    monkeypatch.setattr(dvc.time, "sleep", lambda seconds: None)
    assert set(dvc.read_experiments()) == {"uar-s1", "none-s2", "none-s9"}
    failures += ["always"] * 9
    with pytest.raises(UserError, match="always"):
        dvc.read_experiments()


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


def test_the_last_of_the_same_run_counts() -> None:
    old = result("none", 0, 0.1)
    new = result("none", 0, 0.2, finished="2026-01-02T00:00:00")
    for runs in ([old, new], [new, old]):
        (setting,) = group(runs, ABLATIONS)
        assert setting.models == {"none": [new]}


# ---- tables


def test_the_pages_exact_text() -> None:
    """Two seeds of one row, one of another, none of the third."""
    runs = [result("dual_gate", 0, 0.25), result("dual_gate", 1, 0.35), result("none", 0, 0.5)]
    (setting,) = settings = group(runs, ABLATIONS)
    text = markdown(settings, ABLATIONS)
    head = "|  | BLEU-1 | BLEU-2 | BLEU-3 | BLEU-4 | METEOR | ROUGE-L | CIDEr |"
    rule = " --- |"
    tables = f"""
## iu_xray, setting {setting.id}

<details><summary>parameters that its rows share</summary>

```yaml
dataset.name: iu_xray
model.d_model: 8
```

</details>

### Table 4: the fusion

{head} seeds | commit | device | time | params |
|{rule * 13}
| dual_gate | 0.300 ± 0.071 (0.530) | 0.300 ± 0.071 (0.365) | 0.300 ± 0.071 (0.263) \
| 0.300 ± 0.071 (0.200) | 0.300 ± 0.071 (0.218) | 0.300 ± 0.071 (0.405) | 0.300 ± 0.071 (0.501) \
| 0 1 | 0123456789 | cpu | 60 s |  |
| none | 0.500 (0.439) | 0.500 (0.296) | 0.500 (0.208) | 0.500 (0.155) | 0.500 (0.193) \
| 0.500 (0.373) | 0.500 (0.405) | 0 | 0123456789 | cpu | 60 s | model.fusion=none |
| addition | – (0.487) | – (0.318) | – (0.225) | – (0.167) | – (0.214) | – (0.386) | – (0.376) \
|  |  |  |  | model.fusion=addition |

### Evidence beyond the paper's tables

|  | CIDEr | CIDEr, another study's images | distinct reports | clinical micro F1 \
| clinical macro F1 | alignment score | alignment score, true pairs | R@5, image to report \
| median rank | pointing, chance | pointing without TIR | pointing with TIR | seeds |
|{rule * 14}
| dual_gate | 0.300 ± 0.071 | 0.300 ± 0.071 | – | – | – | 0.300 ± 0.071 |{" – |" * 6} 0 1 |
| none | 0.500 | 0.500 | – | – | – | 0.500 |{" – |" * 6} 0 |
"""
    assert text.endswith(tables)
    first = text.removesuffix(tables)
    assert f"## Table 1: IU X-Ray\n\n{head} seeds |\n|{rule * 9}\n| CoAtt | (0.455) |" in first
    cells = "| 0.300 ± 0.071 " * 7
    for label in ("UAR, this project", "constant report", "another study's images"):
        assert f"| {label}, {setting.id} {cells}| 0 1 |\n" in first
    assert first.endswith(
        "| UAR | (0.363) | (0.229) | (0.158) | (0.107) | (0.157) | (0.289) | (0.246) |  |\n"
    )


def test_the_csv_has_every_cell_and_digit() -> None:
    scores = {**dict.fromkeys(METRICS, 1 / 3), "METEOR": None}
    run = result("none", 3, 0, metrics={"r2gen": scores}, seconds=None)
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
        "seeds": "3",
        "commits": "0123456789",
        "devices": "cpu",
        "seconds": "",
        "params": "model.fusion=none",
    }
    assert cells["none", "METEOR"]["mean"] == cells["addition", "CIDEr"]["mean"] == ""
    assert cells["addition", "CIDEr"]["paper"] == "0.376"
    more = {(line["row"], line["metric"]): line for line in lines if line["table"] == "evidence"}
    assert more["none", "alignment score"]["mean"] == "0.0"
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


# ---- result files and the command


def test_committed_result_files_are_results() -> None:
    for path in (ROOT / paths.RESULTS).glob("*.json"):
        assert Result.load(path).params["train"]["seed"] == Result.load(path).seed


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bare.json").write_text('{"r2gen": {}}')
    with pytest.raises(UserError, match=r"bare.json: expected an object with.*compare --save"):
        Result.load(tmp_path / "bare.json")


def test_compare_reads_experiments_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (paths.PARAMS, paths.ABLATIONS):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.chdir(tmp_path)
    shown = json.loads((ROOT / "tests" / "exp_show.json").read_text())
    monkeypatch.setattr(compare, "read_experiments", lambda: parse_experiments(shown))
    invoked = CliRunner().invoke(app, ["compare", "--save"])
    assert invoked.exit_code == 0, invoked.output
    assert "1 runs of 1 settings" in invoked.output
    page = (paths.RESULTS / "RESULTS.md").read_text()
    assert "| uar | – (0.530)" in page
    kept = Result.load(paths.RESULTS / "demo-uar-s1.json")
    assert kept.metrics["r2gen"]["CIDEr"] == 0.25
    assert "root" not in kept.params["dataset"]

    monkeypatch.setattr(compare, "read_experiments", dict)  # as in another clone
    assert CliRunner().invoke(app, ["compare"]).exit_code == 0
    assert (paths.RESULTS / "RESULTS.md").read_text() == page


def test_paired_takes_a_file_or_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Prediction("1", "Clear.", "clear .", "clear .", -1.0)]
    write_predictions(tmp_path / "own.jsonl", rows)
    asked: list[tuple[str, Path]] = []

    def fetch(experiment: str, output: Path, to: Path) -> None:
        asked.append((experiment, output))
        write_predictions(to, rows)

    monkeypatch.setattr(paired, "fetch", fetch)
    assert paired.predictions(str(tmp_path / "own.jsonl")) == rows
    assert not asked
    assert paired.predictions("uar-s0-0a1b2c3d") == rows
    assert asked == [("uar-s0-0a1b2c3d", paths.PREDICTIONS)]


def test_compare_paired_takes_two_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    pairs: list[tuple[str, str]] = []
    monkeypatch.setattr(paired, "print_paired", lambda a, b, params: pairs.append((a, b)))
    assert CliRunner().invoke(app, ["compare", "--paired", "a.jsonl", "uar-s0"]).exit_code == 0
    assert pairs == [("a.jsonl", "uar-s0")]
    assert CliRunner().invoke(app, ["compare", "--paired", "a.jsonl"]).exit_code == 2
