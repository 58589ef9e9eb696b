"""The R2Gen reader on invented trees, and the ingest and preprocess stages on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess
from tests.conftest import dataset_params, override
from uar.core.config import DatasetParams
from uar.core.errors import UserError
from uar.core.files import read_json, read_table, write_table
from uar.data.readers import STUDY_COLUMNS, read_dataset

Annotation = dict[str, list[dict[str, Any]]]
SPLIT_OF = {"a": "train", "b": "train", "c": "train", "d": "val", "e": "test"}


def record(study_id: str, split: str, **changes: Any) -> dict[str, Any]:
    paths = [f"{study_id}/0.png", f"{study_id}/1.png"]
    return {"id": study_id, "report": "No.", "image_path": paths, "split": split, **changes}


def annotation() -> Annotation:
    splits: Annotation = {"train": [], "val": [], "test": []}
    for study_id, split in SPLIT_OF.items():
        splits[split].append(record(study_id, split, report=f"Report of {study_id}."))
    return splits


def params_of(root: Path, **changes: Any) -> DatasetParams:
    return dataset_params(**{"name": "iu_xray", "root": root, **changes})


Write = Callable[[Any], DatasetParams]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an annotation and return the parameters that read it."""

    def write(content: Any) -> DatasetParams:
        (tmp_path / "annotation.json").write_text(json.dumps(content))
        return params_of(tmp_path)

    return write


def test_reader_gives_the_study_table(write: Write, tmp_path: Path) -> None:
    dataset = read_dataset(write(annotation()))
    table = dataset.table()
    assert list(table.columns) == STUDY_COLUMNS
    assert table.set_index("study_id")["split"].to_dict() == SPLIT_OF
    assert table["study_id"].tolist() == list("abcde")  # train, val, test, each as in the file
    assert table["report"].tolist() == [f"Report of {study_id}." for study_id in "abcde"]
    assert table["image_paths"][3] == ("d/0.png", "d/1.png")
    assert table["views"][3] == ("unknown", "unknown")
    assert dataset.images == tmp_path / "images"
    assert dataset.boxes.empty


def test_images_per_study_takes_the_first(write: Write, tmp_path: Path) -> None:
    write(annotation())
    dataset = read_dataset(params_of(tmp_path, images_per_study=1))
    assert [study.image_paths for study in dataset.studies][0] == ("a/0.png",)
    assert [study.views for study in dataset.studies][0] == ("unknown",)


@pytest.mark.parametrize("choice", ["repeat", "mask"])
def test_study_short_of_images_keeps_those_there(write: Write, tmp_path: Path, choice: str) -> None:
    content = annotation()
    content["train"][0]["image_path"] = ["a/0.png"]
    write(content)
    studies = read_dataset(params_of(tmp_path, missing_view=choice)).studies
    assert [len(study.image_paths) for study in studies] == [1, 2, 2, 2, 2]
    assert studies[0].views == ("unknown",)
    content["train"][0]["image_path"] = []
    write(content)
    with pytest.raises(UserError, match="id 'a' has 0 images"):
        read_dataset(params_of(tmp_path, missing_view=choice))


def test_views_of_r2gens_studies_are_known_by_film(write: Write) -> None:
    content = annotation()
    paths = ["x/1.jpg", "x/0.jpg"]
    content["train"].append(record("CXR2384_IM-0942", "train", image_path=paths))
    studies = read_dataset(write(content).model_copy(update={"order_views": False})).studies
    assert [s.views for s in studies if s.study_id == "CXR2384_IM-0942"] == [("lateral", "frontal")]


def test_unknown_reader_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.name: found 'chexpert'.*'demo', 'iu_xray'"):
        read_dataset(params_of(tmp_path, name="chexpert"))


