"""Figure 4: how alike images and reports are, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from uar.analysis.drawing import BLUE, GRAY, PAGE_WIDTH, new_figure, signed

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


def draw_alignment(
    matrices: Mapping[str, np.ndarray],
    reports: Sequence[str],
    published: Mapping[str, float],
) -> Figure:
    """A heatmap for each model, studies in the order of their reports' texts, and the scores.

    Studies with the same or a like report then lie side by side: what a model aligns shows as
    blocks on the diagonal.

    Args:
        matrices: cosine `(S, S)` of each model, by its name.
        reports: of the S studies.
        published: scores of the same data set to show beside; none for another data set.
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
        axes.set_xlabel("report, in order of its text")
    maps[0].set_ylabel("image, in the same order")
    bar = figure.colorbar(image, ax=maps, shrink=0.8)
    bar.set_label("cosine after min–max")
    return figure
