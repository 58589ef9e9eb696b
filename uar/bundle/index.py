"""The training studies that a bundle carries, to name those most like a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from pydantic import BaseModel, ValidationError
from torch import Tensor

from uar.core.errors import UserError, plainly
from uar.core.weights import read_weights, write_weights

_KIND = "index"


class _About(BaseModel):
    study_ids: list[str]
    reports: list[str] | None
    model_sha256: str


@dataclass(frozen=True)
class SimilarStudy:
    """A training study, and how similar it is to the new one.

    Attributes:
        study_id: in the data set.
        cosine: between both studies' global visual features F(I) (Eq. 10).
        report: as the data set words it; None where the bundle carries none.
    """

    study_id: str
    cosine: float
    report: str | None


@dataclass(frozen=True)
class StudyIndex:
    """Training studies, indexed by what the model sees in their films.

    Attributes:
        features: global visual features F(I) (Eq. 10), `(K, d)` float32, each of length 1.
        study_ids: K, as in the data set.
        reports: K, as the data set words them; None where they are not to be passed on.
    """

    features: Tensor
    study_ids: Sequence[str]
    reports: Sequence[str] | None

    @classmethod
    def of(
        cls, features: Tensor, study_ids: Sequence[str], reports: Sequence[str] | None
    ) -> StudyIndex:
        """Build an index from features, which need not have length 1."""
        return cls(F.normalize(features.float(), dim=1), study_ids, reports)

    def nearest(self, queries: Tensor, count: int) -> list[list[SimilarStudy]]:
        """The `count` studies of largest cosine to each of Q queries `(Q, d)`; ties keep order."""
        cosines = F.normalize(queries.float(), dim=1) @ self.features.T
        values, places = cosines.sort(dim=1, descending=True, stable=True)
        return [
            [
                SimilarStudy(
                    self.study_ids[place], value, self.reports[place] if self.reports else None
                )
                for value, place in zip(row[:count], of[:count], strict=True)
            ]
            for row, of in zip(values.tolist(), places.tolist(), strict=True)
        ]

    def save(self, path: Path, model_sha256: str) -> None:
        """Write as safetensors; `model_sha256` is of the file of the model that made the index."""
        about = {"study_ids": self.study_ids, "reports": self.reports, "model_sha256": model_sha256}
        write_weights(path, _KIND, {"features": self.features}, about)

    @classmethod
    def load(cls, path: Path, model_sha256: str) -> StudyIndex:
        """Read an index.

        Raises:
            UserError: the file is damaged, not an index, or of another model.
        """
        tensors, about = read_weights(path, _KIND)
        try:
            _About.model_validate(about, strict=True)
            features = tensors["features"]
        except (KeyError, ValidationError) as error:
            raise UserError(f"its index is not one of this project: {plainly(error)}") from None
        made_with, ids, reports = about["model_sha256"], about["study_ids"], about["reports"]
        if made_with != model_sha256:
            raise UserError(
                "the bundle mixes parts of two runs: the index was made with model "
                f"{str(made_with)[:12]}, but the model is {model_sha256[:12]}"
            )
        counts = {len(features), len(ids), len(ids if reports is None else reports)}
        if features.dim() != 2 or len(counts) != 1:
            raise UserError(
                f"its index does not fit together: features {tuple(features.shape)}, "
                f"{len(ids)} studies and "
                f"{'no' if reports is None else len(reports)} reports"
            )
        return cls(features, ids, reports)
