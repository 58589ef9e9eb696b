"""How sure a generated sentence is: the probability that what it says about findings is right.

A sentence *claims* a finding that the labeller finds asserted or denied in it. An asserted finding
is right if the study's reference asserts it too, a denied one if the reference does not. The
probability that the reference asserts it follows from the judge's logit z: sigmoid(slope z +
shift), with one slope for all findings and a shift for each. They are fitted to validation reports,
once for asserted and once for denied findings, because the text, too, carries information about the
images. A sentence is right if all its claims are. Its probability is the product of theirs, as if
they were independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from uar.evaluation.calibration import AS_TRAINED, calibration_of_probabilities
from uar.evaluation.clinical.labels import FINDINGS, Label
from uar.evaluation.clinical.sentences import SentenceLabels, sentences_of
from uar.evaluation.detection import auc

# Means and standard deviations of normal priors: of the slope, of the findings' common shift and of
# each finding's difference from it. Chosen by cross-validation on the validation studies of the
# demo and of IU X-Ray, where nearby values do about as well.
_SLOPE, _COMMON, _OWN = (0.5, 0.5), (0.0, 3.0), (0.0, 1.0)
_STEPS = 100  # of Newton's method
KINDS = {"asserted": Label.POSITIVE, "denied": Label.NEGATIVE}


class Sentences(NamedTuple):
    """Sentences of generated reports, and what is true of their studies."""

    labels: np.ndarray  # (N, 13) int8, values of `Label`: what each says
    logits: np.ndarray  # (N, 13), the judge's for its study
    true: np.ndarray  # (N, 13) bool, what its study's reference asserts

    @classmethod
    def of(
        cls, reports: Sequence[str], logits: np.ndarray, true: np.ndarray, labels: SentenceLabels
    ) -> Sentences:
        """The sentences of S generated reports whose full stops are words.

        Args:
            reports: the S reports.
            logits: `(S, 13)`.
            true: `(S, 13)` bool.
            labels: gives the labels of sentences.
        """
        sentences = [sentences_of(report) for report in reports]
        study = np.repeat(np.arange(len(reports)), [len(of) for of in sentences])
        said = labels(sentence for of in sentences for sentence in of)
        return cls(said, logits[study], true[study])

    def claims(self, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logit, column and truth, each `(C,)`, of the findings that sentences claim by `kind`."""
        sentence, finding = np.nonzero(self.labels == KINDS[kind])
        return self.logits[sentence, finding], finding, self.true[sentence, finding]


class Shifted(NamedTuple):
    """What turns the judge's logits into probabilities: sigmoid(slope logit + shift)."""

    slope: float
    shifts: tuple[float, ...]  # one for each of the 13 findings

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Turn logits `(N, 13)` into probabilities."""
        return AS_TRAINED.probabilities(self.slope * logits + np.array(self.shifts))

    @classmethod
    def fit(cls, logits: np.ndarray, findings: np.ndarray, true: np.ndarray) -> Shifted:
        """Fit the likeliest values, given the priors (maximum a posteriori).

        Args:
            logits: of C claims.
            findings: their columns.
            true: whether the reference asserts them, bool.
        """
        own = np.eye(len(FINDINGS))[findings]  # (C, 13)
        x = np.concatenate([logits[:, None], np.ones((len(logits), 1)), own], axis=1)
        prior, deviation = np.array([_SLOPE, _COMMON, *[_OWN] * len(FINDINGS)]).T
        weight = 1 / deviation**2
        found = prior
        for _ in range(_STEPS):
            likely = AS_TRAINED.probabilities(x @ found)
            slope = x.T @ (likely - true) + weight * (found - prior)
            curvature = (x.T * (likely * (1 - likely))) @ x + np.diag(weight)
            step = np.linalg.solve(curvature, slope)
            found = found - step / max(1.0, np.abs(step).max())
        return cls(float(found[0]), tuple((found[1] + found[2:]).tolist()))


class Certainty(NamedTuple):
    """How likely the reference asserts a finding that a generated sentence asserts or denies."""

    asserted: Shifted
    denied: Shifted

    @classmethod
    def fit(cls, sentences: Sentences) -> Certainty:
        """Fit to reports of studies that the model was not trained on."""
        return cls(**{kind: Shifted.fit(*sentences.claims(kind)) for kind in KINDS})

    def of_sentences(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Probability that all claims of each of N sentences are right; NaN if it has none.

        Args:
            labels: `(N, 13)`, values of `Label`.
            logits: the judge's, `(N, 13)`.
        """
        asserted, denied = (labels == label for label in KINDS.values())
        right = np.ones(labels.shape)
        right[asserted] = self.asserted.probabilities(logits)[asserted]
        right[denied] = 1 - self.denied.probabilities(logits)[denied]
        return np.where((asserted | denied).any(axis=1), right.prod(axis=1), np.nan)

    def scores(self, sentences: Sentences) -> dict[str, Any]:
        """Measure the calibration on sentences of validation or other studies.

        Returns:
            `asserted` and `denied`: `claims`, how many; `true`, the share that references assert;
            `AUC` of its probability, and `calibration_of_probabilities`. `sentences`: `claiming`,
            how many claim anything; `right`, the share whose claims are all right; AUC and
            calibration likewise. A group without claims is None; so is an AUC where all are alike.
        """
        scores: dict[str, Any] = {}
        for kind, label in KINDS.items():
            claimed, scores[kind] = sentences.labels == label, None
            if claimed.any():
                likely = getattr(self, kind).probabilities(sentences.logits)[claimed]
                true = sentences.true[claimed]
                share = {"true": float(true.mean()), "AUC": _auc(likely, true)}
                about = calibration_of_probabilities(likely, true)
                scores[kind] = {"claims": len(true), **share, **about}
        sure = self.of_sentences(sentences.labels, sentences.logits)
        claiming = ~np.isnan(sure)
        labels, true = sentences.labels[claiming], sentences.true[claiming]
        wrong = ((labels == Label.POSITIVE) & ~true) | ((labels == Label.NEGATIVE) & true)
        right = ~wrong.any(axis=1)
        scores["sentences"] = None
        if len(right):
            about = calibration_of_probabilities(sure[claiming], right)
            share = {"right": float(right.mean()), "AUC": _auc(sure[claiming], right)}
            scores["sentences"] = {"claiming": len(right), **share, **about}
        return scores


def _auc(scores: np.ndarray, true: np.ndarray) -> float | None:
    value = auc(scores, true)
    return None if np.isnan(value) else value


def shown(scores: dict[str, Any]) -> str:
    """The scores of a split's sentences in one line."""
    of = scores["sentences"]
    if of is None:
        return f"no sentence says anything about the {len(FINDINGS)} findings"
    return (
        f"{of['claiming']} sentences with findings, {of['right']:.1%} right, expected calibration "
        f"error {of['ece']:.3f}"
    )
