"""Vocabulary of the training reports."""

from __future__ import annotations

import logging

from pipeline import paths
from uar.core.params_file import load_params
from uar.data.study import read_checked
from uar.data.text import Vocabulary

log = logging.getLogger(__name__)


def vocabulary() -> None:
    """Keep the words that are frequent enough in the training reports."""
    params = load_params(paths.PARAMS)
    reports = read_checked(paths.REPORTS, ("split", "cleaned"))
    training = reports.loc[reports["split"] == "train", "cleaned"]
    words = Vocabulary.build(training, params.vocabulary.min_count)
    words.save(paths.VOCABULARY)
    log.info(f"vocabulary: {len(words.words)} words and <unk>")
