"""The ingest stage on data sets as a reader may hand them over."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import paths
from pipeline.run import as_stage
from pipeline.stages.ingest import ingest
from tests.conftest import ROOT, override
from tests.film_files import save, save_dicom
from tests.test_dicom import PATIENT
from uar.core.errors import UserError
from uar.core.files import read_json, read_table
from uar.data.packing import resolve_workers
from uar.data.study import Dataset, LeftOut, Study, View

SIZE = 16
Ingest = Callable[..., None]


@pytest.fixture
def run(
    tmp_path: Path, raw_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Runs ingest in a folder of its own on given studies, whose films lie under `raw`."""
    monkeypatch.chdir(tmp_path)

    def run(studies: list[Study], left_out: tuple[LeftOut, ...] = (), **dataset: Any) -> None:
        read = Dataset(studies, Path("raw"), left_out=list(left_out))
        monkeypatch.setattr("pipeline.stages.ingest.read_dataset", lambda params, workers: read)
        override(raw_params, "image.size", SIZE)
        override(raw_params, "image.crop", SIZE)
        override(raw_params, "dvae.train.crop", SIZE)
        raw_params["dataset"] |= {"root": "raw", **dataset}
        Path("params.yaml").write_text(yaml.safe_dump(raw_params))
        ingest()

    return run


def studies_of(views: dict[str, tuple[View, ...]]) -> list[Study]:
    """One study a split; film j of study i is PNG, filled with 40 * i + 10 * j."""
    studies = []
    for i, (split, of_study) in enumerate(views.items()):
        names = tuple(f"{split}/{j}.png" for j in range(len(of_study)))
        for j, name in enumerate(names):
            pixels = np.full((60, 90), 40 * i + 10 * j, dtype=np.uint8)
            pixels[-1, -1] += 1  # a film of one value is a bad image; packing averages this away
            save(Path("raw") / name, pixels)
        studies.append(Study(f"s{i}", split, f"Report {i}.", names, of_study))
    return studies


@pytest.mark.parametrize(("missing_view", "filled"), [("repeat", 40), ("mask", 0)])
def test_a_missing_view_repeats_the_last_film_or_is_black(
    run: Ingest, missing_view: str, filled: int
) -> None:
    unknown: View = "unknown"
    views = {"train": (unknown,) * 2, "val": (unknown,), "test": (unknown,) * 2}
    run(studies_of(views), missing_view=missing_view)
    rows = np.load(paths.IMAGES)
    assert rows.shape == (6, SIZE, SIZE)
    assert rows.reshape(6, -1).max(1).tolist() == [0, 10, 40, filled, 80, 90]
    table = read_table(paths.STUDIES)
    assert [list(names) for names in table["image_paths"]] == [
        ["train/0.png", "train/1.png"],
        ["val/0.png"],
        ["test/0.png", "test/1.png"],
    ]
    assert table["views"].str.len().tolist() == [2, 1, 2]
    summary = read_json(paths.INGEST_SUMMARY)
    assert (summary["images"], summary["missing_views"]) == (5, 1)


def test_a_missing_view_of_a_skipped_study_takes_its_rows_along(run: Ingest) -> None:
    unknown: View = "unknown"
    views = {"train": (unknown,), "val": (unknown,) * 2, "test": (unknown,) * 2}
    studies = studies_of(views)
    extra = Study("bad", "train", "Report.", ("bad.png",), (unknown,))
    run([extra, *studies], missing_view="repeat", on_bad_image="skip")
    assert np.load(paths.IMAGES)[:, 0, 0].tolist() == [0, 0, 40, 50, 80, 90]
    assert read_table(paths.STUDIES)["study_id"].tolist() == ["s0", "s1", "s2"]


def test_headers_say_the_view_where_the_layout_does_not(run: Ingest) -> None:
    studies = []
    pixels = np.arange(600, dtype=np.uint16).reshape(20, 30)
    for split, known in (("train", "unknown"), ("val", "frontal"), ("test", "unknown")):
        save_dicom(Path(f"raw/{split}/0.dcm"), pixels, ViewPosition="LL")
        save_dicom(Path(f"raw/{split}/1.dcm"), pixels, ViewPosition="PA")
        names = (f"{split}/0.dcm", f"{split}/1.dcm")
        studies.append(Study(split, split, "Report.", names, (known, "unknown")))
    run(studies)
    assert [list(views) for views in read_table(paths.STUDIES)["views"]] == [
        ["lateral", "frontal"],
        ["frontal", "frontal"],
        ["lateral", "frontal"],
    ]
    assert read_json(paths.INGEST_SUMMARY)["views"] == {"frontal": 4, "lateral": 2}


def test_every_study_left_out_is_listed_with_its_reason(run: Ingest) -> None:
    both: tuple[View, ...] = ("frontal", "lateral")
    studies = studies_of({"train": both, "val": both, "test": both})
    bad = Study("bad", "train", "Report.", ("gone/0.png", "../secret.png"), both)
    left_out = (
        LeftOut("s7", "reports.csv, row 9", "empty report"),
        LeftOut("s8", "reports.csv, row 11", "no image"),
        LeftOut("s9", "reports.csv, row 12", "no image"),
    )
    run([*studies[:2], bad, *studies[2:]], left_out, on_bad_image="skip")
    table = pd.read_csv(paths.LEFT_OUT)
    assert list(table.columns) == ["study_id", "source", "reason"]
    assert table.to_numpy().tolist() == [
        ["s7", "reports.csv, row 9", "empty report"],
        ["s8", "reports.csv, row 11", "no image"],
        ["s9", "reports.csv, row 12", "no image"],
        [
            "bad",
            "raw/gone/0.png: no such file; raw/../secret.png: the path leads out of raw",
            "unreadable image",
        ],
    ]
    assert read_json(paths.INGEST_SUMMARY)["left_out"] == {
        "total": 4,
        "empty report": 1,
        "no image": 2,
        "unreadable image": 1,
    }


