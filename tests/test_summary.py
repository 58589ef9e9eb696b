"""What an evaluation says at its end: headline, signatures, who collapsed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import uar
from tests.conftest import labeller
from uar.core.errors import UserError
from uar.evaluation.predictions import Prediction, share_unchanged
from uar.evaluation.signatures import Setup
from uar.evaluation.summary import HEADLINE, headline, is_collapsed, look_up, summarise
from uar.evaluation.systems import (
    Measures,
    per_study,
    per_study_scores,
    recorded_metrics,
    score_systems,
)

SETUP = Setup(references="cleaned,cut:60,unk:yes", text="beam:3,lp:1", radgraph="radgraph-xl")
TRUTHS = [
    "the heart is enlarged .",
    "the lungs are clear .",
    "there is an effusion .",
    "no edema .",
]


def said(*generated: str) -> list[Prediction]:
    return [
        Prediction(str(i), truth, truth, text, -1.0)
        for i, (truth, text) in enumerate(zip(TRUTHS, generated, strict=True))
    ]


class Graphs:
    """A graph scorer that finds half of everything."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
        return {"partial": np.full(len(pairs), 0.5)}


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    systems = {
        "model": [
            replace(p, cross_entropy=8.0 + 2 * study, image_gain=study)
            for study, p in enumerate(said(TRUTHS[0], TRUTHS[1], TRUTHS[1], TRUTHS[1]))
        ],
        "constant_report": said(*[TRUTHS[1]] * 4),
        "shuffled_images": said(TRUTHS[1], TRUTHS[1], TRUTHS[1], TRUTHS[0]),
    }
    measures = Measures({"clinical": labeller()}, {"radgraph": Graphs()}, ["r2gen"], meteor=False)
    scores = score_systems(systems, measures)
    return summarise(systems, scores, measures=measures, setup=SETUP, resamples=50, seed=0)


def test_the_headline_is_what_the_evaluation_has(summary: dict[str, Any]) -> None:
    values = headline(summary)
    absent = {"METEOR", "near_F1"}  # not asked for; no such system
    assert list(values) == [name for name in HEADLINE if name not in absent]
    assert values["CIDEr"] == round(summary["scores"]["model"]["r2gen"]["CIDEr"], 4)
    assert values["F1"] == pytest.approx(0.6667)  # the heart of two findings
    assert values["distinct"] == 2
    assert (values["nats"], values["gain"]) == (11, 1.5)
    assert set(summary["intervals"]["nats"]) == {"cross_entropy", "image_gain"}
    assert "nats" not in summary["scores"]["constant_report"]  # no model is asked about it
    assert values["unchanged"] == 0.5
    assert summary["scores"]["constant_report"]["clinical"]["micro"]["F1"] == 0
    assert set(summary["intervals"]["clinical"]) >= {"micro F1", "macro_5 recall", "no_finding F1"}


def test_every_score_has_a_signature(summary: dict[str, Any]) -> None:
    scores, signatures = summary["scores"]["model"], summary["signatures"]
    assert {group: list(of) for group, of in scores.items()} == {
        group: list(of) for group, of in signatures.items()
    }
    bleu = signatures["r2gen"]["BLEU-4"].split("|")
    assert bleu[:6] == [
        "BLEU-4", "r2gen", "words:blank", "refs:cleaned,cut:60,unk:yes", "text:beam:3,lp:1", "n:4",
    ]  # fmt: skip
    assert bleu[-1].startswith("v:pycocoevalcap")
    assert signatures["clinical"]["micro"].startswith("findings,micro|rules|uncertain:negative|")
    assert signatures["clinical"]["micro"].endswith(f"|v:uar{uar.__version__}")
    assert "|model:radgraph-xl|" in signatures["radgraph"]["partial"]
    every = [line for of in signatures.values() for line in of.values()]
    assert len(set(every)) == len(every)


def test_the_datas_hash_is_of_the_references_in_order() -> None:
    measures = Measures({}, {}, ["r2gen"], meteor=False)

    def data(rows: list[Prediction]) -> str:
        scores = score_systems({"model": rows}, measures)
        made = summarise(
            {"model": rows}, scores, measures=measures, setup=SETUP, resamples=5, seed=0
        )
        return next(
            part for part in made["signatures"]["r2gen"]["CIDEr"].split("|") if "data:" in part
        )

    rows = said(*TRUTHS)
    assert data(rows) == data([replace(row, generated="no edema .") for row in rows])
    assert data(rows) != data(rows[::-1])
    assert data(rows) != data([replace(rows[0], reference="the heart ."), *rows[1:]])


