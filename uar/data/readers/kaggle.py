"""IU X-Ray from Kaggle (raddar/chest-xrays-indiana-university).

    indiana_reports.csv            uid, findings, impression, ...
    indiana_projections.csv        uid, filename, projection (Frontal | Lateral)
    images/images_normalized/1_IM-0001-4001.dcm.png, or in images/ itself

Cite Demner-Fushman et al. (JAMIA 2016).
"""

from __future__ import annotations

from collections import defaultdict

import pandas as pd

from uar.core.config import DatasetParams
from uar.data.readers.iu_xray import (
    SECTIONS_OFFERED,
    SPLITS_OFFERED,
    Examination,
    ListedFilm,
    assemble,
)
from uar.data.readers.tables import read_csv
from uar.data.study import Dataset, Layout, View, image_files, leaves_folder, refuse

_VIEWS: dict[str, View] = {"Frontal": "frontal", "Lateral": "lateral"}


def read(params: DatasetParams) -> Dataset:
    """Read the two tables under `params.root`, and find the films.

    Raises:
        UserError: a table is missing, is not CSV or lacks a column; a uid is repeated or not a
            number; a film is listed twice; two images share a name; or as in `iu_xray.assemble`.
    """
    images = params.root / "images"
    on_disk = image_files(images, params.root)
    path = params.root / "indiana_projections.csv"
    projections = read_csv(path, ["uid", "filename", "projection"])
    leaving = [
        f"row {i + 1}: filename {name!r} leaves the images folder"
        for i, name in enumerate(projections["filename"])
        if leaves_folder(name)
    ]
    refuse(_faults(projections, "filename") + leaving, path, "Restore the file.")
    films: defaultdict[int, list[ListedFilm]] = defaultdict(list)
    for row in projections.itertuples():
        name = row.filename
        film = ListedFilm(
            name=name.split(".")[0],
            path=on_disk.get(name, name),
            on_disk=name in on_disk,
            view=_VIEWS.get(row.projection, "unknown"),
        )
        films[int(row.uid)].append(film)

    path = params.root / "indiana_reports.csv"
    reports = read_csv(path, ["uid", "findings", "impression"])
    refuse(_faults(reports, "uid"), path, "Restore the file.")
    examinations = {
        int(row.uid): Examination(
            uid=int(row.uid),
            sections={"findings": row.findings, "impression": row.impression},
            films=tuple(films[int(row.uid)]),
            source=f"{path.name}, row {row.Index + 1}",
        )
        for row in reports.itertuples()
    }
    return assemble(examinations, params, images, on_disk.values())


LAYOUT = Layout(
    read,
    "Kaggle's: indiana_reports.csv, indiana_projections.csv and images/",
    marker="indiana_reports.csv",
    splits=SPLITS_OFFERED,
    sections=SECTIONS_OFFERED,
)


def _faults(table: pd.DataFrame, key: str) -> list[str]:
    """The faults of rows (from 1) whose uid is not a number or whose `key` is repeated."""
    no_number = ~table["uid"].str.fullmatch("[0-9]{1,9}")
    faults = [
        f"row {i + 1}: uid {table['uid'][i]!r:.40} is not a number" for i in table.index[no_number]
    ]
    repeated = table[key].duplicated()
    return faults + [
        f"row {i + 1}: {key} {table[key][i]!r:.200} is repeated" for i in table.index[repeated]
    ]
