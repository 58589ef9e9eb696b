"""Figure 6: what the dVAE's tokens keep of a film."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from uar.analysis.drawing import new_figure, show_film

_RESIDUAL = 0.5  # end of the residual's colour scale, of 1 = black to white


def film_table(
    raw: np.ndarray, reconstructed: np.ndarray, names: Sequence[str]
) -> list[dict[str, str | float]]:
    """Error of each film: mean squared, peak signal-to-noise ratio in dB, largest.

    Args:
        raw: `(N, H, W)` in [0, 1].
        reconstructed: likewise.
        names: of the films.
    """
    residual = raw.astype(np.float64) - reconstructed
    mse = np.square(residual).mean(axis=(1, 2))
    return [
        {
            "film": name,
            "mse": float(error),
            "psnr_db": float(-10 * np.log10(error)),
            "max_abs": float(np.abs(rest).max()),
        }
        for name, error, rest in zip(names, mse, residual, strict=True)
    ]


def draw_reconstruction(
    raw: np.ndarray, reconstructed: np.ndarray, names: Sequence[str], split: str
) -> Figure:
    """Raw film, reconstruction and residual, from left to right, two films a row.

    Args:
        raw: `(N, H, W)` in [0, 1].
        reconstructed: likewise.
        names: of the films.
        split: in words.
    """
    rows = -(-len(raw) // 2)
    figure = new_figure(11, 0.6 + 2.0 * rows, f"dVAE reconstruction of films of {split}")
    grid = figure.subplots(rows, 6, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    table = film_table(raw, reconstructed, names)
    for i, (film, again, row) in enumerate(zip(raw, reconstructed, table, strict=True)):
        left, middle, right = grid[i // 2, 3 * (i % 2) : 3 * (i % 2) + 3]
        show_film(left, film)
        left.set_title(row["film"], fontsize=8)
        show_film(middle, again)
        middle.set_title(f"reconstruction: {row['psnr_db']:.1f} dB", fontsize=8)
        image = right.imshow(film - again, cmap="RdBu_r", vmin=-_RESIDUAL, vmax=_RESIDUAL)
        right.set_title("residual", fontsize=8)
    bar = figure.colorbar(image, ax=grid, shrink=0.8, extend="both")
    bar.set_label("raw − reconstruction (black to white = 1)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure
