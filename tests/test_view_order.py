"""Which films of a study are used, in which order, and what each layout knows of their views."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import paths
from pipeline.stages.ingest import ingest
from tests.conftest import dataset_params, override
from tests.film_files import save, save_dicom
from tests.test_iu_xray import LAYOUTS, PATHS, lay_out
from uar.core.config import DatasetParams
from uar.core.files import read_json, read_table
from uar.data.films import stated_view
from uar.data.readers import checked_layout, read_dataset
from uar.data.readers.choice import choose_films
from uar.data.readers.iu_xray import r2gen_studies
from uar.data.study import BOX_COLUMNS, SPLITS, Dataset, Study, View, frontal_first

VIEWS: dict[str, View] = {"F": "frontal", "L": "lateral", "?": "unknown"}


def views_of(letters: str) -> tuple[View, ...]:
    return tuple(VIEWS[letter] for letter in letters)


def chosen(letters: str, boxes: pd.DataFrame | None = None, **params: Any) -> Dataset:
    """What is chosen of a study whose films are `letters`, each named by its place."""
    films = tuple(str(i) for i in range(len(letters)))
    study = Study("s", "train", "Report.", films, views_of(letters))
    dataset = Dataset([study], Path("nowhere"))
    if boxes is not None:
        dataset = Dataset([study], Path("nowhere"), boxes)
    return choose_films(dataset, dataset_params("iu_xray", Path(), **params))


@pytest.mark.parametrize(
    ("letters", "order"),
    [
        ("FL", [0, 1]), ("LF", [1, 0]), ("FF", [0, 1]), ("LL", [0, 1]), ("??", [0, 1]),
        ("?F", [1, 0]), ("F?", [0, 1]), ("?L", [0, 1]), ("L?", [1, 0]),
        ("F", [0]), ("L", [0]), ("?", [0]), ("", []),
        ("LFL", [1, 0, 2]), ("LLF", [2, 0, 1]), ("FLF", [0, 2, 1]), ("L?F", [2, 1, 0]),
    ],
)  # fmt: skip
def test_frontal_then_unknown_then_lateral(letters: str, order: list[int]) -> None:
    assert frontal_first(views_of(letters)) == order


@pytest.mark.parametrize(
    ("letters", "ordered", "published"),
    [
        ("FL", "01", "01"), ("LF", "10", "01"), ("FF", "01", "01"), ("LL", "01", "01"),
        ("??", "01", "01"), ("?F", "10", "01"), ("L?", "10", "01"), ("F", "0", "0"),
        ("L", "0", "0"), ("LFF", "10", "01"), ("LLF", "01", "01"), ("FLL", "01", "01"),
    ],
)  # fmt: skip
def test_two_films_are_the_first_two_in_either_order(
    letters: str, ordered: str, published: str
) -> None:
    for order_views, films in ((True, ordered), (False, published)):
        (study,) = chosen(letters, order_views=order_views).studies
        assert "".join(study.image_paths) == films
        assert study.views == tuple(views_of(letters)[int(film)] for film in films)


@pytest.mark.parametrize("order_views", [True, False])
@pytest.mark.parametrize(
    ("letters", "film"),
    [
        ("FL", "0"), ("LF", "1"), ("FF", "0"), ("LLF", "2"), ("F", "0"), ("?", "0"),
        ("??", "0"), ("?F", "1"), ("L?", "1"), ("?L", "0"), ("LL", None), ("L", None),
        ("LLL", None),
    ],
)  # fmt: skip
def test_one_film_is_frontal_or_may_be(letters: str, film: str | None, order_views: bool) -> None:
    dataset = chosen(letters, images_per_study=1, order_views=order_views)
    assert [study.image_paths for study in dataset.studies] == ([] if film is None else [(film,)])
    left = [("s", "0", "no frontal view")] if film is None else []
    assert [(entry.study_id, entry.source, entry.reason) for entry in dataset.left_out] == left


@pytest.mark.parametrize(
    ("letters", "per_study", "boxes"),
    [
        ("FL", 2, [("a", 0), ("b", 1), ("c", 1)]),
        ("LF", 2, [("a", 1), ("b", 0), ("c", 0)]),
        ("LF", 1, [("b", 0), ("c", 0)]),
        ("FL", 1, [("a", 0)]),
        ("LL", 1, []),
    ],
)
def test_boxes_go_with_their_film(
    letters: str, per_study: int, boxes: list[tuple[str, int]]
) -> None:
    rows = [("s", view, name, 0.1, 0.2, 0.3, 0.4) for name, view in (("a", 0), ("b", 1), ("c", 1))]
    table = pd.DataFrame(rows, columns=BOX_COLUMNS)
    found = chosen(letters, table, images_per_study=per_study).boxes
    assert list(zip(found["finding"], found["view"], strict=True)) == boxes
    assert found.dtypes.equals(table.dtypes)


# ---- what a header states

PIXELS = np.arange(600, dtype=np.uint16).reshape(20, 30)


@pytest.mark.parametrize(
    ("position", "view"),
    [("PA", "frontal"), ("AP", "frontal"), ("ll", "lateral"), ("RL ", "lateral"),
     ("LAO", "unknown"), ("", "unknown"), (None, "unknown")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")  # of pydicom, in writing what is wrong by intent
def test_a_view_is_read_without_the_pixels(tmp_path: Path, position: str | None, view: str) -> None:
    tags = {} if position is None else {"ViewPosition": position}
    path = save_dicom(tmp_path / "film.dcm", PIXELS, **tags)
    assert stated_view(path) == view
    path.write_bytes(path.read_bytes()[:-1000])  # the pixels are cut short
    assert stated_view(path) == view


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG\r\n\x1a\n", bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\xff" * 99],
)
def test_a_file_that_states_nothing_is_unknown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(content)
    assert stated_view(path) == "unknown"
    assert stated_view(tmp_path) == stated_view(tmp_path / "none") == "unknown"


# ---- layouts


def annotated(root: Path, films: dict[str, list[str]], name: str = "iu_xray") -> DatasetParams:
    """The R2Gen packaging with one study a split, its films as they lie."""
    annotation = {
        split: [{"id": f"{split}0", "report": "Clear.", "image_path": films[split], "split": split}]
        for split in SPLITS
    }
    (root / "annotation.json").write_text(json.dumps(annotation))
    (root / "images").mkdir(exist_ok=True)
    return dataset_params(name, root)


@pytest.mark.parametrize("name", ["iu_xray", "mimic_cxr"])
def test_dicom_headers_order_films_whose_layout_states_no_view(tmp_path: Path, name: str) -> None:
    positions = {"train": ("LL", "PA"), "val": ("AP", "LATERAL"), "test": ("RL", "LL")}
    films = {split: [f"{split}/a.dcm", f"{split}/b.dcm"] for split in SPLITS}
    for split, of_study in positions.items():
        for path, position in zip(films[split], of_study, strict=True):
            save_dicom(tmp_path / "images" / path, PIXELS, ViewPosition=position)
    params = annotated(tmp_path, films, name)
    studies = {study.split: study for study in read_dataset(params).studies}
    assert studies["train"].image_paths == ("train/b.dcm", "train/a.dcm")
    assert studies["train"].views == studies["val"].views == ("frontal", "lateral")
    assert studies["test"].views == ("lateral", "lateral")
    published = read_dataset(params.model_copy(update={"order_views": False}))
    assert [list(study.image_paths) for study in published.studies] == list(films.values())


def test_png_of_an_unlisted_study_keep_their_order(tmp_path: Path) -> None:
    films = {split: [f"{split}/b.png", f"{split}/a.png"] for split in SPLITS}
    params = annotated(tmp_path, films)
    for per_study in (1, 2):
        studies = read_dataset(params.model_copy(update={"images_per_study": per_study})).studies
        assert [list(s.image_paths) for s in studies] == [films[s][:per_study] for s in SPLITS]
        assert {view for s in studies for view in s.views} == {"unknown"}


def test_a_header_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    outside = save_dicom(tmp_path / "outside.dcm", PIXELS, ViewPosition="PA")
    films = {split: [f"{split}/a.dcm", f"{split}/b.dcm"] for split in SPLITS}
    params = annotated(tmp_path, films)
    (tmp_path / "images/train").mkdir()
    (tmp_path / "images/train/b.dcm").symlink_to(outside)
    assert read_dataset(params).studies[0].views == ("unknown", "unknown")


# Of R2Gen's studies: one of each arrangement and split, by its two films.
ARRANGED = {
    (study.split, study.views): study_id for study_id, study in reversed(r2gen_studies().items())
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("letters", ["FL", "LF", "FF", "LL"])
def test_listed_studies_are_ordered_in_each_layout(
    tmp_path: Path, layout: str, letters: str
) -> None:
    ids = [ARRANGED[split, ("frontal", "lateral")] for split in ("val", "test")]
    ids.insert(0, next(ARRANGED[s, v] for s, v in ARRANGED if v == views_of(letters)))
    reports = {}
    for study_id in ids:
        uid, series = study_id.removeprefix("CXR").split("_")[:2]
        films = [f"{uid}_{series.removesuffix('-1001')}-{number}" for number in (1001, 1002, 1003)]
        reports[int(uid)] = (f"Report {uid}.", "", films)
    params = lay_out(tmp_path, layout, reports)
    params = params.model_copy(update={"split": "random"})
    uid = int(ids[0].removeprefix("CXR").split("_")[0])
    films = [PATHS[layout](film) for film in reports[uid][2][:2]]

    def study(**changes: Any) -> Study | None:
        changed = params.model_copy(update=changes)
        dataset = choose_films(checked_layout(changed).read(changed), changed)
        return next((s for s in dataset.studies if s.study_id == ids[0]), None)

    two, published, one = study(), study(order_views=False), study(images_per_study=1)
    assert two is not None and published is not None
    assert published.image_paths == tuple(films)
    assert two.image_paths == tuple(films[::-1] if letters == "LF" else films)
    assert two.views == (views_of("FL") if letters == "LF" else views_of(letters))
    if letters == "LL":
        assert one is None
    else:
        assert one is not None and one.views == ("frontal",)
        assert one.image_paths == (films[1] if letters == "LF" else films[0],)


def test_a_study_beyond_r2gens_list_takes_any_frontal_film(tmp_path: Path) -> None:
    """Kaggle's projections state the views of all films."""
    extra = {
        n: (f"Report {n}.", "", [f"{n}_IM-1-2001", f"{n}_IM-1-3001"]) for n in range(9002, 9020)
    }
    params = lay_out(tmp_path, "kaggle", extra)
    params = params.model_copy(update={"split": "random", "images_per_study": 1})
    for study in read_dataset(params).studies:
        assert study.views == ("frontal",) and "-3001" in study.image_paths[0]


