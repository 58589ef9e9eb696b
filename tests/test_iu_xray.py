"""IU X-Ray in Open-i's and in Kaggle's layout: invented reports, then the real ones."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.stages.ingest import ingest
from tests.conftest import dataset_params, override
from uar.core.config import DatasetParams
from uar.core.errors import UserError
from uar.core.files import read_table
from uar.data.readers import Dataset, LeftOut, read_dataset
from uar.data.readers.iu_xray import r2gen_studies, random_split, uid_of

# uid -> findings, impression, films. All but 9001 are in R2Gen's list, 2384 and 2926 its first two.
REPORTS: dict[int, tuple[str, str, list[str]]] = {
    38: ("Bones are old.", "", ["38_IM-1911-1001", "38_IM-1911-2001"]),
    2056: ("No film of this.", "", []),
    2279: ("A < B & C. ", "Same.", ["2279_IM-0865-1001", "2279_IM-0865-1002"]),
    2384: (
        "Heart is normal.",
        "Normal.",
        ["2384_IM-0942-3001", "2384_IM-0942-2001", "2384_IM-0942-1001"],
    ),
    2926: ("", "Only an impression.", ["2926_IM-1328-1001", "2926_IM-1328-2001"]),
    3030: ("Lungs are clear.", "Clear.", ["3030_IM-1405-1001", "3030_IM-1405-2001"]),
    9001: ("Not of R2Gen.", "None.", ["9001_IM-0001-1001", "9001_IM-0001-2001"]),
}
STRAY = "7777_IM-0001-1001"
Reports = dict[int, tuple[str, str, list[str]]]
# layout -> where a film lies in its images folder
PATHS: dict[str, Callable[[str], str]] = {
    "openi": lambda film: f"CXR{film.split('_')[0]}_{film}.png",
    "openi, dcm": lambda film: f"{film.split('_')[0]}/{film}.dcm",
    "kaggle": lambda film: f"images_normalized/{film}.dcm.png",
}
LAYOUTS = list(PATHS)


def images_folder(root: Path, layout: str) -> Path:
    return root / {"openi": "NLMCXR_png", "openi, dcm": "NLMCXR_dcm", "kaggle": "images"}[layout]


def report_xml(uid: int, findings: str, impression: str, films: list[str]) -> str:
    parents = "".join(
        f'<parentImage id="CXR{uid}_{film}"><caption>Chest PA</caption></parentImage>'
        for film in films
    )
    texts = {"COMPARISON": "None.", "FINDINGS": findings, "IMPRESSION": impression}
    abstract = "".join(
        f'<AbstractText Label="{label}">{escape(text)}</AbstractText>'
        for label, text in texts.items()
        if text
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{uid}"/>'
        f"<MedlineCitation><Article><Abstract>{abstract}</Abstract></Article></MedlineCitation>"
        f"<MeSH><major>normal</major></MeSH>{parents}</eCitation>"
    )


def write_csv(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([columns, *rows])


def lay_out(root: Path, layout: str, reports: Reports = REPORTS) -> DatasetParams:
    """Write reports and empty films; the parameters that read them."""
    films = [film for _, _, of_report in reports.values() for film in of_report]
    for film in [*films, STRAY]:
        path = images_folder(root, layout) / PATHS[layout](film)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if layout == "kaggle":
        write_csv(
            root / "indiana_reports.csv",
            ["uid", "MeSH", "findings", "impression"],
            [[uid, "normal", *texts] for uid, (*texts, _) in reports.items()],
        )
        write_csv(
            root / "indiana_projections.csv",
            ["uid", "filename", "projection"],
            [
                [uid, f"{film}.dcm.png", "Lateral" if film.endswith("2001") else "Frontal"]
                for uid, (_, _, of_report) in reports.items()
                for film in of_report
            ],
        )
    else:
        (root / "ecgen-radiology").mkdir()
        for uid, report in reports.items():
            (root / f"ecgen-radiology/{uid}.xml").write_text(report_xml(uid, *report))
    return dataset_params("iu_xray", root, layout=layout.split(",")[0])


def rows_of(dataset: Dataset) -> list[tuple[str, str, str, tuple[str, ...], tuple[str, ...]]]:
    return [(s.study_id, s.split, s.report, s.image_paths, s.views) for s in dataset.studies]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_study_table_with_the_r2gen_split(tmp_path: Path, layout: str) -> None:
    dataset = read_dataset(lay_out(tmp_path, layout))
    at = PATHS[layout]
    both = ("frontal", "lateral")
    assert rows_of(dataset) == [
        (
            "CXR2384_IM-0942",
            "train",
            "Heart is normal.",
            (at("2384_IM-0942-1001"), at("2384_IM-0942-2001")),
            both,
        ),
        (
            "CXR2279_IM-0865",
            "val",
            "A < B & C. ",
            (at("2279_IM-0865-1001"), at("2279_IM-0865-1002")),
            r2gen_studies()["CXR2279_IM-0865"].views,
        ),
        (
            "CXR3030_IM-1405",
            "test",
            "Lungs are clear.",
            (at("3030_IM-1405-1001"), at("3030_IM-1405-2001")),
            both,
        ),
        (
            "CXR38_IM-1911",
            "test",
            "Bones are old.",
            (at("38_IM-1911-1001"), at("38_IM-1911-2001")),
            both,
        ),
    ]
    assert dataset.images == images_folder(tmp_path, layout)
    assert dataset.boxes.empty


@pytest.mark.parametrize("layout", LAYOUTS)
def test_left_out_studies_are_listed_with_their_reasons(tmp_path: Path, layout: str) -> None:
    dataset = read_dataset(lay_out(tmp_path, layout))
    rows = {uid: row for row, uid in enumerate(REPORTS, start=1)}
    source = "indiana_reports.csv, row {row}" if layout == "kaggle" else "{uid}.xml"

    def of(uid: int) -> str:
        return source.format(uid=uid, row=rows[uid])

    stray = PATHS[layout](STRAY)
    stem = stray.rpartition("/")[2].split(".")[0]
    assert [left for left in dataset.left_out if left.reason != "no report"] == [
        LeftOut(stem, stray, "image in no report"),
        LeftOut("CXR9001", of(9001), "not in the R2Gen split"),
        LeftOut("CXR2926_IM-1328", of(2926), "no report section"),
        LeftOut("CXR2056_IM-0694-1001", of(2056), "no image"),
    ]
    assert sum(left.reason == "no report" for left in dataset.left_out) == 2955 - 6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_split_takes_every_study_with_section_and_film(tmp_path: Path, layout: str) -> None:
    extra = {n: (f"Report {n}.", "", [f"{n}_IM-1-1", f"{n}_IM-1-2"]) for n in range(9002, 9017)}
    params = lay_out(tmp_path, layout, REPORTS | extra)
    dataset = read_dataset(params.model_copy(update={"split": "random"}))
    assert Counter(s.split for s in dataset.studies) == {"train": 14, "val": 2, "test": 4}
    assert {s.study_id for s in dataset.studies} == {
        *("CXR38_IM-1911", "CXR2279_IM-0865", "CXR2384_IM-0942", "CXR3030_IM-1405", "CXR9001"),
        *(f"CXR{uid}" for uid in extra),
    }
    for split in ("train", "val", "test"):
        uids = [uid_of(s.study_id) for s in dataset.studies if s.split == split]
        assert uids == sorted(uids)
    assert {left.reason for left in dataset.left_out} == {
        "image in no report",
        "no report section",
        "no image",
    }


def test_random_split_depends_on_its_seed_alone() -> None:
    uids = range(1, 2956)
    split = random_split(uids, seed=0)
    assert Counter(split.values()) == {"train": 2069, "val": 296, "test": 590}
    assert split == random_split(reversed(uids), seed=0)
    assert split != random_split(uids, seed=1)
    more = random_split(range(1, 2957), seed=0)  # one study more moves few others
    assert sum(split[uid] != more[uid] for uid in uids) <= 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("section", "reports"),
    [
        ("impression", {"2384": "Normal.", "2926": "Only an impression.", "2279": "Same."}),
        ("findings+impression", {"2384": "Heart is normal. Normal.", "2279": "A < B & C. Same."}),
    ],
)
def test_other_sections(tmp_path: Path, layout: str, section: str, reports: dict[str, str]) -> None:
    dataset = read_dataset(lay_out(tmp_path, layout).model_copy(update={"section": section}))
    found = {str(uid_of(s.study_id)): s.report for s in dataset.studies if s.split != "test"}
    assert found == reports


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_study_with_one_film(tmp_path: Path, layout: str) -> None:
    one = {2384: ("Heart is normal.", "", ["2384_IM-0942-1001"])}
    params = lay_out(tmp_path, layout, REPORTS | one)
    with pytest.raises(UserError) as caught:
        read_dataset(params)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path}: 1 faults"
    assert lines[1].endswith(
        "study CXR2384_IM-0942 has 1 images, but dataset.images_per_study is 2"
    )
    assert "dataset.missing_view may be repeat or mask" in lines[2]
    for choice in ("repeat", "mask"):
        study = read_dataset(params.model_copy(update={"missing_view": choice})).studies[0]
        assert study.image_paths == (PATHS[layout]("2384_IM-0942-1001"),)
        assert study.views == ("frontal",)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_film_is_left_to_ingest_and_a_study_of_none_is_left_out(
    tmp_path: Path, layout: str
) -> None:
    params = lay_out(tmp_path, layout)
    folder = images_folder(tmp_path, layout)
    for film in ("2384_IM-0942-1001", "38_IM-1911-1001", "38_IM-1911-2001"):
        (folder / PATHS[layout](film)).unlink()
    dataset = read_dataset(params)
    assert [s.study_id for s in dataset.studies if s.split == "test"] == ["CXR3030_IM-1405"]
    assert "CXR38_IM-1911" in {
        left.study_id for left in dataset.left_out if left.reason == "no image"
    }
    first, second = dataset.studies[0].image_paths
    assert not (folder / first).exists() and "2384_IM-0942-1001" in first
    assert (folder / second).exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_report_of_marks_is_empty(tmp_path: Path, layout: str) -> None:
    changed = {2384: ("...", "", REPORTS[2384][2]), 2926: ("Fine.", "", REPORTS[2926][2])}
    dataset = read_dataset(lay_out(tmp_path, layout, REPORTS | changed))
    empty = [left.study_id for left in dataset.left_out if left.reason == "empty report"]
    assert empty == ["CXR2384_IM-0942"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_split_without_studies_is_an_error(tmp_path: Path, layout: str) -> None:
    few = {uid: REPORTS[uid] for uid in (2384, 3030)}
    with pytest.raises(UserError, match=r"no study for val. Read 2 studies; left out: 2953 no rep"):
        read_dataset(lay_out(tmp_path, layout, few))


# Bad input.


def refused(params: DatasetParams) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_dataset(params)
    return str(caught.value).splitlines()


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE e [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    '<eCitation><uId id="CXR38"/>&b;</eCitation>'
)
OUTSIDE = (
    '<?xml version="1.0"?><!DOCTYPE e [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
    '<eCitation><uId id="CXR38"/>&a;</eCitation>'
)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<eCitation><uId", "38.xml: not well-formed XML (unclosed token: line 1, column 11)"),
        (b"", "38.xml: not well-formed XML (no element found: line 1, column 0)"),
        (b"\xff\xfe\x00", "38.xml: not well-formed XML"),
        (b'<?xml version="1.0" encoding="no-such"?><a/>', "38.xml: "),
        (BOMB.encode(), "38.xml: XML with a document type or entities, which are refused"),
        (OUTSIDE.encode(), "38.xml: XML with a document type or entities, which are refused"),
        (b"<eCitation/>", "38.xml: found the uId None, expected one like CXR1"),
        (b'<e><uId id="../x"/></e>', "38.xml: found the uId '../x', expected one like CXR1"),
        (b'<e><uId id=""/></e>', "38.xml: found the uId '', expected one like CXR1"),
        (
            b'<e><uId id="CXR' + b"1" * 100_000 + b'"/></e>',
            f"38.xml: found the uId 'CXR{'1' * 36}, expected one like CXR1",
        ),
        (
            report_xml(3030, "Twice.", "", []).encode(),
            "38.xml: 3030.xml also has the uId CXR3030",
        ),
        (
            report_xml(38, "Out.", "", ["x"]).replace("CXR38_x", "../../etc/x").encode(),
            "38.xml: parentImage '../../etc/x' leaves the images folder",
        ),
    ],
)
def test_faulty_xml_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    params = lay_out(tmp_path, "openi")
    (tmp_path / "ecgen-radiology/38.xml").write_bytes(content)
    lines = refused(params)
    assert lines[0] == f"{tmp_path / 'ecgen-radiology'}: 1 faults"
    assert lines[1].startswith(f"  {found}")
    assert lines[2] == "Restore or remove these reports."


def test_linked_report_outside_the_root_is_refused(tmp_path: Path) -> None:
    params = lay_out(tmp_path / "raw", "openi")
    outside = tmp_path / "38.xml"
    inside = tmp_path / "raw/ecgen-radiology/38.xml"
    inside.rename(outside)
    inside.symlink_to(outside)
    assert refused(params)[1] == "  38.xml: a link that leads out of dataset.root"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_linked_images_folder_outside_the_root_is_refused(tmp_path: Path, layout: str) -> None:
    params = lay_out(tmp_path / "raw", layout)
    folder = images_folder(tmp_path / "raw", layout)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert refused(params)[0].startswith(
        f"{folder} is a link that leads out of {tmp_path / 'raw'}."
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_files_of_one_name_are_refused(tmp_path: Path, layout: str) -> None:
    params = lay_out(tmp_path, layout)
    folder = images_folder(tmp_path, layout)
    path = PATHS[layout]("38_IM-1911-1001")
    (folder / "again").mkdir()
    shutil.copy(folder / path, folder / "again")
    name = path.rpartition("/")[2]
    first, second = sorted([path, f"again/{name}"], key=lambda p: (p.count("/"), p))
    assert refused(params)[1] == f"  {name} is both at {first} and at {second}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_images_folder(tmp_path: Path, layout: str) -> None:
    params = lay_out(tmp_path, layout)
    folder = images_folder(tmp_path, layout)
    shutil.rmtree(folder)
    expected = images_folder(tmp_path, layout.split(",")[0])
    assert refused(params) == [f"{expected} is missing. Unpack the images there."]


CSV_FAULTS: list[tuple[str, Callable[[str], bytes], str]] = [
    (
        "indiana_reports.csv",
        lambda text: text.replace("findings", "finding").encode(),
        "lacks the column findings; found uid, MeSH, finding, impression.",
    ),
    (
        "indiana_projections.csv",
        lambda text: text.replace("filename,projection", "file,view").encode(),
        "lacks the column filename, projection; found uid, file, view.",
    ),
    (
        "indiana_reports.csv",
        lambda text: text.replace("old", "\u00e4lt").encode("latin-1"),
        "is not UTF-8 (",
    ),
    ("indiana_reports.csv", lambda text: text.encode("utf-16"), "is not UTF-8 ("),
    ("indiana_reports.csv", lambda text: b"", "is not CSV: No columns to parse"),
    ("indiana_reports.csv", lambda text: (text + 'x,"y').encode(), "is not CSV: "),
    (
        "indiana_reports.csv",
        lambda text: (text + "38,normal,Again.,\n").encode(),
        "1 faults\n  row 8: uid '38' is repeated\nRestore the file.",
    ),
    (
        "indiana_reports.csv",
        lambda text: text.replace("2384,", "CXR2384,").encode(),
        "1 faults\n  row 4: uid 'CXR2384' is not a number\nRestore the file.",
    ),
    (
        "indiana_projections.csv",
        lambda text: (text + "38,38_IM-1911-1001.dcm.png,Frontal\n").encode(),
        "1 faults\n  row 14: filename '38_IM-1911-1001.dcm.png' is repeated\nRestore the file.",
    ),
    (
        "indiana_projections.csv",
        lambda text: (text + "38,../../etc/x,Frontal\n").encode(),
        "1 faults\n  row 14: filename '../../etc/x' leaves the images folder\nRestore the file.",
    ),
]


@pytest.mark.parametrize(("name", "spoil", "found"), CSV_FAULTS)
def test_faulty_csv_is_named(
    tmp_path: Path, name: str, spoil: Callable[[str], bytes], found: str
) -> None:
    params = lay_out(tmp_path, "kaggle")
    path = tmp_path / name
    path.write_bytes(spoil(path.read_text()))
    text = "\n".join(refused(params))
    assert text.startswith(str(path))
    assert found in text


def test_csv_with_a_byte_order_mark(tmp_path: Path) -> None:
    params = lay_out(tmp_path, "kaggle")
    path = tmp_path / "indiana_reports.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_dataset(params).studies) == 4


def test_missing_projections(tmp_path: Path) -> None:
    params = lay_out(tmp_path, "kaggle")
    (tmp_path / "indiana_projections.csv").unlink()
    assert refused(params) == [f"{tmp_path / 'indiana_projections.csv'} is missing."]


# The choice of a layout.


def test_other_layout_is_recognised(tmp_path: Path) -> None:
    params = lay_out(tmp_path, "kaggle")
    (line,) = refused(params.model_copy(update={"layout": "openi"}))
    assert line == (
        f"{tmp_path / 'ecgen-radiology'} is missing; {tmp_path} holds images, "
        "indiana_projections.csv, indiana_reports.csv. Expected Open-i's own: "
        "ecgen-radiology/*.xml, and NLMCXR_png/ or NLMCXR_dcm/. "
        "This looks like dataset.name: iu_xray with dataset.layout: kaggle."
    )


def test_root_one_folder_too_high(tmp_path: Path) -> None:
    params = lay_out(tmp_path / "unpacked", "openi")
    (line,) = refused(params.model_copy(update={"root": tmp_path}))
    assert line.endswith(f" It is in {tmp_path / 'unpacked'}: name that folder.")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"layout": "physionet"},
            "dataset.layout: found 'physionet', expected one of ['kaggle', "
            "'openi', 'r2gen'] for iu_xray.",
        ),
        (
            {"layout": "r2gen", "split": "random"},
            "dataset.split: found 'random', expected one of "
            "['r2gen'] for iu_xray in the layout r2gen.",
        ),
        (
            {"layout": "r2gen", "section": "impression"},
            "dataset.section: found 'impression', "
            "expected one of ['findings'] for iu_xray in the layout r2gen.",
        ),
    ],
)
def test_choices_that_a_layout_does_not_offer(
    tmp_path: Path, changes: dict[str, str], found: str
) -> None:
    assert refused(dataset_params("iu_xray", tmp_path, **changes)) == [found]


# The real collection.


def test_the_list_is_that_of_r2gens_file(iu_xray: Path) -> None:
    studies = read_dataset(dataset_params("iu_xray", iu_xray, order_views=False)).studies
    assert [(s.study_id, s.split) for s in studies] == [
        (study_id, study.split) for study_id, study in r2gen_studies().items()
    ]
    assert [s.views for s in studies] == [study.views for study in r2gen_studies().values()]


def test_kaggle_and_open_i_hold_the_same_collection(iu_xray: Path, tmp_path: Path) -> None:
    """The real reports, laid out both ways, over empty films."""
    reports = pd.read_csv(iu_xray / "kaggle_reports.csv", dtype=str, keep_default_na=False)
    films = pd.read_csv(iu_xray / "kaggle_projections.csv").groupby("uid")["filename"].apply(list)
    collection: Reports = {
        int(row.uid): (
            row.findings,
            row.impression,
            [name.removesuffix(".dcm.png") for name in films[int(row.uid)]],
        )
        for row in reports.itertuples()
    }
    openi = lay_out(tmp_path / "openi", "openi", collection)
    kaggle = lay_out_kaggle(iu_xray, tmp_path / "kaggle", films=False)
    r2gen = dataset_params("iu_xray", iu_xray)
    pd.testing.assert_frame_equal(table_of(openi), table_of(r2gen))
    pd.testing.assert_frame_equal(table_of(kaggle), table_of(r2gen))
    both = {"section": "findings+impression"}
    openi, kaggle = (params.model_copy(update=both) for params in (openi, kaggle))
    assert len(table_of(openi)) > 2900
    pd.testing.assert_frame_equal(table_of(openi), table_of(kaggle))


def table_of(params: DatasetParams) -> pd.DataFrame:
    """The study table apart from the source paths."""
    return read_dataset(params).table().drop(columns="image_paths")


def lay_out_kaggle(iu_xray: Path, root: Path, films: bool) -> DatasetParams:
    """Kaggle's layout of the real collection, over the real films or empty ones."""
    folder = root / "images" / "images_normalized"
    folder.mkdir(parents=True)
    for table in ("reports", "projections"):
        shutil.copyfile(iu_xray / f"kaggle_{table}.csv", root / f"indiana_{table}.csv")
    for row in pd.read_csv(iu_xray / "kaggle_names.csv").itertuples():
        if films:
            shutil.copyfile(iu_xray / "images" / row.image_path, folder / row.kaggle_filename)
        else:
            (folder / row.kaggle_filename).touch()
    return dataset_params("iu_xray", root, layout="kaggle")


def test_r2gen_and_kaggle_give_the_same_table_and_films(
    iu_xray: Path, tmp_path: Path, raw_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out_kaggle(iu_xray, tmp_path / "raw", films=True)
    roots = {"r2gen": iu_xray.resolve(), "kaggle": tmp_path / "raw"}
    for layout, root in roots.items():
        (tmp_path / layout).mkdir()
        monkeypatch.chdir(tmp_path / layout)
        for key, value in {"name": "iu_xray", "layout": layout, "root": str(root)}.items():
            override(raw_params, f"dataset.{key}", value)
        Path("params.yaml").write_text(yaml.safe_dump(raw_params))
        ingest()
    r2gen, kaggle = (
        read_table(tmp_path / layout / "data/studies.parquet").drop(columns="image_paths")
        for layout in roots
    )
    assert len(r2gen) == 2955
    pd.testing.assert_frame_equal(r2gen, kaggle)
    packed = [(tmp_path / layout / "data/images.npy").read_bytes() for layout in roots]
    assert packed[0] == packed[1]
    assert np.load(tmp_path / "r2gen/data/images.npy", mmap_mode="r").shape[0] == 5910
