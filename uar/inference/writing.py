"""Writing reports as `decode` in params.yaml says, for a split and for new films."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from uar.core.config import OF_SAMPLES, DecodeParams
from uar.core.errors import UserError
from uar.data.text import Vocabulary
from uar.evaluation.clinical.sentences import AssertedFindings
from uar.inference.choice import Candidates, expected_utility
from uar.inference.decoding import Generated, generate_as, random_draws, sample
from uar.model.ensemble import Ensemble
from uar.model.uar import UAR


def in_effect(params: DecodeParams) -> dict[str, Any]:
    """The settings; for beam search, without those that matter only for samples."""
    whole = params.model_dump(mode="json")
    if params.choose == "beam":
        return {name: value for name, value in whole.items() if name not in OF_SAMPLES}
    return whole


def needs_findings(params: DecodeParams) -> bool:
    """Whether the choice of reports also depends on probabilities of findings."""
    return params.choose == "samples" and params.findings_weight > 0


class ReportWriter:
    """Writes reports by beam search, or chooses among samples.

    Args:
        model: in evaluation mode.
        vocabulary: V_R.
        params: which of the two, and its settings.
        seed: decides the draws, which are the same for every batch.
    """

    def __init__(
        self, model: UAR | Ensemble, vocabulary: Vocabulary, params: DecodeParams, seed: int = 0
    ) -> None:
        self._model, self._vocabulary, self._params = model, vocabulary, params
        self._tables = model.tables()
        self._draws = random_draws(seed, params.samples, model.sizes.max_length)

    def write(
        self, visual: Tensor, present: Tensor | None, probabilities: np.ndarray | None = None
    ) -> list[Generated]:
        """Write a report for each of B studies.

        Args:
            visual, present: as `generate` takes them.
            probabilities: of the findings in each study, `(B, 13)`; needed if `needs_findings`.

        Raises:
            UserError: `probabilities` are needed but not given.
        """
        params, findings = self._params, needs_findings(self._params)
        if findings and probabilities is None:
            raise UserError(
                "decode.findings_weight above 0 needs probabilities of findings, which the judge "
                "stage predicts from visual tokens"
            )
        if params.choose == "beam":
            return generate_as(params, self._model, visual, tables=self._tables, present=present)
        return [
            of_study.best(
                params.findings_weight,
                params.findings_threshold,
                probabilities[study] if probabilities is not None else None,
            )
            for study, of_study in enumerate(self.candidates(visual, present, findings))
        ]

    def candidates(
        self, visual: Tensor, present: Tensor | None, findings: bool
    ) -> list[Candidates]:
        """Draw samples for each of B studies, with the values by which one is chosen.

        Args:
            visual, present: as `generate` takes them.
            findings: whether to label the samples too.
        """
        samples = sample(
            self._model,
            visual,
            self._draws,
            self._params.temperature,
            tables=self._tables,
            present=present,
            guidance=self._params.guidance,
        )
        texts = [[self._vocabulary.decode(one.ids) for one in of_study] for of_study in samples]
        return [
            Candidates(
                of_study,
                expected_utility(of_texts),
                self._asserted(of_texts) if findings else None,
            )
            for of_study, of_texts in zip(samples, texts, strict=True)
        ]

    @cached_property
    def _asserted(self) -> AssertedFindings:
        return AssertedFindings()
