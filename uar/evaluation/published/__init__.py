"""The paper's Tables 1-4 and Figure 4a as printed: its own numbers and those of other systems."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

FOOTNOTES = {  # oddities of the paper as printed, by system
    "SentSAT+KG": "‡ SentSAT+KG: as printed in the paper; with a BLEU-3 of 0.203, a BLEU-4 of "
    "0.417 would need more than every 4-gram to match.",
}


def read_published(name: str) -> dict[str, dict[str, float | None]]:
    """Scores in a table of the paper.

    Args:
        name: of a file in this folder, without `.csv`.

    Returns:
        For each row of the table, a metric's name to its value; None where none is printed.
    """
    scores = _read(name).loc[:, "BLEU-1":].astype(object)
    return scores.where(scores.notna(), None).to_dict("index")


def published_alignment_scores() -> dict[str, float]:
    """Alignment scores of Figure 4 (a), by model of Table 2."""
    return _read("figure4a_alignment")["alignment_score"].to_dict()


def _read(name: str) -> pd.DataFrame:
    path = Path(__file__).with_name(f"{name}.csv")
    return pd.read_csv(path, index_col=0, keep_default_na=False, na_values=[""])
