"""All scores of several systems on the same studies, as metrics.json and scores.csv hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from uar.bootstrap import interval
from uar.clinical.labeller import INSTALLED, Labeller
from uar.clinical.labels import OBSERVATIONS, Label
from uar.clinical.scores import Uncertain, clinical_metrics
from uar.metrics import Metric
from uar.predictions import Prediction
from uar.protocols import Scores, protocol_metrics

PER_STUDY = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


@dataclass(frozen=True)
class SystemScores:
    """One system's scores, each of which knows its studies.

    Attributes:
        text: `METRICS` by protocol; None where Java failed.
        clinical: `clinical_metrics`; None without the `clinical` extra.
        findings: labels `(N, 14)` of references and of generated reports; None likewise.
    """

    text: Scores
    clinical: dict[str, dict[str, Metric]] | None
    findings: tuple[np.ndarray, np.ndarray] | None

    def headline(self) -> dict[str, dict[str, Metric | None]]:
        """What intervals are given for and two systems are compared by."""
        micro = None if self.clinical is None else self.clinical["micro"]["F1"]
        return {**self.text, "clinical": {"micro F1": micro}}

    def values(self) -> dict[str, Any]:
        """`{protocol: {metric: score}, "clinical": {average: {score: value}} or None}`."""
        return {**_values(self.text), "clinical": self.clinical and _values(self.clinical)}

    def intervals(self, *, resamples: int, seed: int) -> dict[str, dict[str, dict | None]]:
        """95 % bootstrap intervals of `headline`."""
        return {
            group: {
                name: None if metric is None else interval(metric, resamples=resamples, seed=seed)
                for name, metric in metrics.items()
            }
            for group, metrics in self.headline().items()
        }


def score_systems(
    systems: Mapping[str, Sequence[Prediction]], uncertain: Uncertain
) -> dict[str, SystemScores]:
    """Score each system's predictions of the same studies.

    Clinical labels are those of the whole raw report and of the generated one, so they do not
    depend on the protocol.

    Args:
        systems: name to predictions.
        uncertain: see `clinical_metrics`.

    Raises:
        UserError: no predictions, or every reference of a system empty.
    """
    text = protocol_metrics(systems)
    findings = _findings(systems) if INSTALLED else dict.fromkeys(systems)
    return {
        name: SystemScores(
            text=text[name],
            clinical=labels and clinical_metrics(*labels, uncertain),
            findings=labels,
        )
        for name, labels in findings.items()
    }


def per_study_scores(predictions: Sequence[Prediction], scores: SystemScores) -> pd.DataFrame:
    """One row a study: its scores under the `r2gen` protocol, lengths and positive findings.

    BLEU-4 and METEOR are those of the report as a corpus of its own, with pycocoevalcap's guards
    against zeros; CIDEr's document frequencies are those of all references. Findings are joined by
    semicolons, an uncertain one followed by a question mark.
    """
    columns: dict[str, Any] = {
        "study_id": [p.study_id for p in predictions],
        "words": [len(p.generated.split()) for p in predictions],
        "reference_words": [len(p.reference.split()) for p in predictions],
        "log_probability": [p.log_probability for p in predictions],
    }
    for name in PER_STUDY:
        metric = scores.text["r2gen"][name]
        columns[name] = None if metric is None else metric.of_each()
    for side, name in enumerate(("reference_findings", "generated_findings")):
        columns[name] = scores.findings and [_named(row) for row in scores.findings[side]]
    return pd.DataFrame(columns)


def _findings(
    systems: Mapping[str, Sequence[Prediction]],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels of references and generated reports; each distinct text is labelled once."""
    distinct = {
        text: None for rows in systems.values() for p in rows for text in (p.report, p.generated)
    }
    labels = dict(zip(distinct, Labeller().label(distinct), strict=True))
    return {
        name: (
            np.stack([labels[p.report] for p in rows]),
            np.stack([labels[p.generated] for p in rows]),
        )
        for name, rows in systems.items()
    }


def _named(row: np.ndarray) -> str:
    marks = {Label.POSITIVE: "", Label.UNCERTAIN: "?"}
    return ";".join(
        observation + marks[label]
        for observation, label in zip(OBSERVATIONS, map(Label, row), strict=True)
        if label in marks
    )


def _values(groups: Mapping[str, Mapping[str, Metric | None]]) -> dict[str, dict[str, Any]]:
    return {
        group: {name: metric and metric.value() for name, metric in metrics.items()}
        for group, metrics in groups.items()
    }
