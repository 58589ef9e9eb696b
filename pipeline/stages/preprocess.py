"""Report cleaning, and the findings that each report asserts."""

from __future__ import annotations

import logging

from pipeline import paths
from uar.core.config import load_params
from uar.core.files import read_table, write_table
from uar.core.progress import progress
from uar.data.study import refuse
from uar.data.text import CLEANERS, has_words
from uar.evaluation.clinical.labels import OBSERVATIONS, Label

log = logging.getLogger(__name__)


def preprocess() -> None:
    """Clean every report by the rules of the compared papers, and label the raw one."""
    params = load_params(paths.PARAMS)
    table = read_table(paths.STUDIES)[["study_id", "split", "report", "views"]]
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
    from uar.evaluation.clinical.labeller import Labeller  # spaCy takes seconds, --help does not

    labels = Labeller().label(progress(table["report"], "label", len(table), "report"))
    table["findings"] = [
        [name for name, label in zip(OBSERVATIONS, row, strict=True) if label == Label.POSITIVE]
        for row in labels
    ]
    write_table(paths.REPORTS, table)
    lengths = table["cleaned"].str.split().str.len()
    log.info(f"preprocess: {len(table)} reports, {lengths.mean():.1f} words on average")