def test_a_repaired_image_lets_the_stage_go_on(run: Ingest) -> None:
    both: tuple[View, ...] = ("frontal", "lateral")
    studies = studies_of({"train": both, "val": both, "test": both})
    whole = Path("raw/val/1.png").read_bytes()
    Path("raw/val/1.png").write_bytes(whole[:45])
    with pytest.raises(UserError, match=r"study s1: raw/val/1.png: cannot be decoded"):
        run(studies)
    assert not list(Path("data").glob("*"))
    Path("raw/val/1.png").write_bytes(whole)
    run(studies)
    assert np.load(paths.IMAGES)[:, 0, 0].tolist() == [0, 10, 40, 50, 80, 90]


@pytest.mark.filterwarnings("ignore")  # of pydicom, in writing what is wrong by intent
def test_no_patient_field_reaches_an_output_or_a_log(
    run: Ingest, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels = np.arange(600, dtype=np.uint16).reshape(20, 30)
    studies = []
    for split in ("train", "val", "test", "bad"):
        tags: dict[str, Any] = {"PixelData": b"\0\0"} if split == "bad" else {}
        for j in range(2):
            save_dicom(Path(f"raw/{split}/{j}.dcm"), pixels, **PATIENT, **tags)
        names = (f"{split}/0.dcm", f"{split}/1.dcm")
        of = "train" if split == "bad" else split
        studies.append(Study(split, of, "Report.", names, ("unknown", "unknown")))
    capfd.readouterr()
    run(studies, on_bad_image="skip")
    said = "".join(capfd.readouterr()).encode()
    shutil.rmtree("raw")
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert len([path for path in files if paths.SCRATCH not in path.parents]) == 6  # + params.yaml
    written = [path.read_bytes() for path in files]
    for text in [said, *written]:
        assert not any(word in text for word in (b"Quagga", b"424242"))


@pytest.mark.filterwarnings("ignore")
def test_films_whose_header_failed_are_named_where_they_are_kept(
    run: Ingest, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.linspace(12000, 30000, 600).astype(np.uint16).reshape(20, 30)
    useless = {"WindowCenter": 3174, "WindowWidth": 2426}
    studies = []
    for split in ("train", "val", "test", "bad"):
        names = (f"{split}/0.dcm", f"{split}/1.dcm")
        save_dicom(Path("raw") / names[0], pixels, **({} if split == "val" else useless))
        broken = {"PixelData": b"\0\0"} if split == "bad" else {}
        save_dicom(Path("raw") / names[1], pixels, **useless, **broken)
        of = "train" if split == "bad" else split
        studies.append(Study(split, of, "Report.", names, ("unknown", "unknown")))
    run(studies, on_bad_image="skip")
    kept = ["train/0.dcm", "train/1.dcm", "val/1.dcm", "test/0.dcm", "test/1.dcm"]
    assert read_json(paths.INGEST_SUMMARY)["header_failed"] == kept
    assert "5 films have a header that leaves only one gray value" in caplog.text
    packed = np.load(paths.IMAGES)
    assert packed.shape == (6, SIZE, SIZE)
    assert all(np.ptp(film) > 200 for film in packed)  # none is black
    np.testing.assert_array_equal(packed[0], packed[2])  # as of a film without the window


def test_constant_films_are_bad_images(run: Ingest) -> None:
    both: tuple[View, ...] = ("frontal", "lateral")
    studies = studies_of({"train": both, "val": both, "test": both})
    names = ("bad/0.png", "bad/1.jpg")
    for name in names:
        save(Path("raw") / name, np.full((20, 30), 128, dtype=np.uint8))
    studies.insert(1, Study("bad", "train", "Report.", names, both))
    reason = "every pixel has the same value"
    with pytest.raises(UserError) as caught:
        run(studies)
    assert [f"study bad: raw/{name}: {reason}" for name in names] == [
        line.strip() for line in str(caught.value).splitlines()[1:-1]
    ]
    run(studies, on_bad_image="skip")
    left = pd.read_csv(paths.LEFT_OUT)
    assert left["source"].tolist() == ["; ".join(f"raw/{name}: {reason}" for name in names)]
    assert read_table(paths.STUDIES)["study_id"].tolist() == ["s0", "s1", "s2"]


def test_workers_are_as_many_as_said_or_one_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_workers(3, 1) == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 2, 5, 7}, raising=False)
    assert resolve_workers(0, 1000) == 4
    assert resolve_workers(0, 63) == 1


def test_the_scratch_folder_outlives_all_but_the_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    scratch = paths.SCRATCH / "ingest"
    scratch.mkdir(parents=True)
    seen: list[bool] = []
    stage = SimpleNamespace(params=(), check=lambda params: None, write_record=lambda params: 1 / 0)
    monkeypatch.setattr("pipeline.provenance.stages", lambda: {"ingest": stage})
    run = as_stage("ingest", lambda: seen.append(scratch.exists()))
    with pytest.raises(ZeroDivisionError):
        run()
    assert scratch.exists()
    stage.write_record = lambda params: seen.append(scratch.exists())
    run()
    assert seen == [True, True, True]
    assert not scratch.exists()
