"""MIMIC-CXR and MIMIC-CXR-JPG 2.x from PhysioNet (https://physionet.org/content/mimic-cxr).

    mimic-cxr-2.0.0-split.csv.gz        dicom_id, study_id, subject_id, split; from MIMIC-CXR-JPG
    mimic-cxr-2.0.0-metadata.csv.gz     dicom_id, ViewPosition, ...; from MIMIC-CXR-JPG
    cxr-study-list.csv.gz               study_id, path of the report; from MIMIC-CXR, optional
    cxr-record-list.csv.gz              dicom_id, path of the film; from MIMIC-CXR, optional
    files/p10/p10000032/s50414267/<dicom_id>.jpg or .dcm
    files/p10/p10000032/s50414267.txt   or under mimic-cxr-reports/files/

Tables may be unpacked (`.csv`). Without the lists, paths follow from the ids. The split is the
official one. A study's frontal films (ViewPosition AP or PA) are used, in order of dicom_id; the
JPG if a film exists as JPG and as DICOM. PhysioNet's data use agreement is required. Cite Johnson
et al. (2019), and the MIMIC code repository for the sections (see `sections`).
"""

from __future__ import annotations

import os
from collections import Counter
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd

from uar.core.config import DatasetParams
from uar.core.errors import UserError
from uar.core.progress import progress
from uar.core.sections import compose, is_empty_report, read_sections
from uar.data.readers.tables import read_csv
from uar.data.study import (
    IMAGE_SUFFIXES,
    SHORT_OF_IMAGES,
    Dataset,
    Layout,
    LeftOut,
    Split,
    Study,
    View,
    image_fault,
    leaves_folder,
    links_out,
    refuse,
)

_SPLITS: dict[str, Split] = {"train": "train", "validate": "val", "test": "test"}
_FRONTAL = ("AP", "PA")


def read(params: DatasetParams) -> Dataset:
    """Read the tables under `params.root`, then the report and the folder of each study.

    Studies without a frontal view, a report, the section asked for, words in it, or a film on disk
    are left out, and so are images that no table lists.

    Raises:
        UserError: a table is missing or not CSV, lacks a column or contradicts another; a report is
            not UTF-8; a path leaves the root; a study has fewer frontal films than
            `images_per_study` and `missing_view` is "error".
    """
    root = params.root
    films = _films(root)
    apart = root / "mimic-cxr-reports"
    reports = apart if apart.is_dir() else root
    studies: list[Study] = []
    left_out: list[LeftOut] = []
    heads: Counter[str] = Counter()
    faults: list[str] = []
    total = films["study_id"].nunique()
    by_study = groupby(films.itertuples(index=False), key=attrgetter("study_id"))
    for _, rows in progress(by_study, "physionet", total, "study"):
        try:
            study, left = _read_study(list(rows), reports, params, heads)
        except UserError as fault:
            faults.append(str(fault))
            continue
        studies += study
        left_out += left
    refuse(faults, root, SHORT_OF_IMAGES)
    return Dataset(studies, root, left_out=left_out, unknown_heads=dict(heads.most_common()))


LAYOUT = Layout(
    read,
    "PhysioNet's: mimic-cxr-2.0.0-split.csv.gz, mimic-cxr-2.0.0-metadata.csv.gz and files/",
    marker="mimic-cxr-2.0.0-split.csv*",
    splits=("official",),
    sections=("findings", "impression", "findings+impression"),
)


def _read_study(
    films: list[Any], reports: Path, params: DatasetParams, heads: Counter[str]
) -> tuple[list[Study], list[LeftOut]]:
    """The study in these rows of `_films`, if it is used, and what is left out of it.

    Headers that ended its section although they are on no list are added to `heads`.
    """
    first = films[0]
    study_id = f"s{first.study_id}"
    frontal = [film.dicom_id for film in films if film.ViewPosition in _FRONTAL]
    if not frontal:
        return [], [LeftOut(study_id, first.folder, "no frontal view")]
    text = _report_text(reports / first.report, reports) if first.report else None
    if text is None:
        return [], [LeftOut(study_id, first.report or "cxr-study-list", "no report")]
    sections = read_sections(text)
    report = compose(sections, params.section)
    if report is None and text.strip():
        return [], [LeftOut(study_id, first.report, "no report section")]
    if not report or is_empty_report(report):
        return [], [LeftOut(study_id, first.report, "empty report")]
    on_disk = _images_of(params.root / first.folder)
    known = {film.dicom_id for film in films}
    strays = [
        LeftOut(study_id, f"{first.folder}/{name}", "image in no table")
        for stem, name in on_disk.items()
        if stem not in known
    ]
    if not on_disk.keys() & set(frontal):
        return [], [LeftOut(study_id, first.folder, "no image"), *strays]
    # A missing film is left to ingest, like one that cannot be read.
    paths = [
        f"{first.folder}/{on_disk.get(dicom_id, f'{dicom_id}.jpg')}"
        for dicom_id in frontal[: params.images_per_study]
    ]
    fault = image_fault(paths, params)
    if fault:
        raise UserError(f"{first.folder}: study {study_id} {fault}")
    frontals: list[View] = ["frontal"] * len(paths)
    names = params.section.split("+")
    heads.update({sections.ended[name] for name in names if name in sections.ended})
    study = Study(study_id, _SPLITS[first.split], report, tuple(paths), tuple(frontals))
    return [study], strays