def test_missing_root_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_dataset(params_of(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "use PRESET --root FOLDER" in str(caught.value)


def test_missing_annotation_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="annotation.json is missing; .* holds an empty folder"):
        read_dataset(params_of(tmp_path))
    (tmp_path / "reports.csv").touch()
    with pytest.raises(UserError, match="holds reports.csv. Expected the R2Gen packaging"):
        read_dataset(params_of(tmp_path))


@pytest.mark.parametrize("content", [b"{'train': []}", b'{"train": [', b"\xff\xfe\x00"])
def test_broken_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "annotation.json").write_bytes(content)
    with pytest.raises(UserError, match="annotation.json is not valid JSON: .*Restore it"):
        read_dataset(params_of(tmp_path))


def test_annotation_that_is_no_mapping(write: Write) -> None:
    with pytest.raises(UserError, match="annotation.json: found a list, expected the keys"):
        read_dataset(write([record("a", "train")]))


@pytest.mark.parametrize("found", [None, [], 5, "abc"])
def test_split_without_records(write: Write, found: Any) -> None:
    content: Any = annotation() | {"val": found}
    with pytest.raises(UserError, match="annotation.json: no records under val; found the keys"):
        read_dataset(write(content))


def test_absent_split(write: Write) -> None:
    content = annotation()
    del content["test"]
    with pytest.raises(UserError, match="no records under test; found the keys train, val"):
        read_dataset(write(content))


FAULTS: list[tuple[Any, str]] = [
    (5, "found a number, expected a record"),
    ({"id": "x", "split": "train"}, "id 'x' lacks report, image_path"),
    ({}, "id None lacks id, report, image_path, split"),
    (record("a", "train"), "id 'a' is repeated or not text"),
    (record("x", "train", id=7), "id 7 is repeated or not text"),
    (record("x", "train", id=""), "id '' has 0 characters; expected 1 to 200 printable ones"),
    (record("x", "train", id=" "), "id ' ' has 1 characters; expected 1 to 200 printable ones"),
    (
        record("x", "train", id="a\0b"),
        "id 'a\\x00b' has 3 characters; expected 1 to 200 printable ones",
    ),
    (
        record("x", "train", id="a\nb"),
        "id 'a\\nb' has 3 characters; expected 1 to 200 printable ones",
    ),
    (
        record("x", "train", id="x" * 100_000),
        f"id {'x' * 40!r} has 100000 characters; expected 1 to 200 printable ones",
    ),
    (record("x", "val"), "id 'x' says split 'val'"),
    (record("x", "train", report=" \n"), "id 'x' has an empty report"),
    (record("x", "train", report=None), "id 'x' has an empty report"),
    (record("x", "train", image_path="x/0.png"), "id 'x': image_path is not a list of paths"),
    (record("x", "train", image_path=[0, 1]), "id 'x': image_path is not a list of paths"),
    (
        record("x", "train", image_path=["x/0.png"]),
        "id 'x' has 1 images, but dataset.images_per_study is 2",
    ),
    (
        record("x", "train", image_path=["../../etc/x", "x/1.png"]),
        "id 'x' has the image path '../../etc/x', which leaves the images folder",
    ),
    (
        record("x", "train", image_path=["x/0.png", "/etc/x"]),
        "id 'x' has the image path '/etc/x', which leaves the images folder",
    ),
]


@pytest.mark.parametrize(("bad", "reason"), FAULTS)
def test_faulty_record_is_named(write: Write, tmp_path: Path, bad: Any, reason: str) -> None:
    content = annotation()
    content["train"].append(bad)
    with pytest.raises(UserError) as caught:
        read_dataset(write(content))
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'annotation.json'}: 1 faults",
        f"  train[3]: {reason}",
        "Correct or remove these records.",
    ]


def test_all_faulty_records_are_listed_together(write: Write) -> None:
    content = annotation()
    content["train"] += [bad for bad, _ in FAULTS]
    content["test"].append(record("d", "test"))
    with pytest.raises(UserError) as caught:
        read_dataset(write(content))
    lines = str(caught.value).splitlines()
    assert lines[0].endswith(f"{len(FAULTS) + 1} faults")
    assert lines[1:-2] == [f"  train[{3 + i}]: {why}" for i, (_, why) in enumerate(FAULTS)]
    assert lines[-2] == "  test[1]: id 'd' is repeated or not text"


