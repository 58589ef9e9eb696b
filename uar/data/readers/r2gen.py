"""The R2Gen packaging: `annotation.json` next to `images/` (https://github.com/zhjohnchan/R2Gen).

IU X-Ray: 2,955 studies with two films each, split 2069 / 296 / 590 (train / val / test); a report
is the FINDINGS section. Images are not named by view, so the views of these studies come from the
list in `iu_xray`; those of others are unknown.
MIMIC-CXR: the same file format, one film per record. Cite Demner-Fushman et al. (JAMIA 2016) for IU
X-Ray and Johnson et al. (2019) for MIMIC-CXR.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from uar.core.config import DatasetParams
from uar.core.errors import UserError, form_of
from uar.core.files import read_json
from uar.core.sections import is_empty_report
from uar.data.readers import iu_xray
from uar.data.study import (
    SPLITS,
    Dataset,
    Layout,
    Study,
    View,
    image_fault,
    is_text,
    name_fault,
    refuse,
)

# How the packaging of each data set names its films.
_FILMS = {"iu_xray": r"CXR\d+_IM-", "mimic_cxr": r"p1\d/p1\d{7}/s\d{8}/"}
_FIRST_FILM = re.compile(r'"image_path"\s*:\s*\[\s*"([^"]*)"')
_GLANCE = 65536  # characters of a file that may hold hundreds of megabytes


def recognise(root: Path) -> tuple[str, str] | None:
    """The `dataset.name` of an `annotation.json`, and its first film; None if not known."""
    with (root / "annotation.json").open(encoding="utf-8", errors="replace") as stream:
        first = _FIRST_FILM.search(stream.read(_GLANCE))
    film = first[1] if first else ""
    return next(((name, film) for name, form in _FILMS.items() if re.match(form, film)), None)


def foreign(studies: Sequence[Study], name: str) -> int:
    """The number of studies not from the data set `name`, by its study list or its films' names."""
    if name == "iu_xray":
        return sum(study.study_id not in iu_xray.r2gen_studies() for study in studies)
    form = _FILMS.get(name, "")
    return sum(not re.match(form, path) for study in studies for path in study.image_paths[:1])


def read(params: DatasetParams) -> Dataset:
    """Read `annotation.json` under `params.root`.

    Raises:
        UserError: the file is missing or not JSON; a split is missing; a record lacks a key, has an
            empty report, a repeated id, too few images or a path that leaves the folder. All
            faulty records are listed at once.
    """
    path = params.root / "annotation.json"
    annotation = read_json(path)
    if not isinstance(annotation, dict):
        raise UserError(f"{path}: found {form_of(annotation)}, expected the keys {SPLITS}.")
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
            fault = _fault(record, split, params, seen)
            if fault:
                faults.append(f"{split}[{row}]: {fault}")
                continue
            seen.add(record["id"])
            paths = tuple(record["image_path"])
            views = tuple(_view(record["id"], path) for path in paths)
            studies.append(Study(record["id"], split, record["report"], paths, views))
    refuse(faults, path, "Correct or remove these records.")
    return Dataset(studies, params.root / "images")


def _view(study_id: str, path: str) -> View:
    """The view of a film, named 0 or 1 by the packaging; known for R2Gen's IU X-Ray studies."""
    known = iu_xray.r2gen_studies().get(study_id)
    position = {"0": 0, "1": 1}.get(PurePosixPath(path).stem)
    return "unknown" if known is None or position is None else known.views[position]


def _fault(record: Any, split: str, params: DatasetParams, seen: set[str]) -> str | None:
    if not isinstance(record, dict):
        return f"found {form_of(record)}, expected a record"
    lacking = [key for key in ("id", "report", "image_path", "split") if key not in record]
    if lacking:
        return f"id {record.get('id')!r:.40} lacks {', '.join(lacking)}"
    study_id = record["id"]
    if isinstance(study_id, str) and (fault := name_fault(study_id)):
        return f"id {fault}"
    if not isinstance(study_id, str) or study_id in seen:
        return f"id {study_id!r:.200} is repeated or not text"
    if record["split"] != split:
        return f"id {study_id!r} says split {record['split']!r}"
    report, paths = record["report"], record["image_path"]
    if not isinstance(report, str) or is_empty_report(report):
        return f"id {study_id!r} has an empty report"
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        return f"id {study_id!r}: image_path is not a list of paths"
    if not all(map(is_text, (study_id, report, *paths))):
        return f"id {study_id!r} holds half a character (an unpaired surrogate)"
    fault = image_fault(paths, params)
    return f"id {study_id!r} {fault}" if fault else None


LAYOUT = Layout(read, "the R2Gen packaging: annotation.json and images/", marker="annotation.json")
