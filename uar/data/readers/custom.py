"""A user's own data set: a table of studies, and films in any folders next to it.

    studies.csv     study, split, images, report; and views, if known
    films/p1.png    or wherever `images` says, relative to the folder of studies.csv

A row is a study. `images` names its films and `views` what they show (frontal, lateral, unknown),
in the same order, separated by semicolons. `split` is train, val or test; with
`dataset.split: random` it is ignored.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import cast, get_args

from uar.core.config import DatasetParams
from uar.core.sections import is_empty_report
from uar.data.readers.iu_xray import random_split
from uar.data.readers.tables import read_csv
from uar.data.study import (
    SHORT_OF_IMAGES,
    SPLITS,
    Dataset,
    Layout,
    Split,
    Study,
    View,
    image_fault,
    name_fault,
    refuse,
)

_TABLE = "studies.csv"
_SEPARATOR = ";"
_VIEWS = get_args(View)


def read(params: DatasetParams) -> Dataset:
    """Read `studies.csv` under `params.root`.

    Raises:
        UserError: the table is missing, is not CSV or lacks a column; a row has an empty, an
            unprintable or a repeated study, an unknown split or view, an empty report, too few
            images, a path that leaves the folder, or not exactly one view per image. All faulty
            rows are listed at once.
    """
    path = params.root / _TABLE
    needed = ["study", "images", "report", *(["split"] if params.split == "official" else [])]
    table = read_csv(path, needed)
    if "views" in _refuse_other_widths(path):
        table = read_csv(path, [*needed, "views"])
    table["study"] = table["study"].str.strip()
    if params.split == "random":
        table["split"] = table["study"].map(random_split(set(table["study"]), params.split_seed))
    studies: list[Study] = []
    faults: list[str] = []
    first_row: dict[str, int] = {}
    for row, entry in enumerate(table.to_dict("records"), start=2):  # row 1 holds the names
        study = _study(entry)
        if fault := name_fault(study.study_id):
            faults.append(f"row {row}: study {fault}")
        elif fault := _fault(study, first_row, params):
            faults.append(f"row {row}: study {study.study_id!r} {fault}")
        first_row.setdefault(study.study_id, row)
        studies.append(study)
    refuse(faults, path, f"Correct or remove these rows. {SHORT_OF_IMAGES}")
    return Dataset(sorted(studies, key=lambda study: SPLITS.index(study.split)), params.root)


def _refuse_other_widths(path: Path) -> list[str]:
    """Return the table's column names; raise UserError if a row has more or fewer cells."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        names, *rows = csv.reader(file)
    faults = [
        f"row {number}: found {len(row)} cells, expected {len(names)}"
        for number, row in enumerate(rows, start=2)
        if row and len(row) != len(names)
    ]
    refuse(faults, path, "Put cells that contain commas in double quotes.")
    return names


def _study(entry: dict[str, str]) -> Study:
    """The study of a row as it stands, valid or not."""
    images, views = (
        tuple(part.strip() for part in entry.get(column, "").split(_SEPARATOR) if part.strip())
        for column in ("images", "views")
    )
    return Study(
        entry["study"],
        cast(Split, entry["split"].strip()),
        entry["report"],
        images,
        cast(tuple[View, ...], views or ("unknown",) * len(images)),
    )


def _fault(study: Study, first_row: dict[str, int], params: DatasetParams) -> str | None:
    if study.study_id in first_row:
        return f"is also in row {first_row[study.study_id]}"
    if study.split not in SPLITS:
        return f"has the split {study.split!r}, expected one of {', '.join(SPLITS)}"
    if is_empty_report(study.report):
        return "has an empty report"
    if len(study.views) != len(study.image_paths):
        return f"has {len(study.image_paths)} images and {len(study.views)} views"
    unknown = [view for view in study.views if view not in _VIEWS]
    if unknown:
        return f"has the view {unknown[0]!r}, expected one of {', '.join(_VIEWS)}"
    return image_fault(study.image_paths, params)


LAYOUT = Layout(
    read,
    f"{_TABLE} with the columns study, split, images and report, and the films that it names",
    marker=_TABLE,
    splits=("official", "random"),
)
