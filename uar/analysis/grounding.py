"""Does a finding's word attend to the finding? Measured where boxes are known (the demo)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from uar.analysis.drawing import BLUE, GRAY, ORANGE, PAGE_WIDTH, new_figure
from uar.analysis.run import TrainedRun, slug
from uar.analysis.saving import Caption, Destination
from uar.data.study import Box
from uar.evaluation.calibration import wilson
from uar.inference.word_attention import word_attention

log = logging.getLogger(__name__)

CAPTION = Caption(
    "Grounding: does attention fall on the finding?",
    "For each finding with a known box: attention of its word in the true report, with 95 % "
    "intervals. Points to the right of the black mark are better than chance.",
)

_RESAMPLES = 1000  # of the studies, by bootstrap
MEASURES = {
    "pointing": "most attended cell touches the box, %",
    "inside": "share of the image's attention in the box, %",
}


class FindingWord(NamedTuple):
    """A finding on a film, and the word of the report that names it."""

    study: int  # row of the split
    position: int  # of the word in its report
    view: int  # film of the study
    finding: str
    box: Box  # of the finding on that film


def make_figures(run: TrainedRun, to: Destination) -> dict[str, Any]:
    """Compare the attention of true reports' finding words with known boxes; None without boxes."""
    words = [report.split() for report in run.reports]
    found = mentions(run.boxes, run.ids, reports=words, present=run.present)
    if not found:
        log.info("analyze: no grounding: the data set has no boxes")
        return {"grounding": None}
    tables = {}
    for name, model in run.by_refiner.items():
        maps = word_attention(
            model, run.studies, run.params.decode.batch_size, f"grounding, {name}"
        )
        tables[name] = grounding_table(
            found, maps, study_ids=run.ids, views=run.studies.rows.shape[1]
        )
    summary = grounding_summary(tables)
    to.save("grounding", draw_grounding(summary), CAPTION)
    to.write_numbers("grounding_summary", summary)
    to.write_numbers("grounding", pd.concat(tables, names=["model"]).reset_index("model"))
    metrics = grounding_metrics({slug(name): table for name, table in tables.items()})
    return {"grounding": metrics}


def head_word(finding: str) -> str:
    """The word that stands for a finding: the last of its name."""
    return finding.split()[-1]


def mentions(
    boxes: pd.DataFrame,
    study_ids: Sequence[str],
    *,
    reports: Sequence[Sequence[str]],
    present: np.ndarray,
) -> list[FindingWord]:
    """The boxes whose finding the study's report names, each with the first mention of it.

    Args:
        boxes: `uar.data.study.BOX_COLUMNS`; those of other studies are ignored.
        study_ids: names of S studies.
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
            found.append(FindingWord(study, position, view, row.finding, box))
    return found


def coverage(box: Box, side: int) -> np.ndarray:
    """Share of each cell of a `side` by `side` grid that lies in the box, `(side, side)`."""
    edges = np.linspace(0, 1, side + 1)

    def along(low: float, high: float) -> np.ndarray:
        inside = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
        return inside.clip(min=0) * side

    x0, y0, x1, y1 = box
    return np.outer(along(y0, y1), along(x0, x1))


def score_mention(attention: np.ndarray, box: Box) -> dict[str, float]:
    """Score one word's attention over one film against its box.

    The pointing game (Zhang et al. 2018): does the most attended cell touch the box? Chance is the
    share of cells that do; for the attention inside the box, it is the box's share of the film.

    Args:
        attention: `(side, side)`, non-negative; taken to be uniform within a cell.
        box: the finding's box.
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
    found: Iterable[FindingWord], attention: np.ndarray, *, study_ids: Sequence[str], views: int
) -> pd.DataFrame:
    """A row for each mention, with `score_mention`'s values.

    Args:
        found: mentions in S studies' reports.
        attention: `(S, T, L)`, `uar.inference.word_attention.word_attention`.
        study_ids: names of the S studies.
        views: V, the films of a study.
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
    """Means over mentions for each model, and chance, which is the same for all.

    With two models there is also `difference`, the second minus the first, paired by mention, with
    `interval_over_studies`.
    """
    first, *others = tables.values()
    differences = {}
    for other in others:
        for measure in MEASURES:
            paired = (other[measure] - first[measure]).to_numpy()
            low, high = interval_over_studies(paired, first["study_id"].tolist())
            differences[measure] = {"mean": float(paired.mean()), "low": low, "high": high}
    return {
        "mentions": len(first),
        "chance": {
            "pointing": float(first["pointing_chance"].mean()),
            "inside": float(first["inside_chance"].mean()),
        },
        **{
            name: {key: float(table[key].mean()) for key in MEASURES}
            for name, table in tables.items()
        },
        **({"difference": differences} if differences else {}),
    }


def interval_over_studies(values: np.ndarray, studies: Sequence[str]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean over mentions; studies are drawn, not mentions.

    A study's two films and its findings are not independent draws.

    Args:
        values: one for each of N mentions.
        studies: the study of each mention.
    """
    groups = pd.Series(values).groupby(list(studies)).agg(["sum", "count"]).to_numpy()
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(groups), (_RESAMPLES, len(groups)))
    sums = groups[drawn].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return float(low), float(high)


