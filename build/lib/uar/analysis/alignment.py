"""Figure 4: how alike images and reports are, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from uar.analysis.drawing import BLUE, GRAY, new_figure
from uar.evaluation.published import published_alignment_scores

THRESHOLD = 0.5


def min_max(cosine: np.ndarray) -> np.ndarray:
    """A matrix moved and scaled to [0, 1]; zeros where all its values are the same."""
    low, high = cosine.min(), cosine.max()
    return (cosine - low) / (high - low) if high > low else np.zeros_like(cosine)


def alignment_metrics(cosine: np.ndarray) -> dict[str, float]:
    """Share of radiograph-report pairs above 0.5 after min-max (footnote 3).

    The paper leaves open whether pairs are all of the heatmap's or the true ones: `score` counts
    all, `score_true_pairs` the diagonal, under the same normalisation.

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


def draw_alignment(matrices: Mapping[str, np.ndarray], split: str) -> Figure:
    """Scores beside the paper's, and a heatmap for each model.

    Args:
        matrices: cosine `(S, S)` of each model, by its name.
        split: in words.
    """
    studies = len(next(iter(matrices.values())))
    figure = new_figure(
        4.0 + 4.2 * len(matrices),
        4.4,
        f"Alignment of images and reports, {studies} studies of {split}",
    )
    bars, *maps = figure.subplots(1, 1 + len(matrices), width_ratios=[3.4] + [4] * len(matrices))
    paper = {f"paper: {name}": score for name, score in published_alignment_scores().items()}
    ours = {name: alignment_metrics(cosine)["score"] for name, cosine in matrices.items()}
    scores = paper | ours
    drawn = bars.bar(
        range(len(scores)),
        [100 * score for score in scores.values()],
        color=[GRAY] * len(paper) + [BLUE] * len(ours),
    )
    bars.bar_label(drawn, fmt="%.0f", fontsize=8)
    bars.set_xticks(range(len(scores)), scores, rotation=35, ha="right", fontsize=8)
    bars.set_ylabel("pairs with normalised cosine > 0.5, %", fontsize=8)
    bars.set_ylim(0, 105)
    bars.tick_params(axis="y", labelsize=7)
    bars.set_title("alignment score (the paper: IU X-Ray)", fontsize=9)
    for axes, (name, cosine) in zip(maps, matrices.items(), strict=True):
        image = axes.imshow(min_max(cosine), cmap="viridis", vmin=0, vmax=1, interpolation="none")
        axes.set_title(f"{name}: cosine {cosine.min():.2f} to {cosine.max():.2f}", fontsize=9)
        axes.set_xlabel("report", fontsize=8)
        axes.set_ylabel("image", fontsize=8)
        axes.tick_params(labelsize=7)
    bar = figure.colorbar(image, ax=maps, shrink=0.8)
    bar.set_label("cosine after min–max", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure
