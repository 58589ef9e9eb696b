"""A study that a bundle carries, so that a page has something to show before it is given a film."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from uar.core.errors import UserError
from uar.core.weights import read_weights, write_weights
from uar.data.study import VIEWS, View

_KIND = "example"


@dataclass(frozen=True)
class Example:
    """A study that the model was not trained on.

    Attributes:
        study_id: in the data set.
        split: of the study.
        films: those that it has, as packed, `(n, size, size)` uint8.
        views: what each of them shows.
        report: as the data set words it.
    """

    study_id: str
    split: str
    films: np.ndarray
    views: tuple[View, ...]
    report: str

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        about = {name: value for name, value in vars(self).items() if name != "films"}
        write_weights(path, _KIND, {"films": torch.from_numpy(self.films)}, about)

    @classmethod
    def load(cls, path: Path) -> Example:
        """Read what `save` wrote.

        Raises:
            UserError: the file is damaged or not an example.
        """
        tensors, about = read_weights(path, _KIND)
        films = tensors.get("films")
        texts = [about.get(key) for key in ("study_id", "split", "report")]
        if films is None or films.dtype != torch.uint8 or films.dim() != 3:
            raise UserError("its example has no films")
        if not all(isinstance(text, str) for text in texts):
            raise UserError("its example has no name, split or report")
        views = about.get("views")
        if not isinstance(views, list) or len(views) != len(films) or set(views) - set(VIEWS):
            raise UserError(f"its example has {len(films)} films, but its views are {views!r}")
        study_id, split, report = map(str, texts)
        return cls(study_id, split, films.numpy(), tuple(views), report)
