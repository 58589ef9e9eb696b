"""How sure a sentence is, on invented sentences and studies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from tests.conftest import labeller
from uar.evaluation.calibration import AS_TRAINED
from uar.evaluation.certainty import Certainty, Sentences, Shifted, shown
from uar.evaluation.clinical.labels import FINDINGS, Label
from uar.evaluation.clinical.sentences import SentenceLabels

HEART, FLUID, AIR = map(FINDINGS.index, ("Cardiomegaly", "Pleural Effusion", "Pneumothorax"))
P = AS_TRAINED.probabilities


def shifted(slope: float, **own: float) -> Shifted:
    return Shifted(slope, tuple(own.get(name.replace(" ", "_"), 0.0) for name in FINDINGS))


CERTAINTY = Certainty(
    shifted(2.0, Cardiomegaly=0.5), shifted(0.5, Pleural_Effusion=-1.0, Pneumothorax=2.0)
)
JUDGE = Certainty(shifted(1.0), shifted(1.0))  # as it is


def claims(of: dict[int, Label]) -> np.ndarray:
    row = np.full(len(FINDINGS), Label.BLANK, np.int8)
    for finding, label in of.items():
        row[finding] = label
    return row


def drawn(count: int, seed: int = 0) -> Sentences:
    """Half assert an enlarged heart, half deny an effusion; truth follows `CERTAINTY`."""
    rng = np.random.default_rng(seed)
    rows = [{HEART: Label.POSITIVE}, {FLUID: Label.NEGATIVE}]
    labels = np.stack([claims(rows[i % 2]) for i in range(count)])
    logits = rng.normal(-1, 2, labels.shape)
    true = np.zeros(labels.shape, bool)
    true[:, HEART] = rng.random(count) < P(2.0 * logits[:, HEART] + 0.5)
    true[:, FLUID] = rng.random(count) < P(0.5 * logits[:, FLUID] - 1.0)
    return Sentences(labels, logits, true)


def test_sentences_claim_what_the_labeller_says_of_each() -> None:
    reports = ["the heart is enlarged . no effusion or pneumothorax .", "comparison is made", ""]
    logits, true = np.arange(39.0).reshape(3, 13), np.zeros((3, 13), bool)
    true[0, HEART] = True
    sentences = Sentences.of(reports, logits, true, SentenceLabels(labeller()))
    assert sentences.labels[0, HEART] == Label.POSITIVE
    assert sentences.labels[1, [FLUID, AIR]].tolist() == [Label.NEGATIVE] * 2
    assert (sentences.labels[2] == Label.BLANK).all()
    np.testing.assert_array_equal(sentences.logits, logits[[0, 0, 1]])
    found = [each.tolist() for each in sentences.claims("asserted")]
    assert found == [[logits[0, HEART]], [HEART], [True]]
    found = [each.tolist() for each in sentences.claims("denied")]
    both = sorted([FLUID, AIR])
    assert found == [logits[0, both].tolist(), both, [False, False]]


def test_a_sentence_comes_to_the_labeller_once() -> None:
    asked: list[str] = []

    class Counting:
        def label(self, sentences: dict[str, None]) -> np.ndarray:
            asked.extend(sentences)
            return np.full((len(sentences), 14), Label.NEGATIVE, np.int8)

    labels = SentenceLabels(Counting())  # type: ignore[arg-type]
    assert labels(["a .", "b .", "a ."]).shape == (3, 13)
    assert labels(["b .", "c ."]).dtype == np.int8
    assert labels([]).shape == (0, 13)
    assert asked == ["a .", "b .", "c ."]


def test_all_claims_of_a_sentence_have_to_be_right() -> None:
    logits = np.zeros((4, 13))
    logits[:, HEART], logits[:, AIR] = 1.0, -2.0
    labels = np.stack([
        claims({HEART: Label.POSITIVE}),
        claims({HEART: Label.POSITIVE, AIR: Label.NEGATIVE}),
        claims({HEART: Label.UNCERTAIN, AIR: Label.NEGATIVE}),  # a possibility claims nothing
        claims({HEART: Label.UNCERTAIN}),
    ])  # fmt: skip
    sure = CERTAINTY.of_sentences(labels, logits)
    heart, air = float(P(np.array(2.5))), 1 - float(P(np.array(0.5 * -2.0 + 2.0)))
    assert sure[:3] == pytest.approx([heart, heart * air, air])
    assert np.isnan(sure[3])


def test_slopes_and_shifts_are_found_again_and_hold_for_other_studies() -> None:
    found = Certainty.fit(drawn(6000))
    for of, wanted, finding in zip(found, CERTAINTY, (HEART, FLUID), strict=True):
        assert of.slope == pytest.approx(wanted.slope, abs=0.15)
        assert of.shifts[finding] == pytest.approx(wanted.shifts[finding], abs=0.15)
    scores = found.scores(drawn(6000, seed=1))
    assert scores["asserted"]["claims"] == scores["denied"]["claims"] == 3000
    for each in scores.values():
        assert each["ece"] < 0.03
    raw = JUDGE.scores(drawn(6000, seed=1))
    for kind in ("asserted", "denied", "sentences"):
        assert scores[kind]["cross_entropy"] < raw[kind]["cross_entropy"] - 0.005
    assert "6000 sentences" in shown(scores)


def test_the_fit_is_the_likeliest_given_the_priors() -> None:
    """As scipy's search finds it: the slope .5 +- .5, the common shift 0 +- 3, others 0 +- 1."""
    rng = np.random.default_rng(1)
    logits, findings = rng.normal(0, 2, 60), rng.choice([HEART, FLUID, AIR], 60)
    true = rng.random(60) < P(logits - 2.0 * (findings == AIR))

    def improbability(found: np.ndarray) -> float:
        slope, common, *own = found
        z = slope * logits + common + np.array(own)[findings]
        prior = ((slope - 0.5) / 0.5) ** 2 + (common / 3) ** 2 + sum(each**2 for each in own)
        return float(np.logaddexp(0, np.where(true, -z, z)).sum() + prior / 2)

    best = minimize(improbability, np.zeros(2 + len(FINDINGS))).x
    found = Shifted.fit(logits, findings, true)
    assert found.slope == pytest.approx(best[0], abs=1e-3)
    assert found.shifts == pytest.approx((best[1] + best[2:]).tolist(), abs=2e-3)
    assert found.shifts[AIR] < found.shifts[HEART] - 0.5
    unseen = FINDINGS.index("Fracture")
    assert found.shifts[unseen] == pytest.approx(best[1], abs=2e-3)  # the common one alone