def test_a_record_of_each_study_has_a_hash_of_studies_and_references_in_order() -> None:
    measures = Measures({}, {}, ["r2gen"], meteor=False)

    def hashed(rows: list[Prediction]) -> str:
        return per_study(rows, score_systems({"model": rows}, measures)["model"])["references"]

    rows = said(*TRUTHS)
    assert hashed(rows) == hashed([replace(row, generated="no edema .") for row in rows])
    assert hashed(rows) != hashed(rows[::-1])
    assert hashed(rows) != hashed([replace(rows[0], reference="the heart ."), *rows[1:]])
    assert hashed(rows) != hashed([replace(rows[0], study_id="another"), *rows[1:]])


def test_what_is_recorded_of_each_study_gives_the_scores_back() -> None:
    rows = said("no edema .", "small effusion .", *TRUTHS[2:])
    rows = [replace(row, cross_entropy=8.0 + study) for study, row in enumerate(rows)]
    measures = Measures({"clinical": labeller()}, {}, ["r2gen"], meteor=False)
    scored = score_systems({"model": rows}, measures)["model"]
    recorded = json.loads(json.dumps(per_study(rows, scored)))
    counts = recorded["statistics"]["r2gen"]["BLEU-4"]
    assert {type(count) for of_study in counts for count in of_study} == {int}  # short in JSON
    metrics = recorded_metrics(recorded)
    assert metrics["nats", "cross_entropy"].value() == scored.nats["cross_entropy"].value()
    for group, name in (("r2gen", "BLEU-4"), ("r2gen", "CIDEr"), ("clinical", "micro F1")):
        expected = scored.tested()[group][name].value()
        assert metrics[group, name].value() == pytest.approx(expected, abs=1e-4), name

    table = per_study_scores(rows, scored)
    assert table["words"].tolist()[:2] == [3, 3]
    assert table["clinical_generated"].tolist()[1] == "Pleural Effusion"
    said_of = {name: table[f"clinical_{name}"].tolist() for name in ("reference", "generated")}
    assert said_of["reference"][2:] == said_of["generated"][2:]


@pytest.mark.parametrize(
    ("distinct", "same", "collapsed"),
    [(4, 0.0, True), (5, 0.0, False), (5, 0.49, False), (99, 0.5, True), (4, None, True)],
)
def test_the_rule_of_collapse(distinct: int, same: float | None, collapsed: bool) -> None:
    made: dict[str, Any] = {"studies": 100, "text": {"model": {"distinct_reports": distinct}}}
    if same is not None:
        made["unchanged_with_findings"] = same
    made["unchanged_with_other_images"] = 0.9  # as of a right model where most have no finding
    assert is_collapsed(made) == collapsed


def test_an_evaluation_says_whether_it_collapsed(summary: dict[str, Any]) -> None:
    assert summary["unchanged_with_other_images"] == 0.5  # the second and the third study
    assert summary["unchanged_with_findings"] == 0.5  # the first and the third have a finding
    assert summary["collapsed"] is True


def test_a_right_model_is_not_collapsed_where_most_studies_have_no_finding() -> None:
    """One report for all that have none, which other such studies' images leave as it is."""
    normal = "the lungs are clear ."
    truths = [*[normal] * 8, "the heart is enlarged .", "there is an effusion ."]
    rows = [Prediction(str(i), text, text, text, -1.0) for i, text in enumerate(truths)]
    others = [replace(row, generated=truths[i - 1]) for i, row in enumerate(rows)]
    blind = [replace(row, generated=normal) for row in rows]
    measures = Measures({"clinical": labeller()}, {}, ["r2gen"], meteor=False)

    def summarised(own: list[Prediction], shuffled: list[Prediction]) -> dict[str, Any]:
        systems = {"model": own, "shuffled_images": shuffled}
        scores = score_systems(systems, measures)
        return summarise(systems, scores, measures=measures, setup=SETUP, resamples=5, seed=0)

    right = summarised(rows, others)
    assert (right["unchanged_with_other_images"], right["unchanged_with_findings"]) == (0.7, 0)
    assert right["collapsed"] is False
    unseen = summarised(blind, blind)
    assert (unseen["unchanged_with_findings"], unseen["collapsed"]) == (1, True)
    healthy = summarised(rows[:8], rows[:8])
    assert "unchanged_with_findings" not in healthy  # nobody has a finding


def test_the_share_that_stays_the_same() -> None:
    rows = said(*TRUTHS)
    assert share_unchanged(rows, rows) == 1
    assert share_unchanged(rows, said(TRUTHS[0], "", "", TRUTHS[3])) == 0.5
    with pytest.raises(UserError, match="4 studies against 3"):
        share_unchanged(rows, rows[:3])


def test_looking_up_what_is_not_there() -> None:
    assert look_up({"a": {"b": 1.0}}, "a b") == 1.0
    for path in ("a c", "a b c", "d"):
        assert look_up({"a": {"b": 1.0}}, path) is None
