"""All scores of several systems on the same studies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from uar.evaluation.bootstrap import bootstrap_interval
from uar.evaluation.clinical.labels import OBSERVATIONS, Label
from uar.evaluation.clinical.scores import ReportLabeller, Score, Uncertain, clinical_metrics, f1
from uar.evaluation.metrics import Metric, mean_of, mean_of_sums, meteor_of_sums
from uar.evaluation.pairwise import bleu_of_sums
from uar.evaluation.predictions import Prediction
from uar.evaluation.protocols import PROTOCOLS, Scores, protocol_metrics

if TYPE_CHECKING:
    import pandas as pd

TESTED_CLINICAL = [  # of `clinical_metrics`
    (average, score)
    for average in ("micro", "macro", "micro_5", "macro_5")
    for score in ("precision", "recall", "F1")
] + [("no_finding", "F1")]
UNITS = {"cross_entropy": "nats, lower is better", "image_gain": "nats"}  # of `nats_metrics`
PER_STUDY_NATS = tuple(UNITS)  # fields of `Prediction`
NATS = "nats"  # the group of `nats_metrics`
RECORDED: dict[
    tuple[str, str], Score
] = {  # what a run's record keeps of each study besides nats, and how scores follow from it
    ("r2gen", "BLEU-4"): partial(bleu_of_sums, order=4),
    ("r2gen", "METEOR"): meteor_of_sums,
    ("r2gen", "ROUGE-L"): mean_of_sums,
    ("r2gen", "CIDEr"): mean_of_sums,
    ("clinical", "micro F1"): f1,
}
PER_STUDY = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


class GraphScorer(Protocol):
    """Compares the facts that two reports state."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
        """Scores `(N,)` of N pairs of reference and generated report, by name."""


@dataclass(frozen=True)
class Measures:
    """What is computed for every system.

    Attributes:
        labellers: those to measure clinical efficacy by, by name; may be empty.
        graphs: scorers of reports' graphs, by name; may be empty.
        protocols: which of `PROTOCOLS` to score texts by.
        meteor: whether METEOR is among the scores of texts.
        uncertain: see `clinical_metrics`.
    """

    labellers: Mapping[str, ReportLabeller]
    graphs: Mapping[str, GraphScorer]
    protocols: Sequence[str] = tuple(PROTOCOLS)
    meteor: bool = True
    uncertain: Uncertain = "negative"


