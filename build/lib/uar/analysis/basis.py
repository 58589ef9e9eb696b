"""Figure 5: is the basis orthogonal, at first and after training?

The paper's figure shows the Gram matrix of another model's memory matrix (R2GenCMN's), almost zero
off its diagonal, to justify an orthogonal subspace. Here it is that subspace itself: B, a fixed
buffer, and B̂ of Eq. 6, which training bends by gain and bias.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from uar.analysis.drawing import BLUE, ORANGE, new_figure


def gram(basis: Tensor) -> np.ndarray:
    """Cosines of a basis's columns, `(d, d)`: I if they are orthogonal.

    Columns, since the rows of `(2048, d)` cannot be orthogonal; of unit length, so that B and B̂,
    whose gain starts at sqrt(2048), share a scale.
    """
    columns = torch.nn.functional.normalize(basis.double(), dim=0)
    return (columns.T @ columns).numpy()


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    """The entries off the diagonal, `(d * (d - 1),)`."""
    return matrix[~np.eye(len(matrix), dtype=bool)]


def gram_metrics(matrix: np.ndarray) -> dict[str, float]:
    """How far columns are from orthogonal."""
    entries = np.abs(off_diagonal(matrix))
    return {"mean_abs_cosine": float(entries.mean()), "max_abs_cosine": float(entries.max())}


def draw_gram(matrices: Mapping[str, np.ndarray], kind: str) -> Figure:
    """A heatmap for each basis, and all their entries off the diagonal.

    Args:
        matrices: `gram` of each basis, by its name.
        kind: of subspace (Table 3).
    """
    figure = new_figure(13, 4.4, f"Gram matrix of the {kind} basis, columns of unit length")
    *maps, histogram = figure.subplots(1, 1 + len(matrices))
    largest = max(float(np.abs(off_diagonal(matrix)).max()) for matrix in matrices.values())
    edges = np.linspace(-1.05 * largest, 1.05 * largest, 82)
    for axes, color, (name, matrix) in zip(maps, (BLUE, ORANGE), matrices.items(), strict=True):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("column", fontsize=8)
        axes.set_ylabel("column", fontsize=8)
        axes.tick_params(labelsize=7)
        histogram.hist(off_diagonal(matrix), edges, histtype="step", color=color, label=name)
    bar = figure.colorbar(image, ax=maps, shrink=0.8)
    bar.set_label("cosine", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    histogram.set_yscale("log")
    histogram.set_title("off the diagonal", fontsize=9)
    histogram.set_xlabel("cosine", fontsize=8)
    histogram.set_ylabel("pairs of columns", fontsize=8)
    histogram.tick_params(labelsize=7)
    histogram.legend(fontsize=8, loc="upper right")
    return figure
