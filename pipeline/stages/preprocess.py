"""Report cleaning."""

from __future__ import annotations

import logging

from pipeline import paths
from uar.core.config import load_params
from uar.core.files import read_table, write_table
from uar.data.study import refuse
from uar.data.text import CLEANERS, has_words

log = logging.getLogger(__name__)


def preprocess() -> None:
    """Clean every report by the rules of the compared papers."""
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
    write_table(paths.REPORTS, table)
    lengths = table["cleaned"].str.split().str.len()
    log.info(f"preprocess: {len(table)} reports, {lengths.mean():.1f} words on average")
