"""A trained run as its figures see it: its models, the validation split and its films."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from uar.core.config import Params
from uar.core.device import resolve_device
from uar.data.batches import Studies
from uar.data.text import Vocabulary
from uar.data.views import held_views, resize_view, view_names
from uar.evaluation.baselines import unit_rows
from uar.inference.features import global_features
from uar.model.uar import UAR

SAMPLES = 3  # studies that Figures 3, 6 and 7 show


@dataclass(frozen=True)
class TrainedRun:
    """What figures are made from. S studies have up to V films each.

    Attributes:
        params: params.yaml.
        models: by training stage, `stage one` first, in evaluation mode; the last is the trained
            one, of stage two or three. If training had only one stage, stage one has no model.
        studies: the validation split.
        table: its rows of the table of reports (`uar.data.study.REPORT_COLUMNS`).
        vocabulary: V_R.
        images: the packed films of all splits, `(N, size, size)` uint8.
        boxes: known boxes of findings (`uar.data.study.BOX_COLUMNS`).
        encoder: file of the tokenizer's encoder.
        decoder: file of the tokenizer's decoder.
        evaluation: `evaluate`'s details.json.
        logs: by training stage, the folder of its curves, which DVCLive wrote.
        origin: which run this is, in a sentence.
    """

    params: Params
    models: Mapping[str, UAR]
    studies: Studies
    table: pd.DataFrame
    vocabulary: Vocabulary
    images: np.ndarray
    boxes: pd.DataFrame
    encoder: Path
    decoder: Path
    evaluation: Path
    logs: Mapping[str, Path]
    origin: str

    @property
    def name(self) -> str:
        """The stage that the trained model comes from."""
        return list(self.models)[-1]

    @property
    def model(self) -> UAR:
        """The trained model."""
        return self.models[self.name]

    @property
    def device(self) -> torch.device:
        """The device to compute on."""
        return resolve_device(self.params.device)

    @cached_property
    def ids(self) -> list[str]:
        """The studies' names."""
        return self.table["study_id"].tolist()

    @cached_property
    def reports(self) -> list[str]:
        """The studies' reports as the model can write them: cut, rare words as `<unk>`."""
        return self.vocabulary.restricted(self.table["cleaned"], self.params.report.max_length)

    @cached_property
    def present(self) -> np.ndarray:
        """Which films each study has, `(S, V)` bool."""
        return held_views(self.table["views"], self.studies.rows.shape[1])

    @cached_property
    def samples(self) -> list[int]:
        """Studies that Figures 3 and 6 show, drawn at random."""
        count = min(SAMPLES, len(self.studies))
        generator = np.random.default_rng(self.params.seed)
        return sorted(generator.choice(len(self.studies), count, replace=False).tolist())

    @cached_property
    def cosine(self) -> dict[str, np.ndarray]:
        """The cosine of every study's images with every report, `(S, S)` (Eq. 10), by stage."""
        batch_size = self.params.decode.batch_size
        features = {
            name: global_features(model, self.studies, batch_size, f"features, {name}")
            for name, model in self.models.items()
        }
        return {name: cosine_matrix(*np.hstack(list(of))) for name, of in features.items()}

    @property
    def by_refiner(self) -> dict[str, UAR]:
        """The model without the refiner (stage one's) and the last with it, where they exist."""
        return {
            "with TIR" if model.params.tir != "none" else "without TIR": model
            for model in self.models.values()
        }

    def films(self, rows: np.ndarray) -> np.ndarray:
        """Whole films of packed rows `(N,)` as the model sees them, `(N, crop, crop)` in [0, 1]."""
        return resize_view(torch.from_numpy(self.images[rows]), self.params.image.crop).numpy()

    def films_of(self, study: int) -> np.ndarray:
        """The films that a study has, `(v, crop, crop)` in [0, 1]."""
        return self.films(self.studies.rows[study][self.present[study]])

    def boxes_of(self, study: int) -> pd.DataFrame:
        """The known boxes of a study."""
        return self.boxes[self.boxes["study_id"] == self.ids[study]]

    def view_names(self, study: int) -> list[str]:
        """What each of a study's V films shows."""
        return view_names(self.table["views"].iloc[study], self.studies.rows.shape[1])


def cosine_matrix(images: np.ndarray, reports: np.ndarray) -> np.ndarray:
    """Cosine of every image with every report, `(S, S)`, from global features `(S, d)` (Eq. 10)."""
    return unit_rows(images) @ unit_rows(reports).T


def slug(name: str) -> str:
    """A model's name in file names and in metrics.json."""
    return name.replace(" ", "_")