def test_without_claims_only_the_priors_are_left() -> None:
    labels, nothing = claims({})[None], np.zeros((1, 13))
    silent = Sentences(labels, nothing, nothing > 0)
    assert Certainty.fit(silent) == Certainty(shifted(0.5), shifted(0.5))
    scores = CERTAINTY.scores(silent)
    assert scores == {"asserted": None, "denied": None, "sentences": None}
    assert shown(scores) == "no sentence says anything about the 13 findings"


def test_scores_by_hand() -> None:
    labels = np.stack([
        claims({HEART: Label.POSITIVE, FLUID: Label.NEGATIVE}),
        claims({FLUID: Label.NEGATIVE}),
        claims({}),
    ])  # fmt: skip
    true = np.zeros((3, 13), bool)
    true[0, [HEART, FLUID]] = True  # the heart is right, the fluid is not
    scores = JUDGE.scores(Sentences(labels, np.zeros((3, 13)), true))
    assert (scores["asserted"]["claims"], scores["asserted"]["true"]) == (1, 1.0)
    assert (scores["denied"]["claims"], scores["denied"]["true"]) == (2, 0.5)
    assert (scores["asserted"]["AUC"], scores["denied"]["AUC"]) == (None, 0.5)
    sentences = scores["sentences"]
    assert sentences["AUC"] == 1.0  # the surer sentence, of .5 against .25, is the right one
    assert (sentences["claiming"], sentences["right"]) == (2, 0.5)
    assert sentences["brier"] == pytest.approx((0.25**2 + 0.5**2) / 2)
    assert sentences["cross_entropy"] == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2)
    assert sentences["ece"] == pytest.approx((0.25 + 0.5) / 2)