@dataclass(frozen=True)
class SystemScores:
    """One system's scores, each of which keeps its studies' numbers.

    Attributes:
        text: `METRICS` by protocol.
        clinical: `clinical_metrics` by labeller.
        labels: `(N, 14)` of references and of generated reports, by labeller.
        graphs: means over studies of what each graph scorer returns, by scorer.
        nats: `cross_entropy` and `image_gain` of `Prediction`, each if every study has it.
    """

    text: Scores
    clinical: dict[str, dict[str, dict[str, Metric]]]
    labels: dict[str, tuple[np.ndarray, np.ndarray]]
    graphs: dict[str, dict[str, Metric]]
    nats: dict[str, Metric]

    def tested(self) -> dict[str, dict[str, Metric]]:
        """The metrics that get intervals and by which two systems are compared."""
        clinical = {
            name: {
                f"{average} {score}": groups[average][score] for average, score in TESTED_CLINICAL
            }
            for name, groups in self.clinical.items()
        }
        return {**self._nats, **self.text, **clinical, **self.graphs}

    def values(self) -> dict[str, Any]:
        """`{nats, protocol, graph scorer: {metric: score}, labeller: {average: {name: score}}}`."""
        clinical = {name: _values(groups) for name, groups in self.clinical.items()}
        return {**_values(self._nats | self.text), **clinical, **_values(self.graphs)}

    @property
    def _nats(self) -> Scores:
        return {NATS: self.nats} if self.nats else {}

    def intervals(self, *, resamples: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
        """95 % bootstrap intervals of `tested`."""
        return {
            group: {
                name: bootstrap_interval(metric, resamples=resamples, seed=seed)
                for name, metric in metrics.items()
            }
            for group, metrics in self.tested().items()
        }


def score_systems(
    systems: Mapping[str, Sequence[Prediction]], measures: Measures
) -> dict[str, SystemScores]:
    """Score each system's predictions of the same studies.

    Clinical labels and graphs are those of the whole raw report and of the generated one, so they
    do not depend on the protocol.

    Args:
        systems: name to predictions.
        measures: what to compute.

    Raises:
        UserError: no predictions, every reference of a system empty, or Java fails.
    """
    text = protocol_metrics(systems, measures.protocols, measures.meteor)
    labels = {name: _labels(systems, labeller) for name, labeller in measures.labellers.items()}
    graphs = {name: _graph_metrics(systems, scorer) for name, scorer in measures.graphs.items()}
    scores = {}
    for system in systems:
        of_system = {name: by_system[system] for name, by_system in labels.items()}
        scores[system] = SystemScores(
            text=text[system],
            clinical={
                name: clinical_metrics(*of_both, uncertain=measures.uncertain)
                for name, of_both in of_system.items()
            },
            labels=of_system,
            graphs={name: of[system] for name, of in graphs.items()},
            nats=nats_metrics(systems[system]),
        )
    return scores


def nats_metrics(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    """Means, in nats per report, of what every study has; less cross-entropy is better."""
    columns = {name: [getattr(p, name) for p in predictions] for name in PER_STUDY_NATS}
    return {name: mean_of(values) for name, values in columns.items() if None not in values}


def per_study(predictions: Sequence[Prediction], scores: SystemScores) -> dict[str, Any]:
    """Each study's numbers, by which runs are compared if their predictions are not available.

    Args:
        predictions: a run's.
        scores: of these predictions.

    Returns:
        `nats_metrics`, a list for each, to four decimals, in the predictions' order; `statistics`,
        likewise, for each computed group and metric of `RECORDED`: the numbers whose sums scores
        depend on (`Metric.statistics`); and `references`, a hash of that order, from study ids and
        references. The result holds neither.
    """
    nats = {name: metric.of_each() for name, metric in nats_metrics(predictions).items()}
    tested = scores.tested()
    statistics: dict[str, dict[str, Any]] = {}
    for group, name in RECORDED:
        if name in tested.get(group, {}):
            statistics.setdefault(group, {})[name] = _rounded(tested[group][name].statistics)
    order = "\n".join(f"{p.study_id}\t{p.reference}" for p in predictions)
    return {
        **{name: _rounded(values) for name, values in nats.items()},
        "statistics": statistics,
        "references": hashlib.sha256(order.encode()).hexdigest()[:16],
    }


def recorded_metrics(recorded: Mapping[str, Any]) -> dict[tuple[str, str], Metric]:
    """The metrics of what `per_study` gave, by group and metric; only nats in early records."""
    nats = {(NATS, name): mean_of(recorded[name]) for name in PER_STUDY_NATS if name in recorded}
    statistics = {
        (group, name): Metric(np.array(values, float), RECORDED[group, name])
        for group, metrics in recorded.get("statistics", {}).items()
        for name, values in metrics.items()
    }
    return nats | statistics


def _rounded(values: np.ndarray) -> list[Any]:
    """Round to four decimals, or to integers if all are whole: half as long in JSON."""
    whole = bool((values == values.round()).all())
    return (values.astype(int) if whole else values.round(4)).tolist()


def per_study_scores(predictions: Sequence[Prediction], scores: SystemScores) -> pd.DataFrame:
    """One row per study: lengths, nats, scores under the `r2gen` protocol and positive findings.

    BLEU-4 and METEOR are those of the report as a corpus of its own, with pycocoevalcap's guards
    against zeros; CIDEr's document frequencies are those of all references. Findings are joined by
    semicolons, an uncertain one followed by a question mark; each labeller has its own columns, and
    so has each score of a graph scorer.
    """
    import pandas as pd  # takes half a second; most commands do without

    columns: dict[str, Any] = {
        "study_id": [p.study_id for p in predictions],
        "words": [len(p.generated.split()) for p in predictions],
        "reference_words": [len(p.reference.split()) for p in predictions],
        "log_probability": [p.log_probability for p in predictions],
    }
    columns |= {name: metric.of_each() for name, metric in scores.nats.items()}
    for name in PER_STUDY:
        if name in scores.text["r2gen"]:
            columns[name] = scores.text["r2gen"][name].of_each()
    for name, (reference, generated) in scores.labels.items():
        columns[f"{name}_reference"] = [_named(row) for row in reference]
        columns[f"{name}_generated"] = [_named(row) for row in generated]
    for scorer, metrics in scores.graphs.items():
        columns |= {f"{scorer}_{name}": metric.of_each() for name, metric in metrics.items()}
    return pd.DataFrame(columns)


def _labels(
    systems: Mapping[str, Sequence[Prediction]], labeller: ReportLabeller
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels of references and generated reports; each distinct text is labelled once."""
    distinct = {
        text: None for rows in systems.values() for p in rows for text in (p.report, p.generated)
    }
    labels = dict(zip(distinct, labeller.label(distinct), strict=True))
    return {
        name: (
            np.stack([labels[p.report] for p in rows]),
            np.stack([labels[p.generated] for p in rows]),
        )
        for name, rows in systems.items()
    }


def _graph_metrics(
    systems: Mapping[str, Sequence[Prediction]], scorer: GraphScorer
) -> dict[str, dict[str, Metric]]:
    """Metrics by system and name; each distinct pair is scored once."""
    pairs = list(dict.fromkeys((p.report, p.generated) for rows in systems.values() for p in rows))
    scores = {name: dict(zip(pairs, of, strict=True)) for name, of in scorer.score(pairs).items()}
    return {
        system: {
            name: mean_of([of[p.report, p.generated] for p in rows]) for name, of in scores.items()
        }
        for system, rows in systems.items()
    }


def _named(row: np.ndarray) -> str:
    marks = {Label.POSITIVE: "", Label.UNCERTAIN: "?"}
    return ";".join(
        observation + marks[label]
        for observation, label in zip(OBSERVATIONS, map(Label, row), strict=True)
        if label in marks
    )


def _values(groups: Mapping[str, Mapping[str, Metric]]) -> dict[str, dict[str, float]]:
    return {
        group: {name: metric.value() for name, metric in metrics.items()}
        for group, metrics in groups.items()
    }
