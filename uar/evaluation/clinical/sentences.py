"""What sentences say of findings. Generated texts share most sentences; each is labelled once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from uar.evaluation.clinical.labeller import Labeller
from uar.evaluation.clinical.labels import FINDINGS, Label


class SentenceLabels:
    """Labels of sentences, cached for sentences that recur.

    Args:
        labeller: labels a sentence seen for the first time.
    """

    def __init__(self, labeller: Labeller) -> None:
        self._labeller = labeller
        self._known: dict[str, np.ndarray] = {}  # (13,) int8

    def __call__(self, sentences: Iterable[str]) -> np.ndarray:
        """Labels `(N, 13)` int8 of N sentences, values of `Label`, columns as `FINDINGS`."""
        sentences = list(sentences)
        new = dict.fromkeys(sentence for sentence in sentences if sentence not in self._known)
        self._known |= zip(new, self._labeller.label(new)[:, : len(FINDINGS)], strict=True)
        rows = [self._known[sentence] for sentence in sentences]
        return np.array(rows, np.int8).reshape(-1, len(FINDINGS))


class AssertedFindings:
    """Which findings texts assert, exactly as `Labeller` says of whole texts.

    A text asserts a finding if one of its sentences does.
    """

    def __init__(self) -> None:
        self._labels = SentenceLabels(Labeller())

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """What N texts whose full stops are words assert, `(N, 13)` bool, columns as `FINDINGS`."""
        sentences = [sentences_of(text) for text in texts]
        labels = self._labels(sentence for of in sentences for sentence in of)
        found = np.zeros((len(texts), len(FINDINGS)), bool)
        text_of_each = np.repeat(np.arange(len(texts)), [len(of) for of in sentences])
        np.logical_or.at(found, text_of_each, labels == Label.POSITIVE)
        return found


def sentences_of(text: str) -> list[str]:
    """The sentences of a text whose full stops are words, each with its full stop."""
    parts = f" {text} ".split(" . ")
    return [f"{part.strip()} ." for part in parts if part.strip()]
