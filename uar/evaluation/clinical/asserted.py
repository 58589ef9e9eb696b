"""Findings that many similar texts assert, each distinct sentence labelled once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uar.evaluation.clinical.labeller import Labeller
from uar.evaluation.clinical.labels import FINDINGS, Label


class AssertedFindings:
    """Which findings texts assert, as `Labeller` says of them whole.

    A text asserts a finding if one of its sentences does, and samples of one model share most of
    their sentences.
    """

    def __init__(self) -> None:
        self._labeller = Labeller()
        self._of_sentence: dict[str, np.ndarray] = {}  # (13,) bool

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """`(N, 13)` bool, columns as `FINDINGS`, of N texts whose full stops are words."""
        sentences = [_sentences(text) for text in texts]
        new = dict.fromkeys(s for of in sentences for s in of if s not in self._of_sentence)
        labels = self._labeller.label(new)[:, : len(FINDINGS)]
        self._of_sentence |= zip(new, labels == Label.POSITIVE, strict=True)
        nothing = np.zeros(len(FINDINGS), bool)
        of_texts = [
            np.any([nothing, *(self._of_sentence[s] for s in of)], axis=0) for of in sentences
        ]
        return np.array(of_texts, bool).reshape(-1, len(FINDINGS))


def _sentences(text: str) -> list[str]:
    """Texts up to each full stop, with it."""
    parts = f" {text} ".split(" . ")
    return [f"{part.strip()} ." for part in parts if part.strip()]
