"""Views that no table states, told from the films' pixels.

Fisher's linear discriminant (1936) on films of 16 x 16 pixels, each of mean 0 and deviation 1. It
is learnt from films of the same data set whose view a table states. On IU X-Ray, where the DICOM
headers say PA or AP for 1,224 of 3,032 lateral films, it gives 40 of 5,910 films the wrong view; 7
of 2,931 studies then use a lateral film although they have a frontal one (docs/data.md).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from uar.data.films import standardised
from uar.data.packing import Slot, pack_films
from uar.data.study import Dataset, View

log = logging.getLogger(__name__)

SIDE = 16  # pixels
LEAST = 50  # films of each view; fewer teach nothing
_MOST = 250  # more of them hardly teach more
_SHRINKAGE = 0.1  # of the covariance, towards a multiple of the identity


@dataclass(frozen=True)
class Discriminant:
    """Films `(N, 256)` from `standardised` are lateral where `films @ weights > threshold`."""

    weights: np.ndarray
    threshold: float

    @classmethod
    def between(cls, frontal: np.ndarray, lateral: np.ndarray) -> Discriminant:
        """Learn from films `(N, 256)` of each view, at least two of each."""
        spread = (np.cov(frontal, rowvar=False) + np.cov(lateral, rowvar=False)) / 2
        even = np.trace(spread) / len(spread) * np.eye(len(spread))
        spread = (1 - _SHRINKAGE) * spread + _SHRINKAGE * even
        means = frontal.mean(axis=0), lateral.mean(axis=0)
        weights = np.linalg.solve(spread, means[1] - means[0])
        return cls(weights, float(weights @ (means[0] + means[1]) / 2))

    def views(self, films: np.ndarray) -> list[View]:
        """The view of each film."""
        return ["lateral" if far else "frontal" for far in films @ self.weights > self.threshold]


def tell_views(dataset: Dataset, workers: int) -> Dataset:
    """The data set with a view for each film of unknown view that can be decoded.

    It is unchanged if all views are known, or too few of those of the training studies.

    Args:
        workers: processes that decode films; 0 means one per core.
    """
    unknown = [
        path
        for study in dataset.studies
        for path, view in zip(study.image_paths, study.views, strict=True)
        if view == "unknown"
    ]
    known = {view: _known(dataset, view) for view in ("frontal", "lateral")}
    if not unknown or min(map(len, known.values())) < LEAST:
        return dataset
    paths = [*known["frontal"], *known["lateral"], *unknown]
    films = _decoded(dataset.images, paths, workers)
    frontal, lateral = (
        [films[path] for path in known[view] if path in films] for view in ("frontal", "lateral")
    )
    readable = [path for path in unknown if path in films]
    if not readable or min(len(frontal), len(lateral)) < LEAST:
        return dataset
    views = Discriminant.between(np.stack(frontal), np.stack(lateral)).views(
        np.stack([films[path] for path in readable])
    )
    told = dict(zip(readable, views, strict=True))
    counts = Counter(views)
    log.info(
        f"the views of {len(told)} films are told from their pixels, as no table states them: "
        f"{counts['frontal']} frontal, {counts['lateral']} lateral"
    )
    return dataset.with_views(
        told.get(path, "unknown") for study in dataset.studies for path in study.image_paths
    )


def _known(dataset: Dataset, wanted: str) -> list[str]:
    """At most `_MOST` training films of a view that a table states, spread over the table."""
    paths = [
        path
        for study in dataset.studies
        if study.split == "train"
        for path, view in zip(study.image_paths, study.views, strict=True)
        if view == wanted
    ]
    return paths[:: max(1, -(-len(paths) // _MOST))]


def _decoded(root: Path, paths: Sequence[str], workers: int) -> dict[str, np.ndarray]:
    """Films by path, as `standardised` returns them, without those that cannot be decoded."""
    slots = [Slot(path, row) for row, path in enumerate(paths)]
    with TemporaryDirectory() as folder:
        packed = pack_films(
            root,
            slots,
            size=SIDE,
            scratch=Path(folder) / "films",
            workers=workers,
        )
        films = standardised(np.load(packed.array))
    return {path: films[row] for row, path in enumerate(paths) if row not in packed.faults}
