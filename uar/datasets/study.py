"""The canonical study table: what later stages know of a data set."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from uar.config import DatasetParams
from uar.errors import UserError

STUDY_COLUMNS = ["study_id", "split", "report", "image_paths", "views"]
BOX_COLUMNS = ["study_id", "view", "finding", "x0", "y0", "x1", "y1"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
View = Literal["frontal", "lateral", "unknown"]


@dataclass(frozen=True)
class Study:
    """One examination: its films and its report."""

    study_id: str
    split: Split
    report: str  # raw text
    image_paths: tuple[str, ...]  # relative to Dataset.images
    views: tuple[View, ...]


@dataclass(frozen=True)
class LeftOut:
    """A study that is left out by intent."""

    study_id: str
    source: str  # file, row or detail
    reason: str  # short category: "no report section", "no image", "empty report", ...


@dataclass(frozen=True)
class Dataset:
    """A raw data set as its reader found it.

    `boxes` holds known finding boxes (`BOX_COLUMNS`; `view` indexes the study's images, corners are
    shares of the film's width and height); it is empty where the data set has none.
    """

    studies: list[Study]
    images: Path  # folder of the image files
    boxes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=BOX_COLUMNS))
    left_out: list[LeftOut] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """The study table, one row a study, `STUDY_COLUMNS`."""
        return pd.DataFrame([vars(study) for study in self.studies], columns=STUDY_COLUMNS)

    def without(self, indices: Collection[int]) -> Dataset:
        """The data set less the studies at `indices`.

        Raises:
            UserError: a split is left with no study.
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


def refuse(faults: list[str], source: Path, advice: str) -> None:
    """Raise one UserError that lists every fault, if there is any."""
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:50])
        more = f"\n  ... and {len(faults) - 50} more" if len(faults) > 50 else ""
        raise UserError(f"{source}: {len(faults)} faults\n{shown}{more}\n{advice}")
