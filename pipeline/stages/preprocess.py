"""Report cleaning, and the findings that each report asserts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline import paths
from uar.core.files import write_table
from uar.core.params_file import load_params
from uar.core.progress import progress
from uar.data.study import read_checked, refuse
from uar.data.text import CLEANERS, has_words
from uar.evaluation.clinical.labels import OBSERVATIONS, Label

log = logging.getLogger(__name__)


def preprocess() -> None:
    """Clean every report by the rules of the compared papers, and label the raw one."""
    params = load_params(paths.PARAMS)
    columns = ["study_id", "split", "report", "views"]
    table = read_checked(paths.STUDIES, columns)[columns]
    table["cleaned"] = table["report"].map(CLEANERS[params.report.cleaner])
    wordless = table[~table["cleaned"].map(has_words)]
    refuse(
        [
            f"row {row}: study {study.study_id}: report {study.report!r} has no words once cleaned"
            for row, study in wordless.iterrows()
        ],
        paths.STUDIES,
        "Remove these studies from the raw data set.",
    )
    with torch_hidden():
        from uar.evaluation.clinical.labeller import Labeller  # spaCy takes seconds

    labels = Labeller().label(progress(table["report"], "label", len(table), unit="report"))
    table["findings"] = [
        [name for name, label in zip(OBSERVATIONS, row, strict=True) if label == Label.POSITIVE]
        for row in labels
    ]
    write_table(paths.REPORTS, table)
    lengths = table["cleaned"].str.split().str.len()
    log.info(f"preprocess: {len(table)} reports, {lengths.mean():.1f} words on average")


@contextmanager
def torch_hidden() -> Iterator[None]:
    """Hide torch from imports within the block, unless it is loaded already.

    spaCy's thinc would load it for networks that the rules do not use, which would take most of
    this stage's time.
    """
    loaded = "torch" in sys.modules
    if not loaded:
        sys.modules["torch"] = None  # type: ignore[assignment]  # `import torch` fails
    try:
        yield
    finally:
        if not loaded:
            del sys.modules["torch"]
