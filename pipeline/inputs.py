"""What several stages read: images, a split's studies, the token cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline import paths
from uar.core.config import Params
from uar.core.device import resolve_device
from uar.core.errors import UserError
from uar.core.files import open_array
from uar.core.geometry import cells_along
from uar.data.batches import PixelSource, Studies, TokenSource, VisualSource
from uar.data.study import REPORT_COLUMNS, Split, read_checked
from uar.data.text import Vocabulary
from uar.data.views import PackedFilms, held_views
from uar.evaluation.clinical.labels import FINDINGS
from uar.model.checkpoint import Checkpoint
from uar.model.ensemble import Ensemble, refuse_other_member, together
from uar.model.uar import UAR, ModelSizes
from uar.tokens.cache import TokenCacheInfo, open_tokens

_FITTED_FILMS = 2048  # at most


def open_images() -> np.ndarray:
    """The packed image array, memory-mapped."""
    return open_array(paths.IMAGES)


def image_rows(params: Params, split: Split) -> np.ndarray:
    """Rows of each study's images in the packed and the token array, `(S, V)`."""
    return study_rows(read_checked(paths.STUDIES, ("study_id", "split")), params, split)


def training_films(params: Params) -> PackedFilms:
    """The films of the training split."""
    return PackedFilms(paths.IMAGES, image_rows(params, "train").ravel())


def fitted_views(params: Params, generator: torch.Generator) -> Tensor:
    """Whole views of the training films, to which codes and their decoder are fitted."""
    return training_films(params).whole_views(params.image.crop, _FITTED_FILMS, generator)


def study_rows(table: pd.DataFrame, params: Params, split: Split) -> np.ndarray:
    """Rows of each study's images, `(S, V)`, given the table of all studies or reports."""
    return rows_of(np.flatnonzero(table["split"] == split), params)


def rows_of(studies: np.ndarray, params: Params) -> np.ndarray:
    """Rows of each study's images, `(S, V)`, given the studies' places in the table `(S,)`."""
    per_study = params.dataset.images_per_study
    return studies[:, None] * per_study + np.arange(per_study)


def finding_labels(reports: pd.DataFrame) -> np.ndarray:
    """Which of `FINDINGS` each report asserts, `(S, 13)` bool."""
    rows = [[name in names for name in FINDINGS] for names in reports["findings"]]
    return np.array(rows, bool).reshape(-1, len(FINDINGS))


class Inputs:
    """Vocabulary and visual input, as params.yaml specifies them.

    Raises:
        UserError: a file is missing, or the array of tokens or images does not fit the reports.
    """

    def __init__(self, params: Params) -> None:
        self.params = params
        self.vocabulary = Vocabulary.load(paths.VOCABULARY)
        self.reports = read_checked(paths.REPORTS, REPORT_COLUMNS)
        self.visual: VisualSource
        self.encoder_sha256: str | None = None
        films: np.ndarray
        per_study, whole_view = params.dataset.images_per_study, params.train.whole_view
        info = TokenCacheInfo.load(paths.TOKENS_INFO)
        if params.model.lsu:
            films = open_tokens(paths.TOKENS, info)
            self.visual = TokenSource(films, whole_view)
            self.encoder_sha256 = info.encoder_sha256
            codebook, length = info.codebook_size, per_study * info.shape[2]
        else:
            films = open_images()
            self.visual = PixelSource(films, info.made_of, whole_view)
            codebook = 0
            side = cells_along(params.image.crop, params.model.extractor.network)
            length = per_study * side**2
        if len(films) != per_study * len(self.reports):
            raise UserError(
                f"{paths.REPORTS} has {len(self.reports)} studies, which with {per_study} films "
                f"per study need {per_study * len(self.reports)} rows, but "
                f"{paths.TOKENS if params.model.lsu else paths.IMAGES} has {len(films)}. The two "
                "files are from different runs: `dvc repro` makes them again."
            )
        self.sizes = ModelSizes(
            vocabulary=len(self.vocabulary),
            codebook=codebook,
            visual_length=length,
            max_length=params.report.max_length,
            findings=len(FINDINGS),
        )

    def studies(self, split: Split) -> Studies:
        """The studies of a split. Only evaluate asks for the test split."""
        findings = finding_labels(self.split_table(split))
        abnormal = self.params.train.abnormal_weight
        weights = np.where(findings.any(axis=1), abnormal, 1.0)
        return Studies(
            self.visual,
            study_rows(self.reports, self.params, split),
            self.split_table(split)["cleaned"].tolist(),
            vocabulary=self.vocabulary,
            max_length=self.params.report.max_length,
            present=self.held(split) if self.params.dataset.missing_view == "mask" else None,
            findings=findings,
            weights=weights if split == "train" and abnormal != 1 else None,
        )

    def split_table(self, split: Split) -> pd.DataFrame:
        """study_id, report (raw), cleaned text and views of a split, in the order of `studies`."""
        return self.reports[self.reports["split"] == split]

    def held(self, split: Split) -> np.ndarray:
        """Which views each study has, `(S, V)` bool."""
        return held_views(self.split_table(split)["views"], self.params.dataset.images_per_study)

    def checkpoint(self, path: Path) -> Checkpoint:
        """Load the checkpoint in a file.

        Raises:
            UserError: it reads tokens of another encoder, or was trained on other words.
        """
        checkpoint = Checkpoint.load(path)
        if checkpoint.vocabulary_sha256 not in (None, self.vocabulary.fingerprint()):
            raise UserError(
                f"{path} was trained with a vocabulary other than {paths.VOCABULARY}. Train it "
                "again on these reports."
            )
        if self.params.model.lsu:
            info = TokenCacheInfo.load(paths.TOKENS_INFO)
            encoder = checkpoint.encoder_sha256 or "none (it reads pixels)"
            info.refuse_other_encoder(encoder, str(path))
        return checkpoint

    def trained(self, path: Path) -> tuple[Checkpoint, UAR]:
        """Load a checkpoint and its model, in evaluation mode on the device of params.yaml."""
        checkpoint = self.checkpoint(path)
        return checkpoint, checkpoint.build().to(resolve_device(self.params.device)).eval()

    def writer(self, model: UAR) -> UAR | Ensemble:
        """The model, together with those of `decode.ensemble` where it names any."""
        return together([model, *self.others(self.params.decode.ensemble, model)])

    def others(self, files: Sequence[Path], model: UAR) -> list[UAR]:
        """Load models of other runs that can write together with `model`, as `trained` does.

        Raises:
            UserError: as in `checkpoint` and `refuse_other_member`; or a file does not say which
                words its model knows.
        """
        found = []
        for path in map(paths.external, files):
            checkpoint, other = self.trained(path)
            if checkpoint.vocabulary_sha256 is None:
                raise UserError(
                    f"{path} does not say which vocabulary its model was trained with: an earlier "
                    "version of this project wrote it. Train it again."
                )
            refuse_other_member(model, other, str(path))
            found.append(other)
        return found
