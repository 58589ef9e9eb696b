"""Readers of raw layouts: each is one file and one entry in `READERS`, and returns a `Dataset`.

A reader names all films that a study may use; `choice` picks those that it does use.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection

from uar.core.config import DatasetParams
from uar.core.errors import UserError
from uar.data.readers import custom, demo, kaggle, openi, physionet, r2gen
from uar.data.readers.choice import choose_films
from uar.data.readers.told_views import tell_views
from uar.data.study import (
    BOX_COLUMNS,
    SPLITS,
    STUDY_COLUMNS,
    Dataset,
    Layout,
    LeftOut,
    Study,
)

READERS: dict[str, dict[str, Layout]] = {  # dataset.name -> dataset.layout -> reader
    "demo": {"r2gen": demo.LAYOUT},
    "iu_xray": {"r2gen": r2gen.LAYOUT, "openi": openi.LAYOUT, "kaggle": kaggle.LAYOUT},
    "mimic_cxr": {"r2gen": r2gen.LAYOUT, "physionet": physionet.LAYOUT},
    "custom": {"csv": custom.LAYOUT, "r2gen": r2gen.LAYOUT},
}

log = logging.getLogger(__name__)

__all__ = [
    "BOX_COLUMNS",
    "READERS",
    "STUDY_COLUMNS",
    "Dataset",
    "LeftOut",
    "Study",
    "checked_layout",
    "read_dataset",
]


def read_dataset(params: DatasetParams, workers: int = 0) -> Dataset:
    """Read the raw data set that `params.name`, `params.layout` and `params.root` point at.

    Args:
        workers: processes that decode films whose view nothing else tells; 0 means one per core.

    Raises:
        UserError: unknown name or layout, a choice that the layout does not offer, missing root,
            files of another layout or data set, any fault the reader finds, or a split without
            studies.
    """
    dataset = checked_layout(params).read(params)
    if params.name == "iu_xray":  # whose headers are no guide to the view
        dataset = tell_views(dataset, workers)
    dataset = choose_films(dataset, params)
    _refuse_empty_splits(params, dataset)
    foreign = r2gen.foreign(dataset.studies, params.name) if params.layout == "r2gen" else 0
    if foreign:
        log.warning(
            f"{foreign} of {len(dataset.studies)} studies are not named like those of "
            f"{params.name}. If this is another data set, say so, since what is exported or pushed "
            f"follows the terms of {params.name}: `python -m pipeline use custom --layout r2gen "
            f"--root {params.root}`"
        )
    return dataset


def checked_layout(params: DatasetParams) -> Layout:
    """The layout that `params` names, after a quick check of the root.

    Raises:
        UserError: unknown name or layout, a choice that the layout does not offer, missing root, or
            files of another layout or data set.
    """
    _offered("name", params.name, READERS)
    layouts = READERS[params.name]
    _offered("layout", params.layout, layouts, f" for {params.name}")
    layout = layouts[params.layout]
    chosen = f" for {params.name} in the layout {params.layout}"
    _offered("split", params.split, layout.splits, chosen)
    _offered("section", params.section, layout.sections, chosen)
    if layout.marker is not None:
        _refuse_other_layout(params, layout, layout.marker)
    return layout


def _offered(key: str, found: str, known: Collection[str], where: str = "") -> None:
    if found not in known:
        raise UserError(f"dataset.{key}: found {found!r}, expected one of {sorted(known)}{where}.")


def _refuse_other_layout(params: DatasetParams, layout: Layout, marker: str) -> None:
    root = params.root
    if not root.is_dir():
        raise UserError(
            f"dataset.root: there is no folder {root}. Unpack the data set there, or name its "
            f"folder with `python -m pipeline use PRESET --root FOLDER`."
        )
    r2gen_files = bool(any(root.glob(r2gen.LAYOUT.marker or "")))
    recognised = r2gen.recognise(root) if r2gen_files else None
    if any(root.glob(marker)):
        if layout is r2gen.LAYOUT and recognised is not None and recognised[0] != params.name:
            raise UserError(
                f"{root / marker} is of {recognised[0]}, judging by its first film "
                f"{recognised[1]}; dataset.name: found {params.name}. Choose a preset of "
                f"{recognised[0]} with `python -m pipeline use`."
            )
        return
    held = ", ".join(sorted(entry.name for entry in root.iterdir())[:8]) or "an empty folder"
    alike = [
        f"dataset.name: {name} with dataset.layout: {other}"
        for name, layouts in READERS.items()
        for other, candidate in layouts.items()
        if candidate.marker is not None
        and any(root.glob(candidate.marker))
        and not (candidate is r2gen.LAYOUT and recognised is not None and recognised[0] != name)
    ]
    own = [text for text in alike if text.startswith(f"dataset.name: {params.name} ")]
    hints = [f" This looks like {' or '.join(own or alike)}."] if alike else []
    hints += [f" It is in {path.parent}: name that folder." for path in root.glob(f"*/{marker}")]
    raise UserError(
        f"{root / marker} is missing; {root} holds {held}. Expected {layout.contents}."
        + "".join(hints)
    )


def _refuse_empty_splits(params: DatasetParams, dataset: Dataset) -> None:
    held = {study.split for study in dataset.studies}
    empty = [split for split in SPLITS if split not in held]
    if empty:
        reasons = Counter(left.reason for left in dataset.left_out)
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise UserError(
            f"{params.root}: no study for {', '.join(empty)}. "
            f"Read {len(dataset.studies)} studies; left out: {counted or 'none'}."
        )
