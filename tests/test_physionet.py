"""MIMIC-CXR in PhysioNet's layout: a tree written by hand, and one of drawn films."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from pipeline import paths
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess
from pipeline.tools.physionet import SHAPES, WRAPPED, shape_of, write_tree
from tests.conftest import dataset_params
from uar.core.config import DatasetParams
from uar.core.errors import UserError
from uar.core.files import read_table
from uar.data.demo.dataset import sample_study
from uar.data.readers import Dataset, LeftOut, read_dataset
from uar.data.text import clean_mimic_cxr

OBSERVATION_OF = {  # of the demo's findings
    "cardiomegaly": "Cardiomegaly",
    "pleural effusion": "Pleural Effusion",
    "pneumothorax": "Pneumothorax",
    "consolidation": "Consolidation",
    "atelectasis": "Atelectasis",
    "edema": "Edema",
}

REPORT = " FINAL REPORT\n\n FINDINGS:\n\n {}\n\n IMPRESSION:  Normal.\n"
# study -> subject, split, films (dicom_id, view, ending; no ending: not on disk), report
STUDIES: dict[int, tuple[int, str, list[tuple[str, str, str]], str | None]] = {
    50000001: (
        10000032,
        "train",
        [("c3", "PA", "jpg"), ("b2", "LATERAL", "jpg"), ("a1", "AP", "dcm")],
        REPORT.format("Heart is\n normal."),
    ),
    50000002: (10000032, "train", [("d4", "LL", "jpg"), ("d5", "", "jpg")], REPORT.format("Lat.")),
    50000003: (10000019, "train", [("e5", "PA", "jpg")], REPORT.format("Lungs are clear.")),
    50000004: (11000000, "validate", [("f6", "AP", "dcm")], "findings: Bones.\nImpression: x\n"),
    50000005: (12000000, "test", [("g7", "PA", "jpg")], " IMPRESSION:  Nothing else.\n"),
    50000006: (12000000, "test", [("h8", "PA", "jpg")], " FINDINGS:\n\n IMPRESSION:  Normal.\n"),
    50000007: (12000000, "test", [("i9", "PA", "jpg")], None),
    50000008: (12000000, "test", [("j1", "PA", "")], REPORT.format("No film.")),
    50000009: (12000000, "test", [("k2", "PA", "jpg"), ("k3", "PA", "")], REPORT.format("Last.")),
    50000010: (12000000, "test", [("m4", "PA", "jpg")], " \n"),
}
SPLIT, METADATA = "mimic-cxr-2.0.0-split", "mimic-cxr-2.0.0-metadata"
RECORDS, LIST = "cxr-record-list", "cxr-study-list"


def folder_of(study: int) -> str:
    subject = str(STUDIES[study][0])
    return f"files/p{subject[:2]}/p{subject}/s{study}"


def tables() -> dict[str, pd.DataFrame]:
    films = [
        (dicom, study, subject, split, view, f"{folder_of(study)}/{dicom}.dcm")
        for study, (subject, split, of_study, _) in STUDIES.items()
        for dicom, view, _ in of_study
    ]
    columns = ["dicom_id", "study_id", "subject_id", "split", "ViewPosition", "path"]
    table = pd.DataFrame(films, columns=columns)
    reports = [(STUDIES[study][0], study, f"{folder_of(study)}.txt") for study in STUDIES]
    return {
        SPLIT: table[["dicom_id", "study_id", "subject_id", "split"]],
        METADATA: table[["dicom_id", "subject_id", "study_id", "ViewPosition"]][::-1],
        RECORDS: table[["subject_id", "study_id", "dicom_id", "path"]],
        LIST: pd.DataFrame(reports, columns=["subject_id", "study_id", "path"]),
    }


@pytest.fixture
def lay_out(tmp_path: Path) -> Callable[..., DatasetParams]:
    """Write the tree with some tables changed or left out; the parameters that read it."""

    def write(
        changed: dict[str, pd.DataFrame | None] | None = None,
        packed: bool = True,
        reports: str = ".",
        **params: Any,
    ) -> DatasetParams:
        for study, (_, _, films, report) in STUDIES.items():
            folder = tmp_path / folder_of(study)
            for dicom, _, ending in films:
                if ending:
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"{dicom}.{ending}").touch()
            text = (tmp_path / reports / folder_of(study)).with_suffix(".txt")
            text.parent.mkdir(parents=True, exist_ok=True)
            if report is not None:
                text.write_text(report)
        for name, table in {**tables(), **(changed or {})}.items():
            if table is not None:
                table.to_csv(tmp_path / f"{name}.csv{'.gz' if packed else ''}", index=False)
        chosen = {"layout": "physionet", "images_per_study": 1, **params}
        return dataset_params("mimic_cxr", tmp_path, **chosen)

    return write


LayOut = Callable[..., DatasetParams]


def rows_of(dataset: Dataset) -> list[tuple[str, str, str, tuple[str, ...], tuple[str, ...]]]:
    return [(s.study_id, s.split, s.report, s.image_paths, s.views) for s in dataset.studies]


TABLE = [
    (
        "s50000003",
        "train",
        "Lungs are clear.",
        ("files/p10/p10000019/s50000003/e5.jpg",),
        ("frontal",),
    ),
    (
        "s50000001",
        "train",
        "Heart is normal.",
        ("files/p10/p10000032/s50000001/a1.dcm",),
        ("frontal",),
    ),
    ("s50000004", "val", "Bones.", ("files/p11/p11000000/s50000004/f6.dcm",), ("frontal",)),
    ("s50000009", "test", "Last.", ("files/p12/p12000000/s50000009/k2.jpg",), ("frontal",)),
]


def test_study_table(lay_out: LayOut, tmp_path: Path) -> None:
    dataset = read_dataset(lay_out())
    assert rows_of(dataset) == TABLE
    assert dataset.images == tmp_path
    assert dataset.boxes.empty


@pytest.mark.parametrize(
    "variant",
    [
        {"packed": False},
        {"reports": "mimic-cxr-reports"},
        {"changed": {RECORDS: None, LIST: None}},
        {"changed": {name: table[::-1] for name, table in tables().items()}},
    ],
    ids=["unpacked tables", "reports apart", "no lists", "rows in another order"],
)
def test_variants_of_the_layout_give_the_same_table(
    lay_out: LayOut, variant: dict[str, Any]
) -> None:
    assert rows_of(read_dataset(lay_out(**variant))) == TABLE


def test_left_out_studies_are_listed_with_their_reasons(lay_out: LayOut, tmp_path: Path) -> None:
    params = lay_out()
    (tmp_path / folder_of(50000001) / "stray.jpg").touch()
    (tmp_path / folder_of(50000001) / "index.html").touch()
    assert read_dataset(params).left_out == [
        LeftOut("s50000001", f"{folder_of(50000001)}/stray.jpg", "image in no table"),
        LeftOut("s50000002", folder_of(50000002), "no frontal view"),
        LeftOut("s50000005", f"{folder_of(50000005)}.txt", "no report section"),
        LeftOut("s50000006", f"{folder_of(50000006)}.txt", "empty report"),
        LeftOut("s50000007", f"{folder_of(50000007)}.txt", "no report"),
        LeftOut("s50000008", folder_of(50000008), "no image"),
        LeftOut("s50000010", f"{folder_of(50000010)}.txt", "empty report"),
    ]


def test_study_that_the_study_list_lacks_has_no_report(lay_out: LayOut) -> None:
    reports = tables()[LIST]
    dataset = read_dataset(lay_out({LIST: reports[reports["study_id"] != 50000003]}))
    assert LeftOut("s50000003", LIST, "no report") in dataset.left_out
    assert rows_of(dataset) == TABLE[1:]


def test_paths_are_those_of_the_lists(lay_out: LayOut, tmp_path: Path) -> None:
    changed = {name: tables()[name] for name in (RECORDS, LIST)}
    for table in changed.values():
        table["path"] = table["path"].str.replace("files/p10/", "files/part one/")
    params = lay_out(changed)
    (tmp_path / "files/p10").rename(tmp_path / "files/part one")
    expected = ("files/part one/p10000019/s50000003/e5.jpg",)
    assert read_dataset(params).studies[0].image_paths == expected


def test_jpg_goes_before_dicom(lay_out: LayOut, tmp_path: Path) -> None:
    params = lay_out()
    (tmp_path / folder_of(50000001) / "a1.jpg").touch()
    assert read_dataset(params).studies[1].image_paths == (f"{folder_of(50000001)}/a1.jpg",)


@pytest.mark.parametrize("choice", ["repeat", "mask"])
def test_two_frontal_films_where_there_are_two(lay_out: LayOut, choice: str) -> None:
    studies = read_dataset(lay_out(images_per_study=2, missing_view=choice)).studies
    films = {s.study_id: [path.rpartition("/")[2] for path in s.image_paths] for s in studies}
    assert films == {
        "s50000003": ["e5.jpg"],
        "s50000001": ["a1.dcm", "c3.jpg"],  # by dicom_id
        "s50000004": ["f6.dcm"],
        "s50000009": ["k2.jpg", "k3.jpg"],  # k3 is not on disk: ingest says so
    }


def test_one_film_where_two_are_asked(lay_out: LayOut) -> None:
    lines = refused(lay_out(images_per_study=2))
    assert [line.split(": ", 1)[1] for line in lines[1:-1]] == [
        f"study s{study} has 1 images, but dataset.images_per_study is 2"
        for study in (50000003, 50000004)
    ]
    assert "dataset.missing_view may be repeat or mask" in lines[-1]


@pytest.mark.parametrize(
    ("section", "reports"),
    [
        ("impression", ["Normal.", "Normal.", "x", "Nothing else.", "Normal.", "Normal."]),
        (
            "findings+impression",
            ["Lungs are clear. Normal.", "Heart is normal. Normal.", "Bones. x", "Last. Normal."],
        ),
    ],
)
def test_other_sections(lay_out: LayOut, section: str, reports: list[str]) -> None:
    dataset = read_dataset(lay_out(section=section))
    assert [study.report for study in dataset.studies] == reports


def test_heads_that_no_list_knows_are_counted(lay_out: LayOut, tmp_path: Path) -> None:
    params = lay_out(section="impression")
    text = "FINDINGS:\nLUNGS/PLEURA: Clear.\nIMPRESSION: Normal.\n{}: x\n"
    for study, head in {50000001: "PFI", 50000003: "PFI", 50000009: "SCHEME"}.items():
        path = (tmp_path / folder_of(study)).with_suffix(".txt")
        path.write_text(text.format(head))
    assert read_dataset(params).unknown_heads == {"PFI": 2, "SCHEME": 1}
    findings = read_dataset(lay_out(section="findings"))
    assert not findings.unknown_heads  # the reports as they were
    assert [study.report for study in findings.studies][0] == "Lungs are clear."


def refused(params: DatasetParams) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_dataset(params)
    return str(caught.value).splitlines()


def changed(name: str, row: int, **values: Any) -> dict[str, pd.DataFrame]:
    table = tables()[name].astype(object)
    for column, value in values.items():
        table.loc[row, column] = value
    return {name: table}


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (changed(SPLIT, 5, split="val"), "row 6: split 'val' is not one of train, validate, test"),
        (
            changed(SPLIT, 1, split="test"),
            "row 2: study 50000001 has another split in an earlier row",
        ),
        (
            changed(SPLIT, 2, subject_id=9),
            "row 3: study 50000001 has another subject_id in an earlier row",
        ),
        (changed(SPLIT, 5, study_id="../9"), "row 6: study_id '../9' is not an id"),
        (changed(SPLIT, 5, subject_id=""), "row 6: subject_id '' is not an id"),
        (changed(SPLIT, 5, dicom_id="../../x"), "row 6: dicom_id '../../x' is not an id"),
        (changed(SPLIT, 5, dicom_id="a\0b"), "row 6: dicom_id 'a\\x00b' is not an id"),
        (changed(SPLIT, 5, dicom_id="c" * 100_000), f"row 6: dicom_id '{'c' * 39} is not an id"),
        (changed(SPLIT, 5, study_id="1" * 100_000), f"row 6: study_id '{'1' * 39} is not an id"),
        (changed(SPLIT, 5, dicom_id="c3"), "row 6: dicom_id 'c3' is repeated"),
        (changed(SPLIT, 5, dicom_id="zz"), "dicom_id zz has no row in the metadata"),
        (changed(RECORDS, 5, path="../../etc/x.dcm"), "row 6: path '../../etc/x.dcm' leaves the"),
        (changed(RECORDS, 5, dicom_id="c3"), "row 6: dicom_id 'c3' is repeated"),
        (changed(LIST, 1, path="/etc/passwd"), "row 2: path '/etc/passwd' leaves the root"),
        (changed(LIST, 1, study_id=50000001), "row 2: study_id '50000001' is repeated"),
    ],
)
def test_faulty_row_is_named(
    lay_out: LayOut, tmp_path: Path, fault: dict[str, pd.DataFrame], found: str
) -> None:
    lines = refused(lay_out(fault))
    assert lines[0] == f"{tmp_path / next(iter(fault))}.csv.gz: 1 faults"
    assert lines[1].startswith(f"  {found}")


@pytest.mark.parametrize(
    ("name", "column"),
    [(SPLIT, "split"), (METADATA, "ViewPosition"), (RECORDS, "path"), (LIST, "study_id")],
)
def test_missing_column_is_named(lay_out: LayOut, tmp_path: Path, name: str, column: str) -> None:
    (line,) = refused(lay_out({name: tables()[name].rename(columns={column: "other"})}))
    assert line.startswith(f"{tmp_path / name}.csv.gz lacks the column {column}; found ")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"dicom_id,study_id", "cannot be unpacked: "),
        (gzip.compress(b"dicom_id,study_id,subject_id,split\n" * 99)[:-12], "cannot be unpacked: "),
        (gzip.compress("dicom_id,\u00e9".encode("latin-1")), "is not UTF-8 ("),
        (gzip.compress(b""), "is not CSV: "),
    ],
    ids=["not gzip", "cut off", "not UTF-8", "empty"],
)
def test_broken_table_is_named(lay_out: LayOut, tmp_path: Path, content: bytes, found: str) -> None:
    params = lay_out()
    (tmp_path / f"{SPLIT}.csv.gz").write_bytes(content)
    assert refused(params)[0].startswith(f"{tmp_path / SPLIT}.csv.gz {found}")


def test_missing_metadata_says_where_it_comes_from(lay_out: LayOut, tmp_path: Path) -> None:
    (line,) = refused(lay_out({METADATA: None}))
    assert line == f"{tmp_path / METADATA}.csv.gz is missing. It comes with MIMIC-CXR-JPG."


def test_tree_without_a_split_table(lay_out: LayOut) -> None:
    (line,) = refused(lay_out({SPLIT: None}))
    assert "mimic-cxr-2.0.0-split.csv* is missing; " in line
    assert "Expected PhysioNet's: mimic-cxr-2.0.0-split.csv.gz, " in line


def test_report_of_another_encoding_is_named(lay_out: LayOut, tmp_path: Path) -> None:
    params = lay_out()
    path = (tmp_path / folder_of(50000003)).with_suffix(".txt")
    path.write_bytes("FINDINGS: caf\u00e9".encode("latin-1"))
    assert refused(params)[1] == f"  {path} is not UTF-8 (unexpected end of data at byte 13)"


def test_linked_report_outside_the_root_is_refused(lay_out: LayOut, tmp_path: Path) -> None:
    params = lay_out().model_copy(update={"root": tmp_path / "link"})
    inside = tmp_path / "files"
    (tmp_path / "link").mkdir()
    for table in tmp_path.glob("*.csv.gz"):
        table.rename(tmp_path / "link" / table.name)
    (tmp_path / "link/files").symlink_to(inside)
    lines = refused(params)
    assert lines[1].endswith(f"s50000003.txt is a link that leads out of {tmp_path / 'link'}")


def test_a_tree_of_drawn_films(tmp_path: Path) -> None:
    """The generator makes every reason to leave a study out, and files of both kinds."""
    write_tree(tmp_path, studies=60, film_size=64, films="mix")
    dataset = read_dataset(
        dataset_params("mimic_cxr", tmp_path, layout="physionet", images_per_study=1)
    )
    reasons = Counter(left.reason for left in dataset.left_out)
    empty = {"empty report": reasons.pop("empty report")}
    assert empty["empty report"] in range(2, 4)  # the placeholders that nothing else hides
    assert reasons == {"no frontal view": 3, "no report": 1, "no report section": 4}
    assert len(dataset.studies) == 60 - 8 - empty["empty report"]
    assert {s.split for s in dataset.studies} == {"train", "val", "test"}
    paths = [path for study in dataset.studies for path in study.image_paths]
    assert {path.rpartition(".")[2] for path in paths} == {"jpg", "dcm"}
    assert all((tmp_path / path).is_file() for path in paths)
    assert not any("discussed" in s.report or "paged" in s.report for s in dataset.studies)


def expected_report(shape: str | None, report: str) -> str | None:
    """What is to be read of a report of this shape; None: it is left out as empty."""
    whole = " ".join(report.split())
    match shape:
        case "placeholder":
            return None
        case "wrapped word":
            return f"{' '.join(WRAPPED.split())} {whole}"
        case "organs":
            sentences = re.split(r"(?<=\.) ", whole)
            for place, head in zip(
                range(len(sentences)), ("LUNGS", "HEART", "BONES"), strict=False
            ):
                sentences[place] = f"{head}: {sentences[place]}"
            return " ".join(sentences)
    return whole


def test_every_shape_of_a_report_through_ingest_and_preprocess(
    tmp_path: Path, raw_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invented MIMIC-CXR; the tables that both stages write of it."""
    count = 3 * 2 * len(SHAPES)
    write_tree(tmp_path / "raw", studies=count, film_size=64, films="mix")
    monkeypatch.chdir(tmp_path)
    raw_params["dataset"] |= {
        "name": "mimic_cxr", "layout": "physionet", "root": "raw", "split": "official",
        "images_per_study": 1,
    }  # fmt: skip
    raw_params["export"]["index"] = "none"
    raw_params["report"]["cleaner"] = "mimic_cxr"
    Path("params.yaml").write_text(yaml.safe_dump(raw_params))
    ingest()
    preprocess()

    studies = read_table(paths.STUDIES).set_index("study_id")
    cleaned = read_table(paths.REPORTS).set_index("study_id")
    left = pd.read_csv(paths.LEFT_OUT).set_index("study_id")["reason"]
    seen: Counter[str] = Counter()
    for index in range(count):
        study_id, shape = f"s{50_000_000 + index * 17}", shape_of(index)
        drawn = sample_study(0, index)
        if study_id in left.index and left[study_id] != "empty report":
            continue  # no film, report or section: other reasons
        expected = expected_report(shape, drawn.report)
        if expected is None:
            assert left[study_id] == "empty report", shape
        else:
            assert studies.loc[study_id, "report"] == expected, shape
            assert list(studies.loc[study_id, "views"]) == ["frontal"]
            assert cleaned.loc[study_id, "cleaned"] == clean_mimic_cxr(expected)
            words = set(cleaned.loc[study_id, "cleaned"].split())
            assert not words & {"discussed", "informed", "emailed", "phone", "dr", "nan", "none"}
            named = {OBSERVATION_OF[f.name] for f in drawn.findings if f.name in OBSERVATION_OF}
            assert named <= set(cleaned.loc[study_id, "findings"])
        seen[shape or "plain"] += 1
    assert seen.keys() == {"plain", *SHAPES} and min(seen.values()) >= 1
    assert len(studies) == len(cleaned) == sum(seen.values()) - seen["placeholder"]