def test_iu_xray_has_the_published_split(iu_xray: Path) -> None:
    table = read_dataset(params_of(iu_xray)).table()
    assert len(table) == 2955
    assert table["split"].value_counts().to_dict() == {"train": 2069, "val": 296, "test": 590}
    assert table["study_id"].is_unique
    assert (table["image_paths"].str.len() == 2).all()


# Stages, in a project folder of their own. Film j of study i is filled with 40 * i + 10 * j.


@pytest.fixture
def project(
    tmp_path: Path, raw_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Lay out five studies and params.yaml, go there and return the images' folder."""

    def lay_out(**dataset: Any) -> Path:
        monkeypatch.chdir(tmp_path)
        images = Path("raw/images")
        for i, study_id in enumerate(SPLIT_OF):
            (images / study_id).mkdir(parents=True)
            for j in range(2):
                film = np.full((20, 30), 40 * i + 10 * j, dtype=np.uint8)
                film[-1, -1] += 1  # one value alone is no film
                Image.fromarray(film).save(images / study_id / f"{j}.png")
        Path("raw/annotation.json").write_text(json.dumps(annotation()))
        override(raw_params, "image.size", 16)
        override(raw_params, "image.crop", 16)
        override(raw_params, "dvae.train.crop", 16)
        raw_params["dataset"] |= {"name": "iu_xray", "root": "raw", **dataset}
        Path("params.yaml").write_text(yaml.safe_dump(raw_params))
        return images

    return lay_out


def break_two_films(images: Path) -> None:
    """Film 1 of study b is cut short, film 0 of study c is gone."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(images / "b/1.png")
    whole = (images / "b/1.png").read_bytes()
    (images / "b/1.png").write_bytes(whole[: len(whole) // 2])
    (images / "c/0.png").unlink()


def test_ingest_packs_rows_in_the_order_of_the_table(project: Callable[..., Path]) -> None:
    project()
    ingest()
    assert read_table(Path("data/studies.parquet"))["study_id"].tolist() == list("abcde")
    packed = np.load("data/images.npy")
    assert packed.shape == (10, 16, 16) and packed.dtype == np.uint8
    expected = [40 * i + 10 * j for i in range(5) for j in range(2)]
    assert packed.reshape(10, -1).min(1).tolist() == expected
    assert (packed.reshape(10, -1).max(1) - expected <= 1).all()
    assert read_json(Path("data/ingest.json")) == {
        "studies": {"train": 3, "val": 1, "test": 1},
        "images": 10,
        "views": {"unknown": 10},
        "missing_views": 0,
        "boxes": 0,
        "ended_by_unknown_head": {},
        "shared_films": {"across_splits": 0, "across_studies": 0, "within_studies": 0},
        "header_failed": [],
        "left_out": {"total": 0},
    }


def test_ingest_lists_all_bad_images_and_leaves_nothing(project: Callable[..., Path]) -> None:
    break_two_films(project())
    with pytest.raises(UserError) as caught:
        ingest()
    lines = str(caught.value).splitlines()
    assert lines[0] == "raw: 2 faults"
    assert lines[1].startswith("  study b: raw/images/b/1.png: cannot be decoded")
    assert lines[2] == "  study c: raw/images/c/0.png: no such file"
    assert "dataset.on_bad_image: skip" in lines[3]
    assert [path for path in Path("data").rglob("*")] == []


def share_films(images: Path) -> None:
    """Film 0 of study e (test) is film 1 of study a (train); b and c share one; d has one twice."""
    for source, target in (("a/1", "e/0"), ("b/0", "c/1"), ("d/0", "d/1")):
        (images / f"{target}.png").write_bytes((images / f"{source}.png").read_bytes())


LEAK = "study a (train) and study e (test) share a film: a/1.png, e/0.png"


def test_films_that_are_there_twice_are_told(
    project: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    share_films(project())
    ingest()
    assert f"1 films are in two splits: {LEAK}; dataset.on_shared_film" in caplog.text
    assert "study b (train) and study c (train) share a film: b/0.png, c/1.png" in caplog.text
    assert "study d (val) has the same film twice: d/0.png, d/1.png" in caplog.text
    assert read_json(Path("data/ingest.json"))["shared_films"] == {
        "across_splits": 1, "across_studies": 1, "within_studies": 1,
    }  # fmt: skip
    assert read_table(Path("data/studies.parquet"))["study_id"].tolist() == list("abcde")


def test_films_in_two_splits_are_refused_or_skipped(project: Callable[..., Path]) -> None:
    share_films(project(on_shared_film="error"))
    with pytest.raises(UserError) as caught:
        ingest()
    assert LEAK in str(caught.value) and "on_shared_film: skip or keep" in str(caught.value)
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["dataset"]["on_shared_film"] = "skip"
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    ingest()
    assert read_table(Path("data/studies.parquet"))["study_id"].tolist() == list("bcde")
    assert np.load("data/images.npy").shape == (8, 16, 16)
    left_out = pd.read_csv("data/left_out.csv")
    assert left_out.values.tolist() == [
        ["a", "a/1.png is also in e (test)", "film of a later split"]
    ]


def test_a_film_repeated_for_a_missing_view_is_no_duplicate(
    project: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    project(missing_view="repeat")
    split = json.loads(Path("raw/annotation.json").read_text())
    for records in split.values():
        for one in records:
            one["image_path"] = one["image_path"][:1]
    Path("raw/annotation.json").write_text(json.dumps(split))
    ingest()
    assert "films are" not in caplog.text


def test_ingest_skips_studies_with_a_bad_image(project: Callable[..., Path]) -> None:
    break_two_films(project(on_bad_image="skip"))
    ingest()
    assert read_table(Path("data/studies.parquet"))["study_id"].tolist() == ["a", "d", "e"]
    packed = np.load("data/images.npy")
    assert packed[:, 0, 0].tolist() == [0, 10, 120, 130, 160, 170]  # films of a, d, e
    summary = read_json(Path("data/ingest.json"))
    assert summary["studies"] == {"train": 1, "val": 1, "test": 1}
    assert (summary["images"], summary["missing_views"]) == (6, 0)
    assert summary["left_out"] == {"total": 2, "unreadable image": 2}
    left_out = pd.read_csv("data/left_out.csv")
    assert left_out["study_id"].tolist() == ["b", "c"]
    assert left_out["source"][1] == "raw/images/c/0.png: no such file"
    assert sorted(path.name for path in Path("data").iterdir()) == [
        "boxes.parquet",
        "images.npy",
        "ingest.json",
        "left_out.csv",
        "studies.parquet",
    ]


def test_skipping_the_whole_of_a_split_is_refused(project: Callable[..., Path]) -> None:
    images = project(on_bad_image="skip")
    (images / "d/0.png").write_text("not a film")
    with pytest.raises(UserError, match="no study with readable images is left in val"):
        ingest()
    assert [path for path in Path("data").rglob("*")] == []


@pytest.mark.parametrize("report", ["...", "!", "nan", "None.", " ", "7 8"])
def test_the_packaging_refuses_empty_reports(project: Callable[..., Path], report: str) -> None:
    project()
    content = annotation()
    content["train"][1]["report"] = report
    Path("raw/annotation.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="id 'b' has an empty report"):
        ingest()


def test_preprocess_cleans_and_refuses_reports_without_words(
    project: Callable[..., Path],
) -> None:
    project()
    ingest()
    preprocess()
    assert read_table(Path("data/reports.parquet"))["cleaned"][0] == "report of a ."
    table = read_table(Path("data/studies.parquet"))
    table.loc[1, "report"], table.loc[4, "report"] = "...", "!"
    write_table(Path("data/studies.parquet"), table)
    with pytest.raises(UserError) as caught:
        preprocess()
    assert str(caught.value).splitlines() == [
        "data/studies.parquet: 2 faults",
        "  row 1: study b: report '...' has no words once cleaned",
        "  row 4: study e: report '!' has no words once cleaned",
        "Remove these studies from the raw data set.",
    ]
