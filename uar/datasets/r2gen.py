"""The R2Gen packaging: `annotation.json` beside `images/` (https://github.com/zhjohnchan/R2Gen).

IU X-Ray: 2,955 studies with two films each, split 2069 / 296 / 590 (train / val / test); a report
is the FINDINGS section. Images are not named by view: the first is usually the frontal film.
MIMIC-CXR: the same file format, one film a record. Cite Demner-Fushman et al. (JAMIA 2016) for IU
X-Ray and Johnson et al. (2019) for MIMIC-CXR.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from uar.config import DatasetParams
from uar.datasets.study import SPLITS, Dataset, Study, refuse
from uar.errors import UserError
from uar.files import read_json


def read(params: DatasetParams) -> Dataset:
    """Read `annotation.json` under `params.root`.

    Raises:
        UserError: the root or the file is missing; a split is missing; a record lacks a key, has an
            empty report, a repeated id, too few images or a path that leaves the folder. All
            faulty records are named at once.
    """
    root = params.root
    if not root.is_dir():
        raise UserError(
            f"dataset.root: no folder {root}. Unpack the data set there, or name its folder with "
            f"`python -m pipeline use {params.name} --root FOLDER`."
        )
    path = root / "annotation.json"
    if not path.is_file():
        found = ", ".join(sorted(entry.name for entry in root.iterdir())[:8]) or "an empty folder"
        raise UserError(
            f"{path} is missing; {root} holds {found}. Expected the R2Gen packaging: "
            "annotation.json and images/."
        )
    annotation = read_json(path)
    if not isinstance(annotation, dict):
        raise UserError(f"{path}: found a {type(annotation).__name__}, expected the keys {SPLITS}.")
    held = {split: annotation.get(split) for split in SPLITS}
    missing = [split for split in SPLITS if not held[split] or not isinstance(held[split], list)]
    if missing:
        raise UserError(
            f"{path}: no records under {', '.join(missing)}; found the keys "
            f"{', '.join(annotation) or 'none'}. Each of {', '.join(SPLITS)} must hold records."
        )
    studies: list[Study] = []
    faults: list[str] = []
    seen: set[str] = set()
    for split in SPLITS:
        for row, record in enumerate(annotation[split]):
            fault = _fault(record, split, params.images_per_study, seen)
            if fault:
                faults.append(f"{split}[{row}]: {fault}")
                continue
            seen.add(record["id"])
            paths = tuple(record["image_path"][: params.images_per_study])
            views = ("unknown",) * len(paths)
            studies.append(Study(record["id"], split, record["report"], paths, views))
    refuse(faults, path, "Correct or remove these records.")
    return Dataset(studies, root / "images")


def _fault(record: Any, split: str, images: int, seen: set[str]) -> str | None:
    if not isinstance(record, dict):
        return f"found a {type(record).__name__}, expected a record"
    lacking = [key for key in ("id", "report", "image_path", "split") if key not in record]
    if lacking:
        return f"id {record.get('id')!r} lacks {', '.join(lacking)}"
    study_id = record["id"]
    if not isinstance(study_id, str) or study_id in seen:
        return f"id {study_id!r} is repeated or not text"
    if record["split"] != split:
        return f"id {study_id!r} says split {record['split']!r}"
    if not isinstance(record["report"], str) or not record["report"].strip():
        return f"id {study_id!r} has an empty report"
    paths = record["image_path"]
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        return f"id {study_id!r}: image_path is not a list of paths"
    if len(paths) < images:
        return f"id {study_id!r} has {len(paths)} images, dataset.images_per_study is {images}"
    for path in map(PurePosixPath, paths):
        if path.is_absolute() or ".." in path.parts:
            return f"id {study_id!r}: image path {str(path)!r} leaves the images folder"
    return None
