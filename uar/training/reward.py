"""The reward of a written report in self-critical training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uar.core.config import StageThreeParams
from uar.evaluation.pairwise import DocumentFrequencies, pairwise_scores


class Reward:
    """Overlap with a study's own report in excess of that with others' reports, plus findings.

    Overlap alone favours the report that is likeliest overall, whatever the images show, as it is
    somewhat like every reference. So its mean over the references of other studies is subtracted,
    and a text written for every study earns, over all of them, exactly nothing (with `contrast` 1).
    To the same end, Luo et al. (2018, "Discriminability objective for training descriptive
    captions") reward captions by which their image can be told from others.

    Args:
        params: the weights of its parts.
        references: those of the training split, over which CIDEr counts document frequencies.
    """

    def __init__(self, params: StageThreeParams, references: Sequence[str]) -> None:
        from uar.evaluation.clinical.sentences import AssertedFindings  # loads spaCy

        self.params = params
        self._frequencies = DocumentFrequencies(references)
        self.asserted = AssertedFindings()

    def __call__(
        self, texts: Sequence[str], own: Sequence[int], references: Sequence[str], true: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Compute the rewards of N texts, and their parts.

        Args:
            texts: N of them.
            own: index of the reference of each text's study.
            references: M of them, from as many studies; those of the whole batch.
            true: findings that each text's study has, `(N, 13)` bool.

        Returns:
            `(N,)` each: `reward` = `overlap` - `contrast` * `overlap_of_others` +
            `findings_reward`.
            `overlap` is `cider` CIDEr + `bleu` BLEU-4 with the study's own reference,
            `overlap_of_others` its mean over the others (0 if there are none), `findings_reward`
            the reward for right findings minus the cost of wrong ones.
        """
        params, count = self.params, len(texts)
        bleu, cider = pairwise_scores([*texts, *references], self._frequencies)
        overlaps = (params.cider * cider + params.bleu * bleu)[:count, count:]  # (N, M)
        overlap = overlaps[np.arange(count), np.asarray(own)]
        of_others = (overlaps.sum(axis=1) - overlap) / max(1, len(references) - 1)
        said = self.asserted(texts)
        right, wrong = (said & true).sum(axis=1), (said & ~true).sum(axis=1)
        findings = params.finding * right - params.wrong_finding * wrong
        return {
            "reward": overlap - params.contrast * of_others + findings,
            "overlap": overlap,
            "overlap_of_others": of_others,
            "findings_reward": findings,
        }
