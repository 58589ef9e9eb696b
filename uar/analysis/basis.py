"""Figure 5: is the basis orthogonal, before and after training?

The paper's figure shows the Gram matrix of another model's memory matrix (R2GenCMN's), almost zero
off its diagonal, to justify an orthogonal subspace. Here it shows that subspace itself: B, a
fixed buffer, and B̂ of Eq. 6, which training bends through a gain and a bias.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from uar.analysis.drawing import BLUE, GRAY, PAGE_WIDTH, new_figure
from uar.analysis.run import TrainedRun
from uar.analysis.saving import Caption, Destination

log = logging.getLogger(__name__)

CAPTION = Caption(
    "Figure 5: the basis before and after training",
    "Left: how much training changed the cosine of each pair of basis columns. Right: all of "
    "these cosines. Columns that stay near 0 are still orthogonal.",
)


def make_figures(run: TrainedRun, to: Destination) -> dict[str, Any]:
    """Draw Figure 5; the result is None for a model without a basis."""
    aligner = run.model.aligner
    if aligner is None:
        log.info("analyze: no figure5_basis: the model has no basis (model.integration: false)")
        return {"basis": None}
    with torch.no_grad():
        matrices = {
            "start": gram(aligner.basis.cpu()),
            "trained": gram(aligner.adjusted_basis().cpu()),
        }
    to.save("figure5_basis", draw_gram(**matrices), CAPTION)
    for name, matrix in matrices.items():
        to.write_numbers(f"figure5_gram_{name}", pd.DataFrame(matrix))
    return {"basis": {name: gram_metrics(matrix) for name, matrix in matrices.items()}}


def gram(basis: Tensor) -> np.ndarray:
    """Cosines between a basis's columns, `(d, d)`: the identity if they are orthogonal.

    It compares columns since the rows of `(2048, d)` cannot be orthogonal, and gives them unit
    length so that B and B̂, whose gain starts at sqrt(2048), share a scale.
    """
    columns = torch.nn.functional.normalize(basis.double(), dim=0)
    return (columns.T @ columns).numpy()


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    """The entries off the diagonal, `(d * (d - 1),)`."""
    return matrix[~np.eye(len(matrix), dtype=bool)]


def gram_metrics(matrix: np.ndarray) -> dict[str, float]:
    """How far the columns are from orthogonal."""
    entries = np.abs(off_diagonal(matrix))
    return {"mean_abs_cosine": float(entries.mean()), "max_abs_cosine": float(entries.max())}


def draw_gram(start: np.ndarray, trained: np.ndarray) -> Figure:
    """Draw what training changed: the difference between Gram matrices, and all their cosines.

    Args:
        start: `gram` of B, `(d, d)`.
        trained: `gram` of B̂.
    """
    figure = new_figure(PAGE_WIDTH, 2.9)
    axes, histogram = figure.subplots(1, 2)
    change = trained - start
    limit = float(np.abs(change).max()) or 1.0
    image = axes.imshow(change, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="none")
    axes.set_xlabel("column of the basis")
    axes.set_ylabel("column of the basis")
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    bar.set_label("change in the cosine through training")
    cosines = {"B, before training": (start, GRAY), "B̂, trained": (trained, BLUE)}
    largest = max(float(np.abs(off_diagonal(matrix)).max()) for matrix, _ in cosines.values())
    edges = np.linspace(-1.05 * largest, 1.05 * largest, 62)
    for name, (matrix, color) in cosines.items():
        histogram.hist(off_diagonal(matrix), edges, histtype="step", color=color, label=name)
    histogram.set_yscale("log")
    histogram.set_xlabel("cosine of two different columns")
    histogram.set_ylabel("pairs of columns")
    histogram.legend(loc="upper right")
    return figure
