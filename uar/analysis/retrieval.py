"""Figure 3: reports retrieved by an image and images retrieved by a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uar.analysis.drawing import GREEN, PAGE_WIDTH, new_figure, show_films, show_text, signed
from uar.analysis.run import TrainedRun
from uar.analysis.saving import Caption, Destination

TOP = 3  # retrieved studies that the figure shows
RECALLS = (1, 5, 10)
CAPTIONS = {
    "image_to_report": Caption(
        "Figure 3: reports retrieved by a study's images",
        "Each row is a study drawn at random: its images, its own report with its rank, and the "
        "reports nearest to the images. Good alignment ranks the study's own report high.",
    ),
    "report_to_image": Caption(
        "Figure 3: images retrieved by a report",
        "Each row is a study drawn at random: its report, its own images with their rank, and the "
        "images nearest to the report.",
    ),
}


def make_figures(run: TrainedRun, to: Destination) -> dict[str, Any]:
    """Draw Figure 3 in both directions, for the trained model."""
    text = run.studies.report_ids.numpy()
    same = text[:, None] == text
    cosine = run.cosine[run.name]
    metrics, ranks = {}, {}
    for query, way, values in (
        ("image", "image_to_report", cosine),
        ("report", "report_to_image", cosine.T),
    ):
        ranks[way] = true_ranks(values, same)
        metrics[way] = retrieval_metrics(ranks[way])
        rows = queries(values, ranks[way], run.samples)
        figure = draw_retrieval(
            query, rows, cosine=values, same=same, films=run.films_of, reports=run.reports
        )
        to.save(f"figure3_{way}", figure, CAPTIONS[way])
        to.write_numbers(f"figure3_{way}", top_table(rows, values, same=same, study_ids=run.ids))
    table = pd.DataFrame({"study_id": run.ids, "cosine": np.diagonal(cosine), **ranks})
    to.write_numbers("figure3_ranks", table)
    return {"retrieval": metrics}


class Query(NamedTuple):
    """A row of the figure."""

    study: int  # row of the split; its image or report is the query
    rank: int  # of the best right answer
    cosine: float  # between the study's image and its own report
    top: list[int]  # retrieved studies, nearest first


def true_ranks(cosine: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Rank, from 1, of the best right answer to each row's query.

    All answers whose report text is the query's are right. A wrong answer that is equally near
    counts as nearer, so that a model that tells nothing apart ranks last, not first.

    Args:
        cosine: `(S, S)`, queries by answers.
        same: `(S, S)` bool, right answers; at least one in each row.
    """
    best = np.where(same, cosine, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((cosine >= best) & ~same).sum(axis=1)


def retrieval_metrics(ranks: np.ndarray) -> dict[str, float]:
    """Share of queries with a right answer among the first k, and the median rank."""
    recalls = {f"R@{k}": float((ranks <= k).mean()) for k in RECALLS}
    return {**recalls, "median_rank": float(np.median(ranks))}


def queries(cosine: np.ndarray, ranks: np.ndarray, samples: Sequence[int]) -> list[Query]:
    """What the figure shows of the sample queries; ties are in the order of the studies."""
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :TOP]
    return [Query(i, int(ranks[i]), float(cosine[i, i]), order[i].tolist()) for i in samples]


def top_table(
    rows: Sequence[Query], cosine: np.ndarray, *, same: np.ndarray, study_ids: Sequence[str]
) -> pd.DataFrame:
    """The numbers behind the figure: each query's nearest answers, their cosines, and if right."""
    return pd.DataFrame(
        {
            "query": study_ids[row.study],
            "true_rank": row.rank,
            "true_cosine": row.cosine,
            "place": place,
            "retrieved": study_ids[found],
            "cosine": float(cosine[row.study, found]),
            "right": bool(same[row.study, found]),
        }
        for row in rows
        for place, found in enumerate(row.top, 1)
    )


def draw_retrieval(
    query: str,
    rows: Sequence[Query],
    *,
    cosine: np.ndarray,
    same: np.ndarray,
    films: Callable[[int], np.ndarray],
    reports: Sequence[str],
) -> Figure:
    """Draw a row for each query: itself, its true counterpart, and what it retrieves.

    Args:
        query: "image" (a study's films) or "report"; the other is retrieved.
        rows: what to show.
        cosine: between queries and candidates, `(S, S)`.
        same: whether a candidate's report text is the query's, `(S, S)`.
        films: gives a study's films `(V, H, W)` in [0, 1], by its place among the S.
        reports: the S studies' reports.
    """
    with_images = query == "image"

    def show(what: str, axes: Axes, study: int) -> None:
        if what == "image":
            show_films(axes, films(study))
        else:
            show_text(axes, reports[study])

    sought = "report" if with_images else "image"
    figure = new_figure(PAGE_WIDTH, 0.2 + (1.45 if with_images else 1.3) * len(rows))
    grid = figure.subplots(
        len(rows),
        2 + TOP,
        squeeze=False,
        width_ratios=[1.6 if with_images else 1.0] + [1] * (1 + TOP),
    )
    for axes, row in zip(grid, rows, strict=True):
        show(query, axes[0], row.study)
        axes[0].set_title(f"{query} query", fontsize=7, loc="left")
        show(sought, axes[1], row.study)
        title = f"true {sought}:\nrank {row.rank}, {signed(row.cosine, 3)}"
        axes[1].set_title(title, fontsize=7, loc="left")
        for place, (found, axis) in enumerate(zip(row.top, axes[2:], strict=False), 1):
            show(sought, axis, found)
            _name(axis, place, cosine=cosine[row.study, found], right=same[row.study, found])
    figure.supxlabel(
        f"★ same report as the query's, word for word; ranks by cosine, of {len(cosine)} studies",
        fontsize=7,
    )
    return figure


def _name(axes: Axes, place: int, *, cosine: float, right: bool) -> None:
    title = f"{'★ ' if right else ''}rank {place}: {signed(cosine, 3)}"
    axes.set_title(title, fontsize=7, loc="left", color=GREEN if right else "black")
