"""The page of generated reports that evaluate writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline import paths
from pipeline.console import number, show_interval
from pipeline.inputs import Inputs, open_images
from uar.core.config import Params
from uar.core.files import write_text
from uar.data.batches import Studies
from uar.data.study import BOX_COLUMNS, read_checked
from uar.data.views import view_names
from uar.evaluation.clinical.labeller import Labeller
from uar.evaluation.clinical.scores import Uncertain, confusion
from uar.evaluation.predictions import Prediction
from uar.evaluation.summary import BASELINES, MODEL
from uar.evaluation.systems import SystemScores
from uar.inference.word_attention import with_reports, word_attention
from uar.model.ensemble import Ensemble
from uar.model.uar import UAR
from uar.viewer.page.build import Findings, PageHead, StudyShown, render_page

SHOWN = 600  # at most so many studies on the page; of more, a random sample
DATASETS = {
    "demo": "Demo phantoms",
    "iu_xray": "IU X-Ray",
    "mimic_cxr": "MIMIC-CXR",
    "custom": "Custom data set",
}


@dataclass(frozen=True)
class Evaluated:
    """What a model wrote for the test split, and its scores.

    Attributes:
        predictions: for the S test studies.
        scores: of these predictions.
        per_study: scores of each study, from `uar.evaluation.systems.per_study_scores`.
        details: the content of details.json.
    """

    predictions: Sequence[Prediction]
    scores: SystemScores
    per_study: pd.DataFrame
    details: Mapping[str, Any]


def write_page(
    inputs: Inputs,
    *,
    model: UAR | Ensemble,
    studies: Studies,
    evaluated: Evaluated,
    labeller: Labeller,
) -> None:
    """Write the page of the test studies, or of a sample of them.

    Args:
        inputs: the stage's.
        model: in evaluation mode.
        studies: the S test studies.
        evaluated: what `model` wrote for them.
        labeller: marks findings.
    """
    params = inputs.params
    chosen = sample(len(studies), SHOWN, params.seed)
    reports = [evaluated.predictions[i].generated for i in chosen]
    writing = with_reports(studies, chosen, reports, inputs.vocabulary, params.report.max_length)
    attention = word_attention(model, writing, params.decode.batch_size, "attention")
    findings = findings_of(evaluated, labeller, params.evaluate.uncertain)
    values = evaluated.per_study.select_dtypes("number")
    values = values.astype(object).where(values.notna(), None).to_dict("records")
    images, boxes = open_images(), known_boxes()
    named = inputs.split_table("test")["views"].tolist()
    views = (
        np.ones(studies.rows.shape, bool) if studies.present is None else studies.present.numpy()
    )
    shown = [
        StudyShown(
            prediction=evaluated.predictions[i],
            films=images[studies.rows[i]],
            views=view_names(named[i], studies.rows.shape[1]),
            present=views[i],
            attention=of_words,
            scores=values[i],
            findings=findings[i],
            boxes=boxes.get(evaluated.predictions[i].study_id, []),
        )
        for i, of_words in zip(chosen, attention, strict=True)
    ]
    head = PageHead(
        title=f"{DATASETS.get(params.dataset.name, params.dataset.name)}, test split",
        rows=headline_rows(evaluated.details),
        notes=notes(params, len(chosen), len(studies)),
    )
    write_text(paths.PAGE, render_page(head, shown))


def sample(studies: int, wanted: int, seed: int) -> list[int]:
    """Which studies the page shows: all, or `wanted` at random, in order."""
    if studies <= wanted:
        return list(range(studies))
    return sorted(np.random.default_rng(seed).choice(studies, wanted, replace=False).tolist())


def known_boxes() -> dict[str, list[dict[str, Any]]]:
    """Places of findings that the data set knows, by study, as in `StudyShown.boxes`."""
    by_study = read_checked(paths.BOXES, BOX_COLUMNS).groupby("study_id")
    return {study: rows[BOX_COLUMNS[1:]].to_dict("records") for study, rows in by_study}


def findings_of(evaluated: Evaluated, labeller: Labeller, uncertain: Uncertain) -> list[Findings]:
    """What the labeller sees in both reports of each study."""
    return [
        Findings(*parts)
        for parts in zip(
            confusion(*evaluated.scores.labels["clinical"], uncertain),
            labeller.mentions(p.report for p in evaluated.predictions),
            labeller.mentions(p.generated for p in evaluated.predictions),
            strict=True,
        )
    ]


def headline_rows(details: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The split's scores under the `r2gen` protocol, with intervals for the model."""
    scores, intervals = details["scores"], details["intervals"]["r2gen"]
    rows = {"This model": {name: number(v) for name, v in scores[MODEL]["r2gen"].items()}}
    rows["95 % interval"] = {name: show_interval(bounds) for name, bounds in intervals.items()}
    for label, key in ((label, key) for label, key in BASELINES.items() if key in scores):
        rows[label[0].upper() + label[1:]] = {
            name: number(value) for name, value in scores[key]["r2gen"].items()
        }
    return rows


def notes(params: Params, shown: int, total: int) -> list[str]:
    """What a reader of the page needs to know."""
    size = params.image.size
    said = [
        "Research output, not for clinical use.",
        f"Films are {size} x {size} pixels, which is all that the model is given. References are "
        "shown whole; scores follow the r2gen protocol, which cuts them short and replaces rare "
        "words.",
        "Attention is the mean over heads and decoder layers. It shows where the decoder looked, "
        "not why it chose a word.",
    ]
    if shown < total:
        said.append(f"{shown} of {total} studies, drawn at random.")
    return said
