"""Does the attention of a finding's word fall on the finding? Where boxes are known (the demo)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from uar.analysis.drawing import BLUE, GRAY, ORANGE, new_figure

Box = tuple[float, float, float, float]  # x0, y0, x1, y1, shares of a film's width and height


class Mention(NamedTuple):
    """A finding on a film, and the word of the report that names it."""

    study: int
    position: int  # of the word
    view: int
    finding: str
    box: Box


def head_word(finding: str) -> str:
    """The word that stands for a finding: the last of its name."""
    return finding.split()[-1]


def mentions(
    boxes: pd.DataFrame,
    study_ids: Sequence[str],
    reports: Sequence[Sequence[str]],
    present: np.ndarray,
) -> list[Mention]:
    """The boxes whose finding the study's report names, at its first mention.

    Args:
        boxes: `uar.data.study.BOX_COLUMNS`; those of other studies are passed over.
        study_ids: of S studies.
        reports: their words, as the model writes them.
        present: `(S, V)` bool, the views that each study has.
    """
    index = {study_id: i for i, study_id in enumerate(study_ids)}
    found = []
    for row in boxes[boxes["study_id"].isin(index.keys())].itertuples():
        study, word, view = index[row.study_id], head_word(row.finding), int(row.view)
        shown = view < present.shape[1] and present[study, view]
        if shown and word in reports[study]:
            position = list(reports[study]).index(word)
            box = (row.x0, row.y0, row.x1, row.y1)
            found.append(Mention(study, position, view, row.finding, box))
    return found


def coverage(box: Box, side: int) -> np.ndarray:
    """Share of each cell of a `side` by `side` grid that lies in the box, `(side, side)`."""
    edges = np.linspace(0, 1, side + 1)

    def along(low: float, high: float) -> np.ndarray:
        inside = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
        return inside.clip(min=0) * side

    x0, y0, x1, y1 = box
    return np.outer(along(y0, y1), along(x0, x1))


def score_mention(
    attention: np.ndarray, box: tuple[float, float, float, float]
) -> dict[str, float]:
    """One word's attention over one film against its box.

    The pointing game (Zhang et al. 2018): does the most attended cell touch the box? Chance is the
    share of cells that do; for the attention inside the box, the box's share of the film.

    Args:
        attention: `(side, side)`, not negative; spread evenly within a cell.
        box: of the finding.
    """
    cells = coverage(box, len(attention))
    total = attention.sum()
    return {
        "pointing": float(cells.flat[attention.argmax()] > 0),
        "pointing_chance": float((cells > 0).mean()),
        "inside": float((attention * cells).sum() / total) if total > 0 else 0.0,
        "inside_chance": float(cells.mean()),
    }


def grounding_table(
    found: Iterable[Mention], attention: np.ndarray, study_ids: Sequence[str], views: int
) -> pd.DataFrame:
    """A row for each mention, with `score_mention`'s values.

    Args:
        found: mentions in S studies' reports.
        attention: `(S, T, L)`, `uar.inference.attention.word_attention`.
        study_ids: of the S studies.
        views: V.
    """
    side = round((attention.shape[2] / views) ** 0.5)
    rows = []
    for mention in found:
        over_views = attention[mention.study, mention.position].reshape(views, side, side)
        rows.append(
            {
                "study_id": study_ids[mention.study],
                "view": mention.view,
                "finding": mention.finding,
                **score_mention(over_views[mention.view], mention.box),
            }
        )
    return pd.DataFrame(rows)


def grounding_metrics(tables: Mapping[str, pd.DataFrame]) -> dict[str, object]:
    """Means over mentions for each model, beside chance, which is the same for all."""
    first = next(iter(tables.values()))
    return {
        "mentions": len(first),
        "chance": {
            "pointing": float(first["pointing_chance"].mean()),
            "inside": float(first["inside_chance"].mean()),
        },
        **{
            name: {key: float(table[key].mean()) for key in ("pointing", "inside")}
            for name, table in tables.items()
        },
    }


def draw_grounding(tables: Mapping[str, pd.DataFrame], split: str) -> Figure:
    """Both measures by finding, for each model and by chance."""
    first = next(iter(tables.values()))
    counts = first["finding"].value_counts().sort_index()
    names = [*counts.index, "all"]
    labels = [f"{name} ({count})" for name, count in counts.items()] + [f"all ({len(first)})"]
    figure = new_figure(
        11, 1.6 + 0.42 * len(names), f"Attention of finding words against known boxes of {split}"
    )
    left, right = figure.subplots(1, 2, sharey=True)
    titles = {
        "pointing": "most attended cell touches the box",
        "inside": "share of the film's attention in the box",
    }
    systems = [("chance", first, "_chance", GRAY)]
    systems += [
        (name, table, "", color)
        for (name, table), color in zip(tables.items(), (ORANGE, BLUE), strict=False)
    ]
    height = 0.8 / len(systems)
    for axes, (key, title) in zip((left, right), titles.items(), strict=True):
        for i, (name, table, suffix, color) in enumerate(systems):
            means = table.groupby("finding")[key + suffix].mean().sort_index()
            values = [*(100 * means), 100 * table[key + suffix].mean()]
            places = np.arange(len(names)) + (i - (len(systems) - 1) / 2) * height
            axes.barh(places, values, height, color=color, label=name)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("mean over mentions, %", fontsize=8)
        axes.set_xlim(0, 100)
        axes.tick_params(labelsize=8)
    left.set_yticks(range(len(names)), labels, fontsize=8)
    left.invert_yaxis()
    right.legend(fontsize=8, loc="lower right")
    return figure
