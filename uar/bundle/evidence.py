"""What validation says of a model's findings: how often a written one is right, and calibration."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Counts = Annotated[list[int], Field(min_length=2, max_length=2)]  # right, of all that are written


class LogitScaling(BaseModel):
    """What makes probabilities of the findings head's logits: sigmoid(slope logit + shift)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: float = Field(gt=0)
    shift: float


class Evidence(BaseModel):
    """Findings in the reports of the validation split, none of which the model was trained on.

    Attributes:
        studies: of the validation split.
        written: of each finding, how many generated reports assert it where the reference does too,
            and how many assert it in all.
        scaling: of the findings head's logits (`uar.evaluation.calibration`); None without a head.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    studies: int = Field(ge=0)
    written: dict[str, Counts]
    scaling: LogitScaling | None

    @model_validator(mode="after")
    def _counts_fit(self) -> Evidence:
        for name, (right, written) in self.written.items():
            if not 0 <= right <= written <= self.studies:
                raise ValueError(f"{name}: {right} right of {written} in {self.studies} studies")
        return self
