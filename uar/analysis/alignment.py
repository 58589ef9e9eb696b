"""Figure 4: how alike images and reports are, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from uar.analysis.drawing import BLUE, GRAY, PAGE_WIDTH, new_figure, signed
from uar.analysis.run import TrainedRun, slug
from uar.analysis.saving import Caption, Destination
from uar.evaluation.published import published_alignment_scores

THRESHOLD = 0.5


def make_figures(run: TrainedRun, to: Destination) -> dict[str, Any]:
    """Draw Figure 4: every stage, and the paper's scores where the data set is the same."""
    published = published_alignment_scores() if run.params.dataset.name == "iu_xray" else {}
    metrics = {name: alignment_metrics(cosine) for name, cosine in run.cosine.items()}
    to.save(
        "figure4_alignment",
        draw_alignment(run.cosine, run.reports, published),
        caption({name: of_model["score"] for name, of_model in metrics.items()}),
    )
    for name, cosine in run.cosine.items():
        table = pd.DataFrame(cosine, run.ids, run.ids)
        to.write_numbers(f"figure4_cosine_{slug(name)}", table, index=True)
    return {"alignment": {slug(name): of_model for name, of_model in metrics.items()}}


def caption(scores: Mapping[str, float]) -> Caption:
    """The figure's caption, which states each model's alignment score."""
    percent = {name: round(100 * score) for name, score in scores.items()}
    said = ", ".join(f"{of_model} % in {name}" for name, of_model in percent.items())
    first, last = list(percent.values())[0], list(percent.values())[-1]
    change = " It rises." if last > first else " It falls." if last < first else ""
    return Caption(
        "Figure 4: how well images and reports are aligned",
        f"Share of image-report pairs with a scaled cosine above 0.5: {said}.{change} Similar "
        "reports are neighbours, so alignment shows as bright blocks on the diagonal.",
    )


def min_max(cosine: np.ndarray) -> np.ndarray:
    """Shift and scale a matrix to [0, 1]; zeros if all its values are the same."""
    low, high = cosine.min(), cosine.max()
    return (cosine - low) / (high - low) if high > low else np.zeros_like(cosine)


def alignment_metrics(cosine: np.ndarray) -> dict[str, float]:
    """Share of radiograph-report pairs above 0.5 after min-max (footnote 3).

    The paper leaves open whether all pairs of the heatmap count or only the true ones: `score`
    counts all, `score_true_pairs` the diagonal, under the same normalisation.

    Args:
        cosine: `(S, S)`, images by reports.
    """
    normalised = min_max(cosine)
    return {
        "score": float((normalised > THRESHOLD).mean()),
        "score_true_pairs": float((np.diagonal(normalised) > THRESHOLD).mean()),
        "mean_cosine": float(cosine.mean()),
        "mean_cosine_true_pairs": float(np.diagonal(cosine).mean()),
    }


def draw_alignment(
    matrices: Mapping[str, np.ndarray],
    reports: Sequence[str],
    published: Mapping[str, float],
) -> Figure:
    """Draw a heatmap for each model, with studies sorted by their reports' texts, and the scores.

    Studies with the same or a similar report then lie side by side: what a model aligns shows
    as blocks on the diagonal.

    Args:
        matrices: each model's cosines `(S, S)`, by its name.
        reports: the S studies' reports.
        published: scores on the same data set to show next to ours; empty for another data set.
    """
    order = np.argsort(np.array(reports), kind="stable")
    figure = new_figure(PAGE_WIDTH, 5.4 / (0.6 + len(matrices)) + 0.3)
    bars, *maps = figure.subplots(1, 1 + len(matrices), width_ratios=[0.6] + [1] * len(matrices))
    ours = {name: alignment_metrics(cosine)["score"] for name, cosine in matrices.items()}
    scores = {f"paper:\n{name}": score for name, score in published.items()} | ours
    drawn = bars.bar(
        range(len(scores)),
        [100 * score for score in scores.values()],
        color=[GRAY] * len(published) + [BLUE] * len(ours),
    )
    bars.bar_label(drawn, fmt="%.0f", fontsize=7)
    bars.set_xticks(range(len(scores)), scores, rotation=90)
    bars.set_ylabel("alignment score: pairs > 0.5, %")
    bars.set_ylim(0, 108)
    for axes, (name, cosine) in zip(maps, matrices.items(), strict=True):
        values = min_max(cosine)[np.ix_(order, order)]
        image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, interpolation="none")
        axes.set_title(f"{name}: cosine {signed(cosine.min(), 2)} to {signed(cosine.max(), 2)}")
        axes.set_xlabel("reports, sorted by text")
    maps[0].set_ylabel("images, in the same order")
    bar = figure.colorbar(image, ax=maps, shrink=0.8)
    bar.set_label("cosine, min–max scaled")
    return figure
