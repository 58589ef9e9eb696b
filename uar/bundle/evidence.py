"""What validation says about a model's reports: how far to believe what they say of findings."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from uar.evaluation.certainty import Certainty, Shifted
from uar.evaluation.clinical.labels import FINDINGS

Counts = Annotated[list[int], Field(min_length=2, max_length=2)]  # right, and written in all


class LogitScaling(BaseModel):
    """Turns logits into probabilities: sigmoid(slope logit + shift)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: float = Field(gt=0)
    shift: float


class ShiftedLogits(BaseModel):
    """`uar.evaluation.certainty.Shifted`, as a manifest states it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: float = Field(ge=-1000, le=1000)
    shifts: list[Annotated[float, Field(ge=-1000, le=1000)]] = Field(
        min_length=len(FINDINGS), max_length=len(FINDINGS)
    )


class SentenceCertainty(BaseModel):
    """How certain sentences are in what they assert and deny (`uar.evaluation.certainty`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asserted: ShiftedLogits
    denied: ShiftedLogits

    def of_sentences(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """See `Certainty.of_sentences`."""
        kinds = (Shifted(of.slope, tuple(of.shifts)) for of in (self.asserted, self.denied))
        return Certainty(*kinds).of_sentences(labels, logits)


class Evidence(BaseModel):
    """What is known from generated reports of the validation split, unseen in training.

    Attributes:
        studies: how many the validation split has.
        written: for each finding, how many generated reports assert it where the reference does
            too, and how many assert it in all.
        scaling: of the findings head's logits (`uar.evaluation.calibration`); None without a head.
        certainty: how likely a sentence is right about findings; None without a judge.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    studies: int = Field(ge=0)
    written: dict[str, Counts]
    scaling: LogitScaling | None
    certainty: SentenceCertainty | None = None

    @model_validator(mode="after")
    def _counts_fit(self) -> Evidence:
        for name, (right, written) in self.written.items():
            if not 0 <= right <= written <= self.studies:
                raise ValueError(
                    f"{name}: {right} right of {written} in {self.studies} studies is impossible"
                )
        return self
