"""A data set of your own: its table, what is refused, and the way to a trained model."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline import paths
from pipeline.__main__ import app
from pipeline.stages.export import model_card
from pipeline.tools.push import push
from pipeline.tools.use import use
from tests.conftest import ROOT, TINY, dataset_params, override
from uar.core.config import DatasetParams
from uar.core.errors import UserError
from uar.core.files import read_table
from uar.core.params_file import load_params
from uar.data.readers import read_dataset

COLUMNS = ["study", "split", "images", "report"]
ROWS = [
    ["a", "test", "films/a.png", "Clear, as before."],
    ["b", "train", "films/b.png; films/b2.png", "The heart is enlarged."],
    ["c", "val", "c.dcm", "No effusion."],
]
Write = Callable[..., DatasetParams]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes studies.csv and returns the parameters that read it."""

    def write(
        rows: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS, **changes: Any
    ) -> DatasetParams:
        with (tmp_path / "studies.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
        chosen = {"layout": "csv", "split": "official", "images_per_study": 1, **changes}
        return dataset_params("custom", tmp_path, **chosen)

    return write


def test_the_table_becomes_the_study_table(write: Write, tmp_path: Path) -> None:
    dataset = read_dataset(write(ROWS, images_per_study=2, missing_view="mask"))
    assert dataset.images == tmp_path
    assert [(s.study_id, s.split, s.report, s.image_paths) for s in dataset.studies] == [
        ("b", "train", "The heart is enlarged.", ("films/b.png", "films/b2.png")),
        ("c", "val", "No effusion.", ("c.dcm",)),
        ("a", "test", "Clear, as before.", ("films/a.png",)),
    ]
    assert {view for study in dataset.studies for view in study.views} == {"unknown"}


def test_views_that_are_known_put_the_frontal_film_first(write: Write) -> None:
    views = ["frontal", "lateral;frontal", "unknown"]
    rows = [[*row, view] for row, view in zip(ROWS, views, strict=True)]
    studies = read_dataset(write(rows, [*COLUMNS, "views"])).studies
    assert studies[0].image_paths == ("films/b2.png",)
    assert studies[0].views == ("frontal",)


def test_a_random_split_needs_no_column_and_hangs_on_names_alone(write: Write) -> None:
    rows = [[f"s{i}", f"{i}.png", "Clear lungs."] for i in range(100)]
    columns = ["study", "images", "report"]
    first = {
        s.study_id: s.split for s in read_dataset(write(rows, columns, split="random")).studies
    }
    assert [list(first.values()).count(split) for split in ("train", "val", "test")] == [70, 10, 20]
    again = read_dataset(write(rows[::-1], columns, split="random")).studies
    assert {study.study_id: study.split for study in again} == first


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (["", "train", "x.png", "Clear."], "row 5: study '' has 0 characters; expected 1 to 200"),
        (["a\0b", "train", "x.png", "Clear."], "row 5: study 'a\\x00b' has 3 characters"),
        (["a\nb", "train", "x.png", "Clear."], "row 5: study 'a\\nb' has 3 characters"),
        (["x" * 100_000, "val", "x.png", "Ok."], f"study '{'x' * 40}' has 100000 characters; ex"),
        (["a ", "train", "x.png", "Clear."], "row 5: study 'a' is also in row 2"),
        (["x", "dev", "x.png", "Clear."], "has the split 'dev', expected one of train, val, test"),
        (["x", "", "x.png", "Clear."], "has the split ''"),
        (["x", "val", "x.png", " . "], "has an empty report"),
        (["x", "val", "x.png", "nan"], "has an empty report"),
        (["x", "val", "", "Clear."], "has 0 images, but dataset.images_per_study is 1"),
        (["x", "val", ";", "Clear."], "has 0 images"),
        (["x", "val", "../x.png", "Clear."], "has the image path '../x.png', which leaves the"),
        (["x", "val", "/x.png", "Clear."], "has the image path '/x.png', which leaves the"),
        (["x", "val", "C:\\x.png", "Clear."], "which leaves the images folder"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(write: Write, row: list[str], fault: str) -> None:
    with pytest.raises(UserError) as caught:
        read_dataset(write([*ROWS, row]))
    assert fault in str(caught.value)
    assert "studies.csv: 1 faults" in str(caught.value)


def test_all_faulty_rows_are_named_at_once(write: Write) -> None:
    rows = [[*row, "frontal"] for row in ROWS]  # b has two films
    rows[0][-1] = "oblique"
    with pytest.raises(UserError) as caught:
        read_dataset(write(rows, [*COLUMNS, "views"]))
    assert "row 2: study 'a' has the view 'oblique', expected one of frontal," in str(caught.value)
    assert "row 3: study 'b' has 2 images and 1 views" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study;split;images;report\n", "lacks the column study, images, report, split"),
        ("study,images,report\na,a.png,Clear\n", "lacks the column split"),
        (
            "study,split,images,report\na,val,a.png,Clear, as before.\n",
            "row 2: found 5 cells, expected",
        ),
        ("study,split,images,report\na,val,a.png\n", "row 2: found 3 cells, expected 4"),
        (
            "study,split,images,report\na,val,a,x\nb,val,b,x,y\n",
            "row 3: found 5 cells, expected 4",
        ),
        ("study,split,images,report\n", "no study for train, val, test"),
    ],
)
def test_a_table_in_another_form_is_refused(
    write: Write, tmp_path: Path, text: str, message: str
) -> None:
    params = write(ROWS)
    (tmp_path / "studies.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        read_dataset(params)
    assert message in str(caught.value)


# Another data set under a known name.


def annotation(root: Path, ids: dict[str, str]) -> None:
    content: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for split, study_id in ids.items():
        paths_of = [f"{study_id}/0.png", f"{study_id}/1.png"]
        content[split].append(
            {"id": study_id, "report": "Clear lungs.", "image_path": paths_of, "split": split}
        )
    (root / "annotation.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "ids", "count"),
    [
        ("iu_xray", ["CXR2384_IM-0942", "mine-1", "mine-2"], 2),
        ("mimic_cxr", ["p10/p10000032/s50414267", "p10/x", "mine"], 2),
        ("custom", ["a", "b", "c"], 0),
    ],
)
def test_studies_that_a_known_data_set_does_not_have_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, ids: list[str], count: int
) -> None:
    annotation(tmp_path, dict(zip(("train", "val", "test"), ids, strict=True)))
    read_dataset(dataset_params(name, tmp_path, layout="r2gen"))
    said = [message for message in caplog.messages if "use custom" in message]
    assert [message.split()[0] for message in said] == ([str(count)] if count else [])


