"""Choosing one of a study's sampled reports by minimum Bayes risk and by what its films are likely
to show.

Minimum Bayes risk (Kumar and Byrne 2004; Eikema and Aziz 2020) chooses the report with the
highest expected utility: its score against a report drawn from the model, estimated from the other
samples. The likeliest reports are those of studies without findings, so the chosen one names few;
the second term prefers reports whose findings a model of the images alone considers likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uar.evaluation.pairwise import pairwise_scores
from uar.inference.decoding import Generated


@dataclass(frozen=True)
class Candidates:
    """Samples of one study, and the values by which one of them is chosen.

    Attributes:
        samples: N reports.
        utility: expected utility of each, `(N,)`.
        asserted: the findings that each asserts, `(N, K)` bool; None: unknown.
    """

    samples: Sequence[Generated]
    utility: np.ndarray
    asserted: np.ndarray | None = None

    def best(
        self, weight: float, threshold: float, probabilities: np.ndarray | None = None
    ) -> Generated:
        """The (first) sample with the largest utility + weight * `findings_gain`.

        Args:
            weight: lambda; 0: only utility counts.
            threshold: that of `findings_gain`.
            probabilities: of the K findings in the study, `(K,)`; needed for a weight above 0.
        """
        scores = self.utility
        if weight:
            assert self.asserted is not None and probabilities is not None
            scores = scores + weight * findings_gain(self.asserted, probabilities, threshold)
        return self.samples[int(scores.argmax())]


def expected_utility(texts: Sequence[str]) -> np.ndarray:
    """Each text's mean BLEU-4 + CIDEr / 10 against the other texts, `(N,)` in [0, 2].

    CIDEr counts document frequencies over the samples themselves, so that a study's choice depends
    only on its samples, and a bundle need not hold n-grams of training reports.

    Args:
        texts: N > 1 samples of a study. A text that occurs twice counts as "other" for its copy.
    """
    bleu, cider = pairwise_scores(texts)
    scores = bleu + cider / 10
    return (scores.sum(axis=1) - np.diagonal(scores)) / (len(texts) - 1)


def findings_gain(asserted: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Sum of p - threshold over the findings that each text asserts, `(N,)`.

    A finding above the threshold is worth stating, one below is not. For F1, that threshold is half
    of the best F1 that can be achieved (Lipton et al. 2014, theorem 1).

    Args:
        asserted: `(N, K)` bool.
        probabilities: p of the K findings in the study, `(K,)`.
        threshold: in [0, 1].
    """
    return asserted.astype(float) @ (probabilities.astype(float) - threshold)
