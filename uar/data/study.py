"""The canonical study table: what later stages know about a data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, Literal

from uar.core.config import DatasetParams
from uar.core.errors import UserError
from uar.core.files import read_table

if TYPE_CHECKING:
    import pandas as pd

STUDY_COLUMNS = ["study_id", "split", "report", "image_paths", "views"]
LEFT_OUT_COLUMNS = ["study_id", "source", "reason"]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 as shares of a film's width and height
REPORT_COLUMNS = ["study_id", "split", "report", "views", "cleaned", "findings"]
BOX_COLUMNS = ["study_id", "view", "finding", "x0", "y0", "x1", "y1"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
View = Literal["frontal", "lateral", "unknown"]
VIEWS: tuple[View, ...] = ("frontal", "lateral", "unknown")
_RANK: dict[View, int] = {"frontal": 0, "unknown": 1, "lateral": 2}
SHORT_OF_IMAGES = (
    "Correct these; for studies with too few images, dataset.missing_view may be repeat or mask."
)
_LONGEST_NAME = 200  # characters of a study's name
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")


@dataclass(frozen=True)
class Study:
    """One examination: its films and its report."""

    study_id: str  # unique in its data set
    split: Split
    report: str  # raw text
    image_paths: tuple[str, ...]  # relative to Dataset.images; at least one
    views: tuple[View, ...]  # of these images, in their order


@dataclass(frozen=True)
class LeftOut:
    """A study that is left out on purpose."""

    study_id: str  # or the file's name, if it belongs to none
    source: str  # file, row or detail
    reason: str  # short category: "no report section", "no image", "empty report", ...


def _no_boxes() -> pd.DataFrame:
    import pandas as pd  # not needed to read films only

    return pd.DataFrame(columns=BOX_COLUMNS)


@dataclass(frozen=True)
class Dataset:
    """A raw data set as its reader found it.

    Args:
        studies: in the order of the study table.
        images: folder of the image files.
        boxes: known finding boxes (`BOX_COLUMNS`; `view` indexes the study's images, corners are
            shares of the film's width and height); empty where the data set has none.
        left_out: studies that are left out, and why.
        unknown_heads: headers that ended the section asked for although they are on no list, with
            the number of reports; what followed them is not in these reports.
    """

    studies: list[Study]
    images: Path  # folder of the image files
    boxes: pd.DataFrame = field(default_factory=_no_boxes)
    left_out: list[LeftOut] = field(default_factory=list)
    unknown_heads: dict[str, int] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """The study table, one row per study, `STUDY_COLUMNS`."""
        import pandas as pd

        return pd.DataFrame([vars(study) for study in self.studies], columns=STUDY_COLUMNS)

    def with_views(self, views: Iterable[View]) -> Dataset:
        """The data set with these views, one per film, used where a film's own is unknown."""
        film = iter(views)
        studies = [
            replace(
                study,
                views=tuple(
                    told if view == "unknown" else view
                    for view, told in zip(study.views, islice(film, len(study.views)), strict=True)
                ),
            )
            for study in self.studies
        ]
        return replace(self, studies=studies)

    def without(self, indices: Collection[int]) -> Dataset:
        """The data set without the studies at `indices`.

        Raises:
            UserError: a split is left without studies.
        """
        studies = [study for i, study in enumerate(self.studies) if i not in indices]
        empty = [split for split in SPLITS if all(study.split != split for study in studies)]
        if empty:
            raise UserError(
                f"{self.images}: no study with readable images is left in {', '.join(empty)}."
            )
        kept = self.boxes["study_id"].isin([study.study_id for study in studies])
        return replace(self, studies=studies, boxes=self.boxes[kept])


Reader = Callable[[DatasetParams], Dataset]


@dataclass(frozen=True)
class Layout:
    """An arrangement of a data set's files, and its reader."""

    read: Reader
    contents: str  # what `dataset.root` holds, in words
    marker: str | None  # glob under the root that tells the layout; None if `read` makes the files
    splits: tuple[str, ...] = ("r2gen",)  # choices of dataset.split
    sections: tuple[str, ...] = ("findings",)  # choices of dataset.section


def refuse(faults: list[str], source: Path, advice: str) -> None:
    """Raise one UserError that lists every fault, if there is any."""
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:50])
        more = f"\n  ... and {len(faults) - 50} more" if len(faults) > 50 else ""
        raise UserError(f"{source}: {len(faults)} faults\n{shown}{more}\n{advice}")


