"""Which films of a study are used, and in which order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from uar.core.config import DatasetParams
from uar.data.study import Dataset, LeftOut, Study, View, frontal_first, links_out

log = logging.getLogger(__name__)


def choose_films(dataset: Dataset, params: DatasetParams) -> Dataset:
    """The data set with at most `images_per_study` films of each study.

    Two are the first two, the frontal one first under `order_views`. One is the first frontal film,
    or the first of unknown view if none is known to be frontal; a study of only lateral films is
    left out ("no frontal view"). A view that the layout does not state may come from the header of
    a DICOM file.
    """
    per_study = params.images_per_study
    studies: list[Study] = []
    left_out: list[LeftOut] = []
    places: dict[tuple[str, int], int] = {}  # (study, film): the view that it becomes
    turned = by_header = 0
    for study in dataset.studies:
        views = _known_views(study, dataset.images)
        by_header += sum(v != stated for v, stated in zip(views, study.views, strict=True))
        order = frontal_first(views) if per_study == 1 else list(range(len(views)))
        order = order[:per_study]
        if params.order_views:
            order = [order[i] for i in frontal_first([views[i] for i in order])]
        if per_study == 1 and views[order[0]] == "lateral":
            left_out.append(LeftOut(study.study_id, study.image_paths[0], "no frontal view"))
            continue
        turned += order != sorted(order)
        places |= {(study.study_id, film): place for place, film in enumerate(order)}
        paths = tuple(study.image_paths[i] for i in order)
        studies.append(replace(study, image_paths=paths, views=tuple(views[i] for i in order)))
    if by_header and params.name == "iu_xray":
        log.warning(
            f"the views of {by_header} films come from their DICOM headers, but IU X-Ray's say PA "
            "or AP for 1,224 of its 3,032 lateral films. The views of R2Gen's studies come from a "
            "table (dataset.split: r2gen); for others, look at the films or use the layout kaggle"
        )
    if turned:
        log.info(f"the frontal film is put first in {turned} of {len(studies)} studies")
    return replace(
        dataset,
        studies=studies,
        boxes=_moved(dataset.boxes, places),
        left_out=[*dataset.left_out, *left_out],
    )


def _known_views(study: Study, images: Path) -> Sequence[View]:
    return [
        _stated_view(images / path, images) if view == "unknown" else view
        for path, view in zip(study.image_paths, study.views, strict=True)
    ]


def _stated_view(path: Path, images: Path) -> View:
    if links_out(path, images):  # ingest reports it
        return "unknown"
    from uar.data.films import stated_view  # decoders, which `use` can do without

    return stated_view(path)


def _moved(boxes: pd.DataFrame, places: dict[tuple[str, int], int]) -> pd.DataFrame:
    """The boxes of the films that are used, with their new places."""
    films = zip(boxes["study_id"], boxes["view"], strict=True)
    moved = boxes.assign(view=[places.get(film, -1) for film in films])
    return moved[moved["view"] >= 0].astype(boxes.dtypes).reset_index(drop=True)
