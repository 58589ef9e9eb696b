"""The labeller's rules, its agreement with people, and the scores made of its labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from tests.labelled_sentences import sentences
from uar.core.errors import UserError
from uar.evaluation.clinical.agreement import GOLD_CLASSES, agreement, join_sections, read_gold
from uar.evaluation.clinical.labeller import Labeller
from uar.evaluation.clinical.labels import FINDINGS, FIVE, OBSERVATIONS, Label
from uar.evaluation.clinical.scores import clinical_metrics, confusion, findings_scores


@pytest.fixture(scope="module")
def labeller() -> Labeller:
    return Labeller()


def said(labeller: Labeller, report: str) -> dict[str, str]:
    """What a report says, as a dict of the observations that it mentions."""
    [row] = labeller.label([report])
    return {
        name: Label(label).name.lower()
        for name, label in zip(OBSERVATIONS, row, strict=True)
        if label != Label.BLANK and name != "No Finding"
    }


RULES = {
    "Consolidated lung.": {"Consolidation": "positive"},
    "No focal consolidation, pneumothorax or pleural effusion.": {
        "Consolidation": "negative",
        "Pneumothorax": "negative",
        "Pleural Effusion": "negative",
    },
    "There is no pneumothorax. There is a small left-sided effusion.": {
        "Pneumothorax": "negative",
        "Pleural Effusion": "positive",
    },
    "no pneumothorax but bibasilar atelectasis .": {
        "Pneumothorax": "negative",
        "Atelectasis": "positive",
    },
    "The heart is not enlarged.": {"Cardiomegaly": "negative"},
    "The heart is mildly enlarged.": {"Cardiomegaly": "positive"},
    "Heart size is normal.": {"Cardiomegaly": "negative"},
    "Unremarkable mediastinal contours.": {"Enlarged Cardiomediastinum": "negative"},
    "The heart is normal with an enlarged thoracic aorta.": {"Cardiomegaly": "negative"},
    "The lungs are clear.": {"Lung Opacity": "negative"},
    "Possible pneumonia.": {"Pneumonia": "uncertain"},
    "Pneumonia cannot be excluded.": {"Pneumonia": "uncertain"},
    "Pneumonia has resolved.": {"Pneumonia": "negative"},
    "No change in the left effusion.": {"Pleural Effusion": "positive"},
    "Small pericardial effusion.": {},
    "No effusion on the left. Large right effusion.": {"Pleural Effusion": "positive"},
    "Possible effusion. No large effusion.": {"Pleural Effusion": "uncertain"},
    "Possible effusion on the left. Large right effusion.": {"Pleural Effusion": "positive"},
    "Large right effusion. Possible effusion on the left.": {"Pleural Effusion": "positive"},
    "massive obesity": {},
    "Clear lungs.There is an effusion.No pneumothorax": {
        "Lung Opacity": "negative",
        "Pleural Effusion": "positive",
        "Pneumothorax": "negative",
    },
}


@pytest.mark.parametrize("report", RULES)
def test_rules(labeller: Labeller, report: str) -> None:
    assert said(labeller, report) == RULES[report]


SENTENCES = sentences()


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences_read_as_a_radiologist_does(labeller: Labeller, text: str) -> None:
    assert said(labeller, text) == SENTENCES[text]


def test_no_finding_is_nothing_but_devices(labeller: Labeller) -> None:
    reports = {
        "The lungs are clear. No effusion.": Label.POSITIVE,
        "Left-sided pacemaker. The lungs are clear.": Label.POSITIVE,
        "Possible pneumonia.": Label.BLANK,
        "Old rib fracture.": Label.BLANK,
        "": Label.POSITIVE,
    }
    labels = labeller.label(list(reports))
    assert labels.shape == (5, 14)
    assert labels[:, -1].tolist() == list(reports.values())


def test_labels_do_not_depend_on_case_company_or_spacing(labeller: Labeller) -> None:
    reports = list(RULES)
    together = labeller.label(reports)
    assert (labeller.label(reports[::-1])[::-1] == together).all()
    shouted = [report.replace(".", ". ").upper() for report in reports]
    assert (labeller.label(shouted) == together).all()
    assert (labeller.label([report.replace(" ", " \n") for report in reports]) == together).all()
    assert labeller.label([]).shape == (0, 14)


REFERENCE = np.array([[1, 1, 0], [1, 3, 2], [2, 0, 3], [1, 0, 1]])
GENERATED = np.array([[1, 0, 0], [2, 1, 2], [1, 0, 1], [3, 0, 1]])


@pytest.mark.parametrize(
    ("uncertain", "counts"),
    [
        ("positive", [[2, 1, 1], [1, 0, 1], [2, 0, 0]]),
        ("negative", [[1, 1, 2], [0, 1, 1], [1, 1, 0]]),
        ("ignore", [[1, 1, 1], [0, 0, 1], [1, 0, 0]]),
    ],
)
def test_confusion_by_hand(uncertain: str, counts: list[list[int]]) -> None:
    assert confusion(REFERENCE, GENERATED, uncertain).sum(axis=0).tolist() == counts


def test_clinical_metrics_by_hand() -> None:
    metrics = clinical_metrics(
        REFERENCE, GENERATED, uncertain="positive", observations=OBSERVATIONS[:3]
    )
    micro = {name: metric.value() for name, metric in metrics["micro"].items()}
    assert micro == pytest.approx({"precision": 5 / 6, "recall": 5 / 7, "F1": 10 / 13})
    macro = {name: metric.value() for name, metric in metrics["macro"].items()}
    per_class = [4 / 6, 2 / 3, 1]
    assert macro["F1"] == pytest.approx(np.mean(per_class))
    assert macro["precision"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    # a resample of the first study, three times
    assert metrics["micro"]["F1"].of_resamples(np.array([[3.0, 0, 0, 0]])) == pytest.approx([2 / 3])


def test_clinical_metrics_of_the_same_labels_are_one_and_of_none_zero() -> None:
    labels = np.ones((5, 14), int)
    same = clinical_metrics(labels, labels, uncertain="negative")
    assert {m.value() for group in same.values() for m in group.values()} == {1.0}
    assert list(same) == ["micro", "macro", "micro_5", "macro_5", "no_finding", "F1"]
    silent = clinical_metrics(labels, labels * 0, uncertain="negative")
    assert {m.value() for group in silent.values() for m in group.values()} == {0.0}
    with pytest.raises(UserError, match=r"shape \(5, 14\) for references but \(4, 14\)"):
        clinical_metrics(labels, labels[:4], uncertain="negative")


def test_saying_that_all_is_normal_finds_nothing() -> None:
    """Nine normal studies of ten: right of nine, and of no finding."""
    reference = np.zeros((10, 14), int)
    reference[:9, OBSERVATIONS.index("No Finding")] = Label.POSITIVE
    reference[9, [OBSERVATIONS.index("Edema"), OBSERVATIONS.index("Fracture")]] = Label.POSITIVE
    normal = np.zeros_like(reference)
    normal[:, OBSERVATIONS.index("No Finding")] = Label.POSITIVE
    scores = clinical_metrics(reference, normal, uncertain="negative")
    assert scores["F1"]["No Finding"].value() == pytest.approx(18 / 19)
    alone = {name: metric.value() for name, metric in scores["no_finding"].items()}
    assert alone == pytest.approx({"precision": 0.9, "recall": 1.0, "F1": 18 / 19})
    for group in ("micro", "macro", "micro_5", "macro_5"):
        assert {m.value() for m in scores[group].values()} == {0.0}


def test_findings_cannot_be_won_by_silence(labeller: Labeller) -> None:
    references = ["The lungs are clear."] * 8 + ["Cardiomegaly. Left pleural effusion.", "Edema."]
    silent = ["", "the . the . the", "the lungs are clear ."]
    for text in silent:
        scores = findings_scores(references, [text] * 10, labeller)
        assert scores["no_finding"]["recall"] == 1
        for group in ("micro", "macro", "micro_5", "macro_5"):
            assert set(scores[group].values()) == {0.0}, (text, group)
    said = findings_scores(references, ["there is cardiomegaly ."] * 10, labeller)
    assert said["micro"] == pytest.approx({"precision": 0.1, "recall": 1 / 3, "F1": 2 / 13})
    assert said["macro_5"]["F1"] == pytest.approx(2 / 11 / 5)
    assert set(said["no_finding"].values()) == {0.0}
    perhaps = findings_scores(["Possible edema."], ["edema ."], labeller)
    assert perhaps == findings_scores(["No edema."], ["edema ."], labeller)  # as is the default
    with pytest.raises(UserError, match="10 references but 9 reports"):
        findings_scores(references, silent * 3, labeller)


def test_the_five_are_five_columns_of_the_thirteen() -> None:
    generator = np.random.default_rng(0)
    reference, generated = generator.integers(0, 4, (2, 50, 14))
    scores = clinical_metrics(reference, generated, uncertain="negative")
    five = [OBSERVATIONS.index(name) for name in FIVE]
    assert len(five) == 5
    alone = clinical_metrics(
        reference[:, five], generated[:, five], uncertain="negative", observations=FIVE
    )
    for average in ("micro", "macro"):
        for name, metric in scores[f"{average}_5"].items():
            assert metric.value() == alone[average][name].value()
    each = [scores["F1"][name].value() for name in FINDINGS]
    assert scores["macro"]["F1"].value() == pytest.approx(np.mean(each))
    counts = confusion(reference, generated, "negative").sum(axis=0)
    tp, fp, fn = counts[:-1].sum(axis=0)
    assert scores["micro"]["F1"].value() == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_agreement_with_people_on_iu_xray(iu_xray: Path, labeller: Labeller) -> None:
    """On the test split, which the phrases were not written on, and on all studies."""
    gold, reports = read_gold(iu_xray / "gold_labels_14.csv", iu_xray / "kaggle_reports.csv")
    labels = labeller.label(join_sections(reports, "findings and impression"))
    everything = agreement(gold, labels, "negative")
    floors = {
        "Atelectasis": 0.91,
        "Pleural Effusion": 0.92,
        "Consolidation": 0.90,
        "Cardiomegaly": 0.95,
        "Lung Lesion": 0.78,
    }
    for observation, floor in floors.items():
        assert everything[observation].f1 >= floor, observation
    splits = json.loads((iu_xray / "annotation.json").read_text())
    test = gold.index.isin([study["id"].split("_")[0] for study in splits["test"]])
    held_out = agreement(gold[test], labels[test], "negative")
    for observation in ("Atelectasis", "Pleural Effusion", "Cardiomegaly"):
        assert held_out[observation].f1 >= 0.9, observation


@pytest.fixture
def small_gold(tmp_path: Path) -> Path:
    """Two studies in the files' own layout, in different orders."""
    classes = [name for names in GOLD_CLASSES.values() for name in names]
    gold = pd.DataFrame(0, index=range(2), columns=["filename", *classes])
    gold["filename"] = ["CXR7", "CXR12"]
    gold.loc[0, "Effusion"] = 1
    gold.loc[1, "normal"] = 1
    gold.to_csv(tmp_path / "gold_labels_14.csv", index=False)
    rows = [[12, "Clear lungs.", None], [7, None, "Pleural effusion."]]
    reports = pd.DataFrame(rows, columns=["uid", "findings", "impression"])
    reports.to_csv(tmp_path / "kaggle_reports.csv", index=False)
    splits = {"train": [{"id": "CXR7_IM-1"}], "val": [], "test": [{"id": "CXR12_IM-2"}]}
    (tmp_path / "annotation.json").write_text(json.dumps(splits))
    return tmp_path


