"""Conversion of the raw layout to a study table and a packed image array."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Annotated

import pandas as pd
import typer

from pipeline import paths
from uar.core.config import DatasetParams
from uar.core.files import (
    atomic_write,
    give_name,
    open_array,
    write_csv,
    write_json,
    write_table,
)
from uar.core.params_file import load_params
from uar.data.duplicates import Duplicates, find_duplicates
from uar.data.packing import Slot, copy_studies, pack_films
from uar.data.readers import read_dataset
from uar.data.study import LEFT_OUT_COLUMNS, SPLITS, Dataset, LeftOut, Study, refuse

log = logging.getLogger(__name__)


def ingest(
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes; 0: one per core.")] = 0,
) -> None:
    """Read the raw data set into one study table and one packed image array."""
    params = load_params(paths.PARAMS)
    per_study = params.dataset.images_per_study
    dataset = read_dataset(_where_it_is(params.dataset), workers)
    slots = _slots(dataset.studies, params.dataset)
    packed = pack_films(
        dataset.images,
        slots,
        size=params.image.size,
        scratch=paths.SCRATCH / "ingest",
        workers=workers,
    )
    bad: dict[int, list[str]] = {}  # by position of the study
    for film, why in packed.faults.items():
        bad.setdefault(slots[film].row // per_study, []).append(why)
    ids = [study.study_id for study in dataset.studies]
    if params.dataset.on_bad_image == "error":
        refuse(
            [f"study {ids[study]}: {why}" for study, reasons in bad.items() for why in reasons],
            params.dataset.root,
            "Restore these images, or leave their studies out with dataset.on_bad_image: skip.",
        )
    duplicates = find_duplicates(
        open_array(packed.array),
        slots,
        dataset.studies,
        per_study=per_study,
        unreadable=set(packed.faults),
    )
    _tell_duplicates(duplicates, params.dataset)
    shared = duplicates.leaking if params.dataset.on_shared_film == "skip" else {}
    left_out = [
        *dataset.left_out,
        *(LeftOut(ids[study], "; ".join(bad[study]), "unreadable image") for study in bad),
        *(LeftOut(ids[i], why, "film of a later split") for i, why in shared.items()),
    ]
    gone = {*bad, *shared}
    dataset = dataset.with_views(packed.views).without(gone)  # as the films' headers state them
    if gone:
        kept = [study for study in range(len(ids)) if study not in gone]
        with atomic_write(paths.IMAGES) as out:
            copy_studies(packed.array, kept, images_per_study=per_study, out=out)
    else:
        give_name(packed.array, paths.IMAGES)
    write_table(paths.STUDIES, dataset.table())
    write_table(paths.BOXES, dataset.boxes)
    write_csv(paths.LEFT_OUT, pd.DataFrame(left_out, columns=LEFT_OUT_COLUMNS))
    summary = summarize(dataset, left_out, per_study)
    header_failed = [
        slots[film].path
        for film in packed.header_failed
        if slots[film].row // per_study not in gone
    ]
    kinds = ("across_splits", "across_studies", "within_studies")
    summary["shared_films"] = {kind: len(getattr(duplicates, kind)) for kind in kinds}
    summary["header_failed"] = header_failed
    _warn(dataset, params.dataset, header_failed)
    write_json(paths.INGEST_SUMMARY, summary)
    log.info(f"ingest: {summary['studies']}, left out: {summary['left_out']} ({paths.LEFT_OUT})")


def _warn(dataset: Dataset, params: DatasetParams, header_failed: list[str]) -> None:
    """Warn about what is odd in a packed data set.

    Args:
        header_failed: paths of films whose header leaves only one gray value.
    """
    if header_failed:
        log.warning(
            f"{len(header_failed)} films have a header that leaves only one gray value; "
            f"percentiles of their pixels were used instead ({paths.INGEST_SUMMARY}, header_failed)"
        )
    if dataset.unknown_heads:
        log.warning(
            f"{sum(dataset.unknown_heads.values())} reports: the section ends at a heading that "
            f"is in no list, such as {next(iter(dataset.unknown_heads))} ({paths.INGEST_SUMMARY}, "
            "ended_by_unknown_head)"
        )
    unknown = sum("unknown" in study.views for study in dataset.studies)
    if params.images_per_study == 1 and unknown:
        log.warning(
            f"{unknown} films may be lateral although dataset.images_per_study is 1: neither the "
            f"layout {params.layout} nor a header states their view"
        )


def _tell_duplicates(duplicates: Duplicates, params: DatasetParams) -> None:
    """Warn about films that occur more than once.

    Raises:
        UserError: some are in two splits, and `dataset.on_shared_film` is "error".
    """
    if params.on_shared_film == "error":
        refuse(
            duplicates.across_splits,
            params.root,
            "Remove one study of each pair, or choose dataset.on_shared_film: skip or keep.",
        )
    for said, where, advice in (
        (duplicates.across_splits, "in two splits", "; dataset.on_shared_film says what becomes "
         f"of them (now: {params.on_shared_film})"),
        (duplicates.across_studies, "in two studies of one split", ""),
        (duplicates.within_studies, "twice in one study", ""),
    ):  # fmt: skip
        if said:
            shown = "; ".join(said[:5]) + ("; ..." if len(said) > 5 else "")
            log.warning(f"{len(said)} films are {where}: {shown}{advice}")


def _where_it_is(params: DatasetParams) -> DatasetParams:
    """Parameters with a root that a queued experiment sees; the demo is generated where it runs."""
    if params.name == "demo":
        return params
    return params.model_copy(update={"root": paths.external(params.root)})


def _slots(studies: list[Study], params: DatasetParams) -> list[Slot]:
    """The rows of each film; a missing view's row repeats the study's last film or is black."""
    slots: list[Slot] = []
    for i, study in enumerate(studies):
        first = i * params.images_per_study
        slots += [Slot(path, first + j) for j, path in enumerate(study.image_paths)]
        missing = params.images_per_study - len(study.image_paths)
        if missing:
            repeat = params.missing_view == "repeat"
            last = slots[-1]
            slots[-1] = (
                last._replace(copies=1 + missing) if repeat else last._replace(blanks=missing)
            )
    return slots


def summarize(dataset: Dataset, left_out: list[LeftOut], per_study: int) -> dict[str, object]:
    """Counts for the metrics file."""
    reasons = Counter(entry.reason for entry in left_out)
    views = Counter(view for study in dataset.studies for view in study.views)
    return {
        "studies": {split: sum(s.split == split for s in dataset.studies) for split in SPLITS},
        "images": views.total(),
        "views": dict(sorted(views.items())),
        "missing_views": len(dataset.studies) * per_study - views.total(),
        "boxes": len(dataset.boxes),
        "left_out": {"total": len(left_out), **dict(sorted(reasons.items()))},
        "ended_by_unknown_head": dataset.unknown_heads,
    }
