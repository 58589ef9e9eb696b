"""IU X-Ray from Open-i and Kaggle: what both layouts share once their files are read.

The collection has 3,955 reports and 7,470 films. The compared papers use the 2,955 studies that
R2Gen lists, with the first two films of each by file name; `r2gen_split.csv` holds their ids and
split in R2Gen's order, and the views of these films as Kaggle's projections state them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pandas as pd

from uar.core.config import DatasetParams
from uar.core.sections import compose, is_empty_report
from uar.data.study import (
    SHORT_OF_IMAGES,
    SPLITS,
    Dataset,
    LeftOut,
    Split,
    Study,
    View,
    image_fault,
    refuse,
)

R2GEN_LIST = Path(__file__).with_name("r2gen_split.csv")
Uid = TypeVar("Uid", int, str)  # a study, as its collection names it

SPLITS_OFFERED = ("r2gen", "random")
SECTIONS_OFFERED = ("findings", "impression", "findings+impression")


@dataclass(frozen=True)
class ListedStudy:
    """A study in R2Gen's file."""

    split: Split
    views: tuple[View, View]  # of its first two films by file name


@dataclass(frozen=True)
class ListedFilm:
    """A film that a report claims."""

    name: str  # as the collection names it, "1_IM-0001-3001"
    path: str  # relative to the images folder; where it should be if it is missing
    on_disk: bool
    view: View = "unknown"  # as the collection states it


@dataclass(frozen=True)
class Examination:
    """A report of the collection with its films."""

    uid: int  # the collection's number
    sections: dict[str, str]  # findings, impression
    films: tuple[ListedFilm, ...]
    source: str  # file, or file and row


@cache
def r2gen_studies() -> dict[str, ListedStudy]:
    """The studies in R2Gen's file by id, in its order: train, val, test."""
    return {
        row.study_id: ListedStudy(row.split, (row.view_0, row.view_1))
        for row in pd.read_csv(R2GEN_LIST, dtype=str).itertuples()
    }


def uid_of(study_id: str) -> int:
    """A study's number in the collection: 1000 for `CXR1000_IM-0003`."""
    return int(study_id.removeprefix("CXR").split("_")[0])


def random_split(uids: Iterable[Uid], seed: int) -> dict[Uid, Split]:
    """Split studies 70 / 10 / 20. A study's rank depends only on the seed and its own uid."""
    ranked = sorted(uids, key=lambda uid: sha256(f"{seed}/{uid}".encode()).digest())
    train = (7 * len(ranked) + 5) // 10
    val = train + (len(ranked) + 5) // 10
    split: dict[Uid, Split] = dict.fromkeys(ranked[:train], "train")
    return split | dict.fromkeys(ranked[train:val], "val") | dict.fromkeys(ranked[val:], "test")


def assemble(
    examinations: dict[int, Examination],
    params: DatasetParams,
    images: Path,
    on_disk: Iterable[str],
) -> Dataset:
    """Choose the studies, their split, films and section.

    With the R2Gen split, studies come in R2Gen's order; with the random one, by split and number.
    An id is R2Gen's where it lists the study, else the collection's (`CXR1`). A study is
    left out if none of its films is on disk or if it lacks the section or words in it; if only
    some of its films are missing, that is left to ingest.

    Args:
        examinations: by number.
        images: the images folder.
        on_disk: paths of all images; those in no report are left out.

    Raises:
        UserError: a study has fewer films than `images_per_study` and `missing_view` is "error", or
            an image path leaves the folder.
    """
    wanted, not_wanted = _choose(examinations, params.split)
    reports, unusable = _reports(wanted, params.section)
    if params.split == "r2gen":
        split_of = {uid: r2gen_studies()[_r2gen_ids()[uid]].split for uid in reports}
    else:
        split_of = random_split(reports, params.split_seed)
    studies: list[Study] = []
    faults: list[str] = []
    for uid in sorted(reports, key=lambda uid: SPLITS.index(split_of[uid])):
        study_id = _id_of(uid)
        paths, views = _films(study_id, examinations[uid])
        fault = image_fault(paths, params)
        if fault:
            faults.append(f"{examinations[uid].source}: study {study_id} {fault}")
        studies.append(Study(study_id, split_of[uid], reports[uid], paths, views))
    refuse(faults, params.root, SHORT_OF_IMAGES)
    left_out = [*_in_no_report(examinations, on_disk), *not_wanted, *unusable]
    return Dataset(studies, images, left_out=left_out)


@cache
def _r2gen_ids() -> dict[int, str]:
    """R2Gen's ids of its studies, by the collection's numbers, in R2Gen's order."""
    return {uid_of(study_id): study_id for study_id in r2gen_studies()}


def _id_of(uid: int) -> str:
    """R2Gen's id of a study if it has one, else the collection's."""
    return _r2gen_ids().get(uid, f"CXR{uid}")


def _in_no_report(examinations: dict[int, Examination], on_disk: Iterable[str]) -> list[LeftOut]:
    """The images that no report claims."""
    claimed = {film.path for one in examinations.values() for film in one.films}
    return [
        LeftOut(PurePosixPath(path).name.split(".")[0], path, "image in no report")
        for path in on_disk
        if path not in claimed
    ]


def _choose(
    examinations: dict[int, Examination], split: str
) -> tuple[dict[int, Examination], list[LeftOut]]:
    """The examinations of a split in its order, and studies that only one of the lists has."""
    if split != "r2gen":
        return {uid: examinations[uid] for uid in sorted(examinations)}, []
    ids = _r2gen_ids()
    missing = sorted(ids.keys() - examinations.keys())
    unlisted = sorted(examinations.keys() - ids.keys())
    left_out = [LeftOut(_id_of(uid), R2GEN_LIST.name, "no report") for uid in missing]
    for uid in unlisted:
        left_out.append(LeftOut(_id_of(uid), examinations[uid].source, "not in the R2Gen split"))
    return {uid: examinations[uid] for uid in ids if uid in examinations}, left_out


def _reports(wanted: dict[int, Examination], section: str) -> tuple[dict[int, str], list[LeftOut]]:
    """The report of each examination that can be used, and why the others cannot."""
    reports: dict[int, str] = {}
    left_out: list[LeftOut] = []
    for uid, examination in wanted.items():
        report = compose(examination.sections, section)
        if not any(film.on_disk for film in examination.films):
            reason = "no image"
        elif not report:
            reason = "no report section"
        elif is_empty_report(report):
            reason = "empty report"
        else:
            reports[uid] = report
            continue
        left_out.append(LeftOut(_id_of(uid), examination.source, reason))
    return reports, left_out


def _films(study_id: str, examination: Examination) -> tuple[tuple[str, ...], tuple[View, ...]]:
    """Paths and views of a study's films in order of name; R2Gen's two if it lists the study."""
    films = sorted(examination.films, key=lambda film: film.name)
    known = r2gen_studies().get(study_id)
    if known is None:
        return tuple(film.path for film in films), tuple(film.view for film in films)
    films = films[: len(known.views)]
    return tuple(film.path for film in films), known.views[: len(films)]
