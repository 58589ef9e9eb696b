"""Are the findings head's probabilities true? Reliability on validation and test."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from uar.analysis.drawing import BLUE, GRAY, ORANGE, PAGE_WIDTH, new_figure
from uar.analysis.run import TrainedRun
from uar.analysis.saving import Caption, Destination
from uar.core.files import read_json
from uar.evaluation.calibration import wilson

log = logging.getLogger(__name__)

CAPTION = Caption(
    "Reliability: can the findings head's probabilities be trusted?",
    "For each range of predicted probability, the share of findings that the reports assert, with "
    "95 % intervals. On the diagonal, the probabilities are right; the calibration's slope and "
    "shift are fitted on validation.",
)
_SPLITS = {"val": "validation", "test": "test"}
_KINDS = {"as_trained": ("as trained", ORANGE, "o"), "calibrated": ("calibrated", BLUE, "s")}


def make_figures(run: TrainedRun, to: Destination) -> dict[str, Any]:
    """Draw the reliability plot from `evaluate`'s details.json; it adds no metrics."""
    if run.model.findings is None:
        log.info("analyze: no reliability: the model has no findings head (model.findings: false)")
        return {}
    head = read_json(run.evaluation)["findings_head"]
    to.save("reliability", draw_reliability(head), CAPTION)
    to.write_numbers("reliability", reliability_table(head))
    return {}


def reliability_table(head: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each split, kind of probability and bin that is not empty.

    Columns: split, probabilities, from, count, predicted, observed, low, high. The interval is
    Wilson's (95 %), as if a study's findings were independent.

    Args:
        head: `findings_head` of `evaluation/details.json`.
    """
    rows = []
    for split in _SPLITS:
        for kind in _KINDS:
            for held in head[split][kind]["bins"]:
                right = round(held["observed"] * held["count"])
                low, high = wilson(right, held["count"])
                row = {"split": split, "probabilities": kind, **held, "low": low, "high": high}
                rows.append(row)
    return pd.DataFrame(rows)


def draw_reliability(head: Mapping[str, Any]) -> Figure:
    """Plot the share that is true against predicted probability, in bins of a tenth.

    Args:
        head: `findings_head` of `evaluation/details.json`.
    """
    table = reliability_table(head)
    figure = new_figure(PAGE_WIDTH, 3.4)
    grid = figure.subplots(1, len(_SPLITS), sharey=True)
    for axes, (split, said) in zip(grid, _SPLITS.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8)
        for kind, (name, color, marker) in _KINDS.items():
            rows = table[(table["split"] == split) & (table["probabilities"] == kind)]
            of_kind = head[split][kind]
            scores = f"{name}: ECE {of_kind['ece']:.3f}, Brier {of_kind['brier']:.4f}"
            axes.errorbar(
                rows["predicted"], rows["observed"],
                yerr=[rows["observed"] - rows["low"], rows["high"] - rows["observed"]],
                fmt=f"{marker}-", markersize=3, linewidth=1, elinewidth=0.7, color=color,
                label=scores,
            )  # fmt: skip
        axes.set_title(said)
        axes.set_xlabel("probability that the head gives")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.25)  # room for the legend
        axes.legend(loc="upper left", frameon=False)
    grid[0].set_ylabel("share of reports that assert the finding")
    return figure
