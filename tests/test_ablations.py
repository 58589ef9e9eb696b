"""The tables' rows against params.yaml, and which experiments a table asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import paths
from pipeline.experiments import ablate
from pipeline.experiments.ablate import SHARED, to_queue
from pipeline.experiments.dvc import Experiment, State, code_in
from pipeline.experiments.rows import (
    SEED,
    Ablations,
    Run,
    choose_rows,
    flat,
    overridden,
    parse_overrides,
    parse_seeds,
    plan_runs,
)
from pipeline.provenance import tracked_keys
from tests.conftest import ROOT
from uar.core.errors import UserError
from uar.core.params_file import known_keys, parse_params
from uar.evaluation.published import read_published

ABLATIONS = Ablations.load(ROOT / "ablations.yaml")


def plan(raw: dict[str, Any], tables: list[str], **changes: Any) -> list[Run]:
    arguments = {"seeds": [0, 1], "extra": {}, "tracked": known_keys(), "code": "c0de"} | changes
    return plan_runs(ABLATIONS.models(tables), raw=raw, **arguments)


# ---- rows


def test_rows_are_those_of_the_paper(raw_params: dict[str, Any]) -> None:
    for table in ABLATIONS.tables.values():
        assert list(table.rows) == list(read_published(table.published))
        for row, overrides in table.rows.items():
            assert set(overrides) == set(ABLATIONS.whole) <= set(known_keys())
            parse_params(overridden(raw_params, overrides), row)


def test_table_2s_switches_are_those_of_the_paper() -> None:
    printed = ROOT / "uar/evaluation/published" / "table2_modules.csv"
    head, *lines = (line.split(",") for line in printed.read_text().splitlines())
    columns = {
        "LSU": "model.lsu",
        "integration": "model.integration",
        "global_loss": "train.lambda2",
        "TIR": "model.tir",
        "two_stage": "train.two_stage",
    }
    on = {"train.lambda2": (0, 1), "model.tir": ("none", "static")}
    for line in lines:
        row = dict(zip(head, line, strict=True))
        overrides = ABLATIONS.tables["table2"].rows[row["model"]]
        assert {key: overrides[key] for key in columns.values()} == {
            key: on.get(key, (False, True))[row[column] == "1"] for column, key in columns.items()
        }


def test_the_same_model_has_one_name() -> None:
    assert list(ABLATIONS.models(["table3"])) == ["uar", "uniform", "normal"]
    assert list(ABLATIONS.models(["table4"])) == ["uar", "none", "addition"]
    everything = ABLATIONS.models(ABLATIONS.tables)
    assert len(everything) == 12
    assert everything["uar"] == ABLATIONS.whole
    for name, overrides in everything.items():
        assert ABLATIONS.name_of({**overrides, "train.batch_size": 4}) == name
    assert ABLATIONS.name_of({**ABLATIONS.whole, "model.lsu": False, "model.tir": "none"}) is None


def test_a_row_with_a_key_that_the_whole_model_lacks_is_refused(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "ablations.yaml").read_text())
    raw["tables"]["table4"]["rows"]["none"]["model.d_ff"] = 8
    (tmp_path / "ablations.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match=r"row none of table4 changes model.d_ff"):
        Ablations.load(tmp_path / "ablations.yaml")


# ---- the plan


def test_every_model_runs_once_with_every_seed(raw_params: dict[str, Any]) -> None:
    runs = plan(raw_params, ["table2", "table3", "table4"], seeds=[0, 1, 2])
    assert len(runs) == len({run.name for run in runs}) == 36
    assert {(run.model, run.seed) for run in runs} == {
        (model, seed) for model in ABLATIONS.models(ABLATIONS.tables) for seed in range(3)
    }
    for run in runs:
        assert run.name.startswith(f"{run.model}-s{run.seed}-")
        assert run.overrides[SEED] == run.seed


def test_a_name_stands_for_parameters_and_code(
    raw_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    tracked = tracked_keys()

    def names(raw: dict[str, Any] = raw_params, more: str = "table4", **changes: Any) -> set[str]:
        return {run.name for run in plan(raw, ["table4", more], tracked=tracked, **changes)}

    assert names() == names()
    assert names() < names(more="table2")
    assert names() == names(extra={"device": "cpu"})  # where, not what
    assert names() == names(overridden(raw_params, {SEED: 7, "model.fusion": "none"}))
    assert names(extra={"train.batch_size": 4}) == names(
        overridden(raw_params, {"train.batch_size": 4})
    )
    assert not names() & names(extra={"train.batch_size": 4})
    assert not names() & names(code="other")


def test_what_is_done_or_under_way_is_not_queued_again(raw_params: dict[str, Any]) -> None:
    runs = plan(raw_params, ["table4"])
    states = ("success", "running", "queued", "failed")
    known = {
        run.name: Experiment(run.name, state, "1" * 40, "0" * 40, "", {}, {})
        for run, state in zip(runs, states, strict=False)
    }
    assert to_queue(runs, known) == runs[3:]
    assert to_queue(runs, {}) == runs


def test_watching_prints_one_line_for_each_experiment(
    raw_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = plan(raw_params, ["table4"])[:2]
    metrics = {str(paths.METRICS): {"CIDEr": 0.5, "F1": 0.25, "distinct": 56}}

    def seen(name: str, state: State) -> Experiment:
        return Experiment(name, state, "1" * 40, "0" * 40, "", overridden({}, {SEED: 0}), metrics)

    looks = [
        [(one.name, "queued"), (two.name, "queued")],
        [(two.name, "queued")],  # the first is between the queue and its start
        [(one.name, "running"), (two.name, "queued")],
        [(one.name, "success"), (two.name, "running")],
        [(one.name, "success"), (two.name, "failed")],
    ]
    known = iter([{name: seen(name, state) for name, state in look} for look in looks])
    monkeypatch.setattr(ablate, "read_experiments", lambda: next(known))
    monkeypatch.setattr(ablate.time, "sleep", lambda seconds: None)
    started: list[int] = []
    monkeypatch.setattr(ablate.dvc, "start_workers", started.append)
    assert ablate.watch([one, two], jobs=2) == [two.name]
    assert started == [2]
    assert caplog.messages == [
        f"[1/2] uar, seed 0: CIDEr 0.500, F1 0.250, 56 distinct reports ({one.name})",
        "[2/2] none, seed 0: failed",
    ]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"model.fusion": "none"}, "--set model.fusion: the rows and --seeds set this key"),
        ({SEED: 4}, "--set train.seed: the rows"),
        ({"train.lamda3": 1}, "train.lamda3: unknown key. Did you mean train.lambda3?"),
        ({"train.batch_size": "many"}, "train.batch_size: found 'many'"),
    ],
)
def test_faulty_overrides_are_refused(
    raw_params: dict[str, Any], extra: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        plan(raw_params, ["table4"], extra=extra)
    assert message in str(caught.value)


def test_seeds_are_a_count_or_a_list() -> None:
    assert parse_seeds("3") == [0, 1, 2]
    assert parse_seeds("0,4") == [0, 4]
    assert parse_seeds("7,") == [7]
    for text in ("", "0", "-2", "1,1", "1,-1", "three", ","):
        with pytest.raises(UserError, match="expected a count"):
            parse_seeds(text)


def test_some_rows_in_the_order_asked() -> None:
    models = ABLATIONS.models(["table2"])
    assert choose_rows(models, None) == models
    assert list(choose_rows(models, "uar, base")) == ["uar", "base"]
    with pytest.raises(UserError, match="no row 'orthogonal'; available: base, a"):
        choose_rows(models, "base,orthogonal")


def test_overrides_are_yaml() -> None:
    texts = [
        "train.batch_size=4",
        "model.extractor.depths=[1, 1]",
        "dvae.encoder=null",
        "dataset.root=a=b",
    ]
    assert parse_overrides(texts) == {
        "train.batch_size": 4,
        "model.extractor.depths": [1, 1],
        "dvae.encoder": None,
        "dataset.root": "a=b",
    }
    for text in ("train.batch_size", "a=[1"):
        with pytest.raises(UserError, match="expected KEY=VALUE"):
            parse_overrides([text])


def test_flat_undoes_nesting(raw_params: dict[str, Any]) -> None:
    assert sorted(flat(raw_params)) == sorted(known_keys())
    assert overridden({}, flat(raw_params)) == raw_params


# ---- against dvc.yaml


def test_no_row_and_no_seed_makes_tokens_anew() -> None:
    """What `SHARED` and its ancestors depend on is the same in every experiment of a table."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    maker = {
        out if isinstance(out, str) else next(iter(out)): stage
        for stage, spec in stages.items()
        for out in spec["outs"]
    }
    todo, shared = list(SHARED), set()
    while todo:
        stage = todo.pop()
        shared.add(stage)
        todo += [maker[d] for d in stages[stage]["deps"] if d in maker]
        assert not {*ABLATIONS.whole, SEED} & set(stages[stage]["params"])
    assert not shared & {"train_stage_one", "train_stage_two", "train_stage_three", "evaluate"}
    assert len(shared) == 5


def test_the_hash_of_code_is_of_what_stages_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    deps = ["uar/one.py", "uar/package", "data/made.csv"]
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"a": {"deps": deps}}}))
    Path("uar/package").mkdir(parents=True)
    Path("data").mkdir()
    Path("uar/one.py").write_text("1")
    last = code_in(Path())
    for path, matters in {
        "uar/one.py": True,
        "uar/package/two.py": True,
        "uar/package/three.csv": True,
        "uar/package/two.pyc": False,
        "uar/other.py": False,
        "data/made.csv": False,
    }.items():
        Path(path).write_text("2")
        assert (code_in(Path()) != last) == matters, path
        last = code_in(Path())