def grounding_summary(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row for each model, measure and finding, and for all findings together.

    Columns: model, measure, finding, mentions, mean, low, high, chance. The interval is
    `interval_over_studies`; where all mentions touch their box or none does, so that every resample
    is the same, it is `wilson` over the studies.
    """
    rows = []
    for model, table in tables.items():
        groups = [*table.groupby("finding"), ("all", table)]
        for measure in MEASURES:
            for finding, group in groups:
                values = group[measure].to_numpy()
                low, high = interval_over_studies(values, group["study_id"].tolist())
                if measure == "pointing" and values.mean() in (0, 1):
                    studies = group["study_id"].nunique()
                    low, high = wilson(round(values.mean() * studies), studies)
                chance = float(group[f"{measure}_chance"].mean())
                rows.append(
                    (model, measure, finding, len(group), float(values.mean()), low, high, chance)
                )
    columns = ["model", "measure", "finding", "mentions", "mean", "low", "high", "chance"]
    return pd.DataFrame(rows, columns=columns)


def draw_grounding(summary: pd.DataFrame) -> Figure:
    """Draw both measures by finding: each model's mean with its interval, and chance.

    Args:
        summary: `grounding_summary`.
    """
    counts = summary.drop_duplicates("finding").set_index("finding")["mentions"]
    labels = [f"{finding}, n = {count}" for finding, count in counts.items()]
    figure = new_figure(PAGE_WIDTH, 0.9 + 0.22 * len(labels))
    grid = figure.subplots(1, len(MEASURES), sharey=True)
    places = np.arange(len(labels))
    for axes, (measure, title) in zip(grid, MEASURES.items(), strict=True):
        of_measure = summary[summary["measure"] == measure]
        models = list(of_measure.groupby("model", sort=False))
        chance = 100 * models[0][1]["chance"]
        axes.scatter(chance, places, marker="|", s=60, color="black", label="chance")
        for i, ((name, rows), color) in enumerate(zip(models, (ORANGE, BLUE), strict=False)):
            mean = 100 * rows["mean"]
            error = [mean - 100 * rows["low"], 100 * rows["high"] - mean]
            axes.errorbar(
                mean, places + 0.24 * (i - (len(models) - 1) / 2), xerr=error,
                fmt="o", markersize=3, elinewidth=1, color=color, label=name,
            )  # fmt: skip
        axes.set_xlabel(title)
        axes.set_xlim(-3, 103)
        axes.grid(axis="x", linewidth=0.4, alpha=0.5)
        axes.axhline(len(labels) - 1.5, color=GRAY, linewidth=0.6)
    grid[0].set_yticks(places, labels)
    grid[0].invert_yaxis()
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    return figure