# ---- the stage


def test_packed_rows_are_in_the_order_of_the_table(
    tmp_path: Path,
    raw_params: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    films = {split: [f"{split}/a.dcm", f"{split}/b.png"] for split in SPLITS}
    bright = {"a.dcm": 0, "b.png": 1}  # which half of a film is bright
    for split in SPLITS:
        for name, half in bright.items():
            pixels = np.zeros((16, 16), dtype=np.uint8)
            pixels[:, 8 * half : 8 * half + 8] = 200
            path = tmp_path / "raw/images" / split / name
            if name.endswith("dcm"):
                save_dicom(path, pixels, ViewPosition="LL")
            else:
                save(path, pixels)
    annotated(tmp_path / "raw", films)
    monkeypatch.chdir(tmp_path)
    for key, value in {
        "image.size": 16,
        "image.crop": 16,
        "dvae.train.crop": 16,
    }.items():
        override(raw_params, key, value)
    raw_params["dataset"] |= {"name": "iu_xray", "root": "raw"}
    rows = {}
    for order_views in (True, False):
        raw_params["dataset"]["order_views"] = order_views
        Path("params.yaml").write_text(yaml.safe_dump(raw_params))
        caplog.clear()
        ingest()
        assert ("put first in 3 of 3 studies" in caplog.text) == order_views
        table = read_table(paths.STUDIES)
        rows[order_views] = np.load(paths.IMAGES).reshape(3, 2, 16, 16)
        names = [path.rpartition("/")[2] for path in table["image_paths"][0]]
        assert names == (["b.png", "a.dcm"] if order_views else ["a.dcm", "b.png"])
        views = ["unknown", "lateral"] if order_views else ["lateral", "unknown"]
        assert list(table["views"][0]) == views
    np.testing.assert_array_equal(rows[True], rows[False][:, ::-1])
    assert rows[True][0, 0, 0, -1] > rows[True][0, 0, 0, 0]  # b.png's right half is bright
    assert read_json(paths.INGEST_SUMMARY)["views"] == {"lateral": 3, "unknown": 3}
    assert "may be lateral" not in caplog.text
    raw_params["dataset"]["images_per_study"] = 1
    Path("params.yaml").write_text(yaml.safe_dump(raw_params))
    ingest()  # b.png is not known to be lateral
    assert "3 films may be lateral although dataset.images_per_study is 1" in caplog.text
    np.testing.assert_array_equal(np.load(paths.IMAGES), rows[True][:, 0])


# ---- the real collection


def test_counts_of_iu_xray(iu_xray: Path) -> None:
    both = {
        on: read_dataset(dataset_params("iu_xray", iu_xray, order_views=on)) for on in (True, False)
    }
    assert Counter(s.views for s in both[False].studies) == {
        views_of("FL"): 2955 - 313 - 34 - 24,
        views_of("LF"): 313,
        views_of("FF"): 34,
        views_of("LL"): 24,
    }
    assert Counter(s.views for s in both[True].studies) == {
        views_of("FL"): 2955 - 34 - 24,
        views_of("FF"): 34,
        views_of("LL"): 24,
    }
    moved = 0
    for ordered, published in zip(both[True].studies, both[False].studies, strict=True):
        assert (ordered.study_id, ordered.report) == (published.study_id, published.report)
        turned = ordered.image_paths == published.image_paths[::-1]
        assert turned == (published.views == views_of("LF"))
        moved += turned
    assert moved == 313


@pytest.mark.parametrize("order_views", [True, False])
def test_frontal_only_of_iu_xray(iu_xray: Path, order_views: bool) -> None:
    dataset = read_dataset(
        dataset_params("iu_xray", iu_xray, images_per_study=1, order_views=order_views)
    )
    assert Counter(s.views for s in dataset.studies) == {("frontal",): 2955 - 24}
    assert Counter(left.reason for left in dataset.left_out) == {"no frontal view": 24}