def test_gold_labels_meet_their_reports(small_gold: Path, labeller: Labeller) -> None:
    gold, reports = read_gold(small_gold / "gold_labels_14.csv", small_gold / "kaggle_reports.csv")
    assert join_sections(reports, "findings") == ["", "Clear lungs."]
    texts = join_sections(reports, "findings and impression")
    assert texts == ["\nPleural effusion.", "Clear lungs.\n"]
    result = agreement(gold, labeller.label(texts), "negative")
    assert result["Pleural Effusion"].f1 == result["No Finding"].f1 == 1
    assert result["Pleural Effusion"].studies == 1
    assert result["Edema"].f1 == 0


def test_gold_labels_that_do_not_fit_are_refused(small_gold: Path) -> None:
    gold, reports = small_gold / "gold_labels_14.csv", small_gold / "kaggle_reports.csv"
    table = pd.read_csv(gold)
    pd.concat([table, table.assign(filename="CXR99")]).to_csv(gold, index=False)
    with pytest.raises(UserError, match="has no report for 1 studies of .*; the first is CXR99"):
        read_gold(gold, reports)
    table.drop(columns="Edema").to_csv(gold, index=False)
    with pytest.raises(UserError, match=r"gold_labels_14.csv has no column \['Edema'\]"):
        read_gold(gold, reports)
    gold.unlink()
    with pytest.raises(UserError, match="gold_labels_14.csv is missing"):
        read_gold(gold, reports)


def test_check_labeller_prints_each_class(small_gold: Path) -> None:
    result = CliRunner().invoke(app, ["check_labeller", "--root", str(small_gold)])
    assert result.exception is None
    for observation in GOLD_CLASSES:
        assert observation in result.output
    assert "all studies" in result.output
    assert "test split" in result.output
