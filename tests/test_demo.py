"""The generated data set: its files, its films, and that its reports say what was drawn."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from tests.conftest import dataset_params
from uar.core.errors import UserError
from uar.core.files import read_json, read_table
from uar.data import demo
from uar.data.demo.dataset import sample_study, write_dicom
from uar.data.demo.findings import FINDINGS, KINDS, Finding, regions_of
from uar.data.demo.frontal import draw_frontal
from uar.data.demo.lateral import draw_lateral
from uar.data.demo.wording import ABNORMAL, NORMAL, OTHERWISE, write_report
from uar.data.films import read_film
from uar.data.readers import read_dataset
from uar.data.study import BOX_COLUMNS

STUDIES, FILM_SIZE, SEED = 24, 96, 7
# The word that names a finding in every wording.
NAMED_BY = {"cardiomegaly": ("cardiomegaly", "enlarge"), "pleural effusion": ("effusion",)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "demo"
    demo.write_dataset(folder, studies=STUDIES, film_size=FILM_SIZE, seed=SEED)
    return folder


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def dicoms(root: Path, photometric: str | None = None) -> list[Path]:
    paths = sorted(root.rglob("*.dcm"))
    return [
        path
        for path in paths
        if photometric in (None, pydicom.dcmread(path).PhotometricInterpretation)
    ]


def every_finding() -> list[Finding]:
    return [
        Finding(name, side, detail)
        for name, (sides, details) in KINDS.items()
        for side in sides
        for detail in details
    ]


def test_same_arguments_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    demo.write_dataset(tmp_path / "again", studies=STUDIES, film_size=FILM_SIZE, seed=SEED)
    assert digests(tmp_path / "again") == digests(root)


def test_a_larger_data_set_begins_with_the_smaller_and_replaces_it(
    root: Path, tmp_path: Path
) -> None:
    again = tmp_path / "demo"
    demo.write_dataset(again, studies=20, film_size=FILM_SIZE, seed=SEED + 1)
    demo.write_dataset(again, studies=STUDIES + 1, film_size=FILM_SIZE, seed=SEED)
    films = {name: digest for name, digest in digests(root).items() if name.startswith("images/")}
    assert films.items() < digests(again).items()
    assert len(list((again / "images").iterdir())) == STUDIES + 1
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]  # no partial folder is left


@pytest.mark.parametrize("before", [0, 1])
def test_a_kill_between_the_old_data_set_and_the_new_leaves_no_riddle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    root, renamed = tmp_path / "demo", []
    demo.write_dataset(root, studies=2, film_size=32, seed=1)
    rename = Path.rename

    def dying(path: Path, target: Path) -> None:
        if len(renamed) == before:
            raise KeyboardInterrupt
        renamed.append(path)
        rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", dying)
        demo.write_dataset(root, studies=3, film_size=32, seed=1)
    demo.write_dataset(root, studies=3, film_size=32, seed=1)
    assert len(list((root / "images").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "annotation.json").write_text("{}")
    with pytest.raises(UserError, match="no generated data set"):
        demo.write_dataset(tmp_path, studies=20, film_size=FILM_SIZE, seed=SEED)
    assert (tmp_path / "annotation.json").read_text() == "{}"


def test_annotation_lists_every_film_once(root: Path) -> None:
    annotation = read_json(root / "annotation.json")
    records = [record for split in annotation.values() for record in split]
    assert all(r["split"] == split for split, rows in annotation.items() for r in rows)
    assert sorted(r["id"] for r in records) == [f"demo{n:04d}" for n in range(1, STUDIES + 1)]
    listed = [path for record in records for path in record["image_path"]]
    images = root / "images"
    assert sorted(listed) == sorted(str(f.relative_to(images)) for f in images.rglob("*.*"))
    assert all([Path(p).stem for p in r["image_path"]] == ["0", "1"] for r in records)


def test_read_gives_views_and_the_boxes_of_the_views_asked_for(tmp_path: Path) -> None:
    params = dataset_params(
        "demo",
        tmp_path / "demo",
        images_per_study=1,
        demo={"studies": 20, "film_size": FILM_SIZE, "seed": SEED},
    )
    frontal = read_dataset(params)
    both = read_dataset(params.model_copy(update={"images_per_study": 2}))
    published = read_dataset(
        params.model_copy(update={"images_per_study": 2, "order_views": False})
    )
    pd.testing.assert_frame_equal(both.table(), published.table())  # the frontal film is first
    pd.testing.assert_frame_equal(both.boxes, read_table(tmp_path / "demo/boxes.parquet"))
    assert {study.views for study in frontal.studies} == {("frontal",)}
    assert {study.views for study in both.studies} == {("frontal", "lateral")}
    assert len(both.studies) == 20
    assert set(both.boxes["view"]) == {0, 1}
    assert frontal.boxes.equals(both.boxes[both.boxes["view"] == 0].reset_index(drop=True))


def test_split_shares_are_70_10_20() -> None:
    splits = [sample_study(SEED, index).split for index in range(900)]
    assert [splits.count(split) for split in ("train", "val", "test")] == [630, 90, 180]


def test_films_are_8_bit_png_and_12_bit_dicom_of_both_kinds(root: Path) -> None:
    pngs = sorted(root.rglob("*.png"))
    assert len(pngs) > STUDIES / 2
    assert {Image.open(path).mode for path in pngs} == {"L"}
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        for path in dicoms(root, photometric):
            film = pydicom.dcmread(path)
            assert (film.BitsAllocated, film.BitsStored, film.Modality) == (16, 12, "DX")
            assert film.pixel_array.max() < 4096
            assert film.ViewPosition == {"0": "PA", "1": "LL"}[path.stem]
        assert len(dicoms(root, photometric)) >= 5


def test_dicom_holds_no_patient_data(root: Path) -> None:
    for path in dicoms(root):
        film = pydicom.dcmread(path)
        assert not any(element.value for element in film if element.tag.group == 0x0010)
        assert not (film.StudyDate or film.AccessionNumber or film.ReferringPhysicianName)


def test_dicom_identifiers_are_unique_and_shared_by_a_study(root: Path) -> None:
    films = [pydicom.dcmread(path) for path in dicoms(root)]
    assert len({film.SOPInstanceUID for film in films}) == len(films)
    folders = {path.parent for path in dicoms(root)}
    assert len({film.StudyInstanceUID for film in films}) == len(folders)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_both_dicom_kinds_decode_to_the_drawn_film(tmp_path: Path, photometric: str) -> None:
    pixels, _ = draw_frontal((), sample_study(SEED, 0).poses[0], FILM_SIZE)
    write_dicom(tmp_path / "0.dcm", pixels, view=0, photometric=photometric, entropy="test")
    decoded = read_film(tmp_path / "0.dcm").pixels.astype(float) / 255
    stretched = (pixels - pixels.min()) / np.ptp(pixels)
    np.testing.assert_allclose(decoded, stretched, atol=0.004)


def test_lungs_are_darker_than_the_mediastinum_on_every_frontal_film(root: Path) -> None:
    compared = 0
    for index in range(STUDIES):
        study = sample_study(SEED, index)
        if study.findings:
            continue
        (path,) = (root / "images" / study.study_id).glob("0.*")
        film = read_film(path).pixels.astype(float)
        height, width = film.shape
        middle = film[int(0.45 * height) : int(0.55 * height)]
        right_lung, mediastinum, left_lung = (
            middle[:, int(x * width) - 4 : int(x * width) + 4].mean() for x in (0.26, 0.5, 0.74)
        )
        assert max(right_lung, left_lung) < mediastinum - 40
        compared += 1
    assert compared >= 8


def test_boxes_belong_to_the_findings_of_their_study(root: Path) -> None:
    boxes = read_table(root / "boxes.parquet")
    assert list(boxes.columns) == BOX_COLUMNS
    assert ((boxes[["x0", "y0"]] >= 0) & (boxes[["x0", "y0"]] < 1)).all(axis=None)
    assert (boxes[["x1", "y1"]] <= 1).all(axis=None)
    expected = {
        (study.study_id, view, finding.name)
        for study in (sample_study(SEED, index) for index in range(STUDIES))
        for finding in study.findings
        for view in (0, 1)
        if view == 0 or finding.name != "pneumothorax"
    }
    rows = list(boxes[["study_id", "view", "finding"]].itertuples(index=False, name=None))
    assert len(rows) == len(expected) and set(rows) == expected


@pytest.mark.parametrize("finding", every_finding(), ids=lambda f: f"{f.side}{f.detail}{f.name}")
def test_a_finding_changes_the_film_inside_its_box(finding: Finding) -> None:
    pose = replace(sample_study(SEED, 1).poses[0], noise=0.0)
    for draw in (draw_frontal, draw_lateral):
        healthy, none = draw((), pose, FILM_SIZE)
        film, boxes = draw((finding,), pose, FILM_SIZE)
        assert none == {}
        change = np.abs(film - healthy)
        if finding not in boxes:
            assert (finding.name, draw) == ("pneumothorax", draw_lateral)
            assert change.max() == 0
            continue
        x0, y0, x1, y1 = boxes[finding]
        height, width = film.shape
        inside = np.zeros(film.shape, dtype=bool)
        rows = slice(round(y0 * height), round(y1 * height))
        columns = slice(round(x0 * width), round(x1 * width))
        inside[rows, columns] = True
        assert min(x1 - x0, y1 - y0) >= 0.08
        assert change[inside].mean() > 0.05
        assert change[inside].mean() > 4 * change[~inside].mean()


@pytest.mark.parametrize("name", ["pleural effusion", "nodule", "pacemaker", "atelectasis"])
def test_the_patients_left_is_on_the_right_of_a_frontal_film(name: str) -> None:
    pose = sample_study(SEED, 1).poses[0]
    detail = KINDS[name][1][0]
    middles = {}
    for side in ("left", "right"):
        finding = Finding(name, side, detail)
        x0, _, x1, _ = draw_frontal((finding,), pose, FILM_SIZE)[1][finding]
        middles[side] = (x0 + x1) / 2
    assert middles["right"] < 0.45 < 0.55 < middles["left"]


def test_reports_name_each_finding_with_its_side_and_size() -> None:
    seen: set[str] = set()
    for index in range(400):
        study = sample_study(SEED, index)
        report = study.report.lower()
        for finding in study.findings:
            names = NAMED_BY.get(finding.name, (finding.name,))
            assert any(name in report for name in names), (finding, report)
            assert finding.side in report and finding.detail in report, (finding, report)
            seen.add(finding.name)
    assert seen == set(FINDINGS)


def test_a_normal_report_names_no_finding() -> None:
    negative = ("no ", "negative", "not ", "nothing", "without", "neither")
    reports = [s.report for s in (sample_study(SEED, i) for i in range(400)) if not s.findings]
    for report in reports:
        for sentence in report.lower().split(". "):
            named = [n for name in FINDINGS for n in NAMED_BY.get(name, (name,)) if n in sentence]
            assert not named or any(word in sentence for word in negative), sentence
    assert len(set(reports)) > 0.8 * len(reports)  # varied wording


def test_an_absent_finding_is_never_asserted_beside_a_present_one() -> None:
    effusion = Finding("pleural effusion", "left", "small")
    pneumothorax = Finding("pneumothorax", "right", "small")
    rng = np.random.default_rng(SEED)
    for _ in range(50):
        report = write_report((effusion,), rng)
        assert "No pleural effusion" not in report and "no effusion" not in report
        both = write_report((effusion, pneumothorax), rng)
        assert "No p" not in both and "Negative" not in both


def test_the_most_common_wording_of_a_normal_study() -> None:
    assert write_report((), rng=None) == (
        "The heart is normal in size. The lungs are clear. No pneumothorax or pleural effusion."
    )


def test_wordings_are_probabilities_with_the_most_common_first() -> None:
    for topics in (NORMAL, OTHERWISE, ABNORMAL):
        for topic, wordings in topics.items():
            shares = [share for share, _ in wordings]
            assert sum(shares) == pytest.approx(1), topic
            assert shares == sorted(shares, reverse=True), topic


def test_normal_studies_are_the_majority_and_no_region_holds_two_findings() -> None:
    drawn = [sample_study(SEED, index).findings for index in range(2000)]
    counts = pd.Series([len(findings) for findings in drawn]).value_counts(normalize=True)
    assert 0.53 < counts[0] < 0.59
    assert 0.1 < counts[2] < 0.17 and 0.01 < counts[3] < 0.07
    assert set(counts.index) == {0, 1, 2, 3}
    for findings in drawn:
        regions = [region for finding in findings for region in regions_of(finding)]
        assert len(regions) == len(set(regions))