def name_fault(study_id: str) -> str | None:
    """What makes a study's name unfit to be shown, searched for or part of a line, if anything.

    Half characters (unpaired surrogates) are left to `is_text`.
    """
    printable = all(c.isprintable() or "\ud800" <= c <= "\udfff" for c in study_id)
    if study_id.strip() and len(study_id) <= _LONGEST_NAME and printable:
        return None
    said = f"{study_id[:40]!r} has {len(study_id)} characters"
    return f"{said}; expected 1 to {_LONGEST_NAME} printable ones"


def image_fault(paths: Sequence[str], params: DatasetParams) -> str | None:
    """What is wrong with a study's image paths, if anything."""
    if len(paths) < params.images_per_study and (params.missing_view == "error" or not paths):
        return f"has {len(paths)} images, but dataset.images_per_study is {params.images_per_study}"
    for path in paths:
        if leaves_folder(path):
            return f"has the image path {path!r}, which leaves the images folder"
    return None


def frontal_first(views: Sequence[View]) -> list[int]:
    """Positions of views in the order frontal, unknown, lateral; equal ones keep their order."""
    return sorted(range(len(views)), key=lambda i: _RANK[views[i]])


def leaves_folder(path: str) -> bool:
    """Whether a path is absolute, climbs by `..` or is invalid, on any system."""
    parts = PureWindowsPath(path)  # knows both separators
    return bool(parts.anchor) or ".." in parts.parts or "\0" in path or not parts.name


def links_out(path: Path, root: Path) -> bool:
    """Whether `path`, with its symbolic links followed, is outside `root`."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def image_files(folder: Path, root: Path) -> dict[str, str]:
    """Every image under `folder`: file name -> path relative to `folder`.

    Linked folders are not entered.

    Raises:
        UserError: `folder` is missing or a link out of `root`, or two images share a name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is missing. Unpack the images there.")
    if links_out(folder, root):
        raise UserError(
            f"{folder} is a link that leads out of {root}. Move the images into the folder."
        )
    found: dict[str, str] = {}
    faults: list[str] = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if not name.lower().endswith(IMAGE_SUFFIXES):
                continue
            path = os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")
            if name in found:
                faults.append(f"{name} is both at {found[name]} and at {path}")
            found[name] = path
    refuse(faults, folder, "Keep one file of each name.")
    return found


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8; JSON may hold halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _texts(value: Any) -> bool:
    return not isinstance(value, str) and all(isinstance(part, str) for part in value)


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {  # of a cell, by column
    "study_id": (lambda v: isinstance(v, str) and v != "" and is_text(v), "a name"),
    "split": (lambda v: v in SPLITS, f"one of {', '.join(SPLITS)}"),
    "report": (lambda v: isinstance(v, str) and is_text(v), "text"),
    "cleaned": (lambda v: isinstance(v, str) and is_text(v), "text"),
    "image_paths": (lambda v: _texts(v) and len(v) > 0, "paths"),
    "views": (lambda v: _texts(v) and len(v) > 0 and {*v} <= _RANK.keys(), "views"),
    "findings": (_texts, "names of findings"),
    "view": (lambda v: v in (0, 1), "0 or 1"),
    "finding": (lambda v: isinstance(v, str), "text"),
    **dict.fromkeys(("x0", "y0", "x1", "y1"), (lambda v: 0 <= v <= 1, "a share of the film")),
}


def read_checked(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a table of studies, reports or boxes; its cells must be what the project writes.

    Args:
        path: a Parquet file.
        columns: those that it must have.

    Raises:
        UserError: the file is absent or damaged, lacks a column, repeats a study in a table of one
            row per study, or has a cell with anything else; the first such cell is named.
    """
    table = read_table(path)
    if lacking := [column for column in columns if column not in table]:
        raise UserError(f"{path} lacks the column {', '.join(lacking)}. {_REMEDY}")
    for column in table.columns.intersection(list(_CHECKS)):
        check, expected = _CHECKS[column]
        for row, value in enumerate(table[column]):
            try:
                good = check(value)
            except (TypeError, ValueError):
                good = False
            if not good:
                found = repr(value)[:60]
                raise UserError(
                    f"{path}: row {row}: {column} is {found}, expected {expected}. {_REMEDY}"
                )
    if {"study_id", "split"} <= {*table} and (
        twice := table["study_id"][table["study_id"].duplicated()]
    ).size:
        raise UserError(f"{path} has the study {twice.iloc[0]} twice. {_REMEDY}")
    return table


_REMEDY = "`dvc repro` makes the table again; `dvc pull` fetches it."
