"""The labeller compared with people: IU X-Ray's own findings for each study.

`gold_labels_14.csv` derives from the Medical Subject Headings that two coders gave each report
(Demner-Fushman et al. 2016). Its classes are those of ChestX-ray14 and `normal`; the ones below
have a counterpart among CheXpert's observations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from uar.core.errors import UserError
from uar.core.files import existing
from uar.evaluation.clinical.labels import OBSERVATIONS, Label
from uar.evaluation.clinical.scores import Uncertain, confusion, f1, precision, recall

GOLD_CLASSES: Mapping[str, tuple[str, ...]] = {
    "Cardiomegaly": ("Cardiomegaly",),
    "Lung Lesion": ("Mass", "Nodule"),
    "Edema": ("Edema",),
    "Consolidation": ("Consolidation",),
    "Pneumonia": ("Pneumonia",),
    "Atelectasis": ("Atelectasis",),
    "Pneumothorax": ("Pneumothorax",),
    "Pleural Effusion": ("Effusion",),
    "Pleural Other": ("Pleural_Thickening",),
    "No Finding": ("normal",),
}
TEXTS = ("findings", "findings and impression")


@dataclass(frozen=True)
class Agreement:
    """The labeller's scores for one observation against people.

    Attributes:
        studies: how many have it according to people.
        precision, recall, f1: of the labeller's positives, shares in [0, 1].
    """

    studies: int
    precision: float
    recall: float
    f1: float


def read_gold(gold: Path, reports: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the human labels and the texts of the same studies, in the same order.

    Args:
        gold: `gold_labels_14.csv`: `filename` (CXR and the study's number) and a column per class.
        reports: `kaggle_reports.csv`: `uid` (the number), `findings` and `impression`.

    Raises:
        UserError: a file or a column is missing, or a study has labels but no report.
    """
    labels, texts = pd.read_csv(existing(gold)), pd.read_csv(existing(reports))
    classes = [name for names in GOLD_CLASSES.values() for name in names]
    for path, table, columns in (
        (gold, labels, ["filename", *classes]),
        (reports, texts, ["uid", "findings", "impression"]),
    ):
        missing = sorted(set(columns) - set(table.columns))
        if missing:
            raise UserError(f"{path} has no column {missing}; it has {list(table.columns)}")
    labels = labels.set_index("filename")
    texts = texts.set_index("CXR" + texts["uid"].astype(str))
    absent = labels.index.difference(texts.index)
    if len(absent):
        raise UserError(
            f"{reports} has no report for {len(absent)} studies of {gold}; the first is {absent[0]}"
        )
    return labels, texts.loc[labels.index]


def join_sections(reports: pd.DataFrame, text: str) -> list[str]:
    """Join each report's sections into `text`, one of `TEXTS`. Absent sections are empty."""
    findings, impression = reports["findings"].fillna(""), reports["impression"].fillna("")
    return (findings if text == "findings" else findings + "\n" + impression).tolist()


def agreement(gold: pd.DataFrame, labels: np.ndarray, uncertain: Uncertain) -> dict[str, Agreement]:
    """Scores of `labels` `(N, 14)` against the human labels of the same N studies."""
    result = {}
    for observation, classes in GOLD_CLASSES.items():
        said = labels[:, [OBSERVATIONS.index(observation)]]
        human = gold[list(classes)].to_numpy().any(axis=1, keepdims=True)
        true = np.where(human, Label.POSITIVE, Label.NEGATIVE)
        counts = confusion(true, said, uncertain).sum(axis=(0, 1))
        result[observation] = Agreement(
            int(human.sum()), float(precision(counts)), float(recall(counts)), float(f1(counts))
        )
    return result