def _report_text(path: Path, reports: Path) -> str | None:
    if links_out(path, reports):
        raise UserError(f"{path} is a link that leads out of {reports}")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None


def _images_of(folder: Path) -> dict[str, str]:
    """The name of each image in a study's folder by its dicom_id; JPG is preferred to DICOM."""
    if not folder.is_dir():
        return {}
    names = [name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
    return {name.rpartition(".")[0]: name for name in sorted(names, key=_jpg_last)}


def _jpg_last(name: str) -> tuple[bool, str]:
    return name.lower().endswith((".jpg", ".jpeg")), name


def _films(root: Path) -> pd.DataFrame:
    """Every film of the split table: dicom_id, study_id, split, ViewPosition, folder, report.

    Films are ordered by split, subject, study and dicom_id. `folder` and `report` are relative to
    the root; `report` is "" for a study that the study list lacks.
    """
    path = _table(root, "mimic-cxr-2.0.0-split")
    films = read_csv(path, ["dicom_id", "study_id", "subject_id", "split"])
    refuse(_split_faults(films), path, "Restore the file.")
    views = read_csv(_table(root, "mimic-cxr-2.0.0-metadata"), ["dicom_id", "ViewPosition"])
    films = films.merge(views.drop_duplicates("dicom_id"), on="dicom_id", how="left")
    unknown = films["dicom_id"][films["ViewPosition"].isna()]
    refuse(
        [f"dicom_id {dicom_id} has no row in the metadata" for dicom_id in unknown],
        path,
        "Take both tables from the same version of MIMIC-CXR-JPG.",
    )
    subject, study = films["subject_id"], films["study_id"]
    films["folder"] = "files/p" + subject.str[:2] + "/p" + subject + "/s" + study
    films["report"] = films["folder"] + ".txt"
    records = _listed_paths(root, "cxr-record-list", "dicom_id")
    if records is not None:
        listed = films["dicom_id"].map(records.str.rpartition("/")[0])
        films["folder"] = listed.fillna(films["folder"])
    reports = _listed_paths(root, "cxr-study-list", "study_id")
    if reports is not None:
        films["report"] = study.map(reports).fillna("")
    ordered = pd.DataFrame(
        {
            "split": films["split"].map(list(_SPLITS).index),
            "subject": subject.astype("int64"),
            "study": study.astype("int64"),
            "film": films["dicom_id"],
        }
    ).sort_values(["split", "subject", "study", "film"])
    return films.loc[ordered.index].drop(columns="subject_id")


def _split_faults(films: pd.DataFrame) -> list[str]:
    """The faults of rows (from 1) of the split table that are not films or contradict others."""
    ids = {"dicom_id": "[0-9A-Za-z-]{1,64}", "study_id": "[0-9]{1,18}", "subject_id": "[0-9]{1,18}"}
    bad = {
        f"{column} {{{column}!r:.40}} is not an id": ~films[column].str.fullmatch(pattern)
        for column, pattern in ids.items()
    }
    bad["split {split!r:.40} is not one of " + ", ".join(_SPLITS)] = ~films["split"].isin(_SPLITS)
    bad["dicom_id {dicom_id!r} is repeated"] = films["dicom_id"].duplicated()
    for column in ("split", "subject_id"):
        first = films.groupby("study_id")[column].transform("first")
        bad[f"study {{study_id}} has another {column} in an earlier row"] = films[column] != first
    return [
        f"row {row.Index + 1}: {fault.format(**row._asdict())}"
        for fault, rows in bad.items()
        for row in films[rows].itertuples()
    ]


def _listed_paths(root: Path, table: str, key: str) -> pd.Series | None:
    """The paths in an official list by `key`; None if the list is not there."""
    path = _find_table(root, table)
    if path is None:
        return None
    listed = read_csv(path, [key, "path"])
    faults = [
        f"row {row.Index + 1}: path {row.path!r} leaves the root"
        for row in listed.itertuples()
        if leaves_folder(row.path)
    ]
    repeated = listed[key][listed[key].duplicated()]
    faults += [f"row {i + 1}: {key} {value!r} is repeated" for i, value in repeated.items()]
    refuse(faults, path, "Restore the file.")
    return listed.set_index(key)["path"]


def _table(root: Path, name: str) -> Path:
    path = _find_table(root, name)
    if path is None:
        raise UserError(f"{root / name}.csv.gz is missing. It comes with MIMIC-CXR-JPG.")
    return path


def _find_table(root: Path, name: str) -> Path | None:
    paths = (root / f"{name}{ending}" for ending in (".csv.gz", ".csv"))
    return next((path for path in paths if path.is_file()), None)