# Terms.


def test_the_exported_model_does_not_state_another_data_sets_terms() -> None:
    metrics = {"studies": 2, "r2gen": {"BLEU-4": 0.1}, "constant_report": {"BLEU-4": 0.1}}
    rest = {"index": "none", "program": "uar", "commit": None, "epoch": 1, "metrics": metrics}
    card = model_card({"dataset": "custom", **rest})
    assert "its terms are not known here: ask its owner" in card
    assert "IU X-Ray" not in card


def test_a_push_of_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    use("custom")
    assert load_params(paths.PARAMS).export.index == "none"
    with pytest.raises(UserError, match="whose terms are not known here.*--credentialed"):
        push()


# docs/custom.md.


def run(*arguments: str) -> None:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception


def test_the_pages_example_leads_to_a_trained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    shutil.copy(ROOT / "params.yaml", tmp_path)

    def make_tiny() -> None:
        raw = yaml.safe_load(paths.PARAMS.read_text())
        for key, value in TINY.items():
            override(raw, key, value)
        raw["dvae"] |= {"source": "train", "codebook_size": 512}
        raw["model"] |= {"token_embedding": "random", "visual_pool": 1, "image_dropout": 0.0}
        raw["decode"]["guidance"] = 0.0
        paths.PARAMS.write_text(yaml.safe_dump(raw))

    make_tiny()
    run("ingest")
    of_demo = read_table(paths.STUDIES)
    page = (ROOT / "docs/custom.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(example, {})  # it reads data/raw/demo and writes data/raw/custom
    shutil.copy(ROOT / "params.yaml", tmp_path)
    run("use", "custom")
    make_tiny()
    for stage in ("ingest", "preprocess", "vocabulary", "dvae", "tokenize", "train_stage_one"):
        run(stage)
    own = read_table(paths.STUDIES)
    assert own[["study_id", "split", "report"]].equals(of_demo[["study_id", "split", "report"]])
    assert all(list(views) == ["frontal"] for views in own["views"])
    assert paths.STAGE_ONE.is_file()
