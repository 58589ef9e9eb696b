"""What the figures have in common: sizes for print, colours, films and texts."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from uar.data.study import Box

BLUE, ORANGE, GREEN, GRAY, CYAN = "#2f6690", "#d1793a", "#3f7d4e", "#8a8a8a", "#5ce1e6"
PAGE_WIDTH = 7.0  # inches between the margins of a two-column page
SMALL = 6.5  # points, the smallest type used
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "pdf.fonttype": 42,  # text stays text, as publishers ask
    "svg.hashsalt": "uar",  # otherwise element ids are random
}


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` by `height` inches, the size it is printed at.

    It has no title, which `save_figure` puts above it, and is not registered with pyplot.
    """
    mpl.rcParams.update(STYLE)
    return Figure(figsize=(width, height), layout="constrained")


def signed(value: float, decimals: int) -> str:
    """Format a number for print, with a true minus sign if it is negative."""
    return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def show_film(axes: Axes, pixels: np.ndarray) -> None:
    """Show a film `(H, W)` in [0, 1], with coordinates in shares of its width and height."""
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=(0, 1, 1, 0))
    axes.set_xticks([])
    axes.set_yticks([])


def show_films(axes: Axes, films: np.ndarray) -> None:
    """Show a study's films `(V, H, W)` in [0, 1], side by side."""
    for i, pixels in enumerate(films):
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=(1.03 * i, 1.03 * i + 1, 1, 0))
    axes.set_xlim(0, 1.03 * len(films) - 0.03)
    axes.set_ylim(1, 0)
    axes.set_anchor("NW")
    axes.set_axis_off()


def show_text(axes: Axes, text: str) -> None:
    """Show a text in lines of 27 characters, cut after 12 lines."""
    axes.set_axis_off()
    axes.text(0, 1, wrap(text, 27, 12), va="top", fontsize=SMALL, parse_math=False)


def wrap(text: str, line: int, lines: int | None = None) -> str:
    """Wrap a report at `line` characters, up to `lines` lines, none starting with a full stop."""
    kept = text.replace(" .", "\N{NO-BREAK SPACE}.")
    return "\n".join(textwrap.wrap(kept, line, max_lines=lines, placeholder=" …"))


def outline(axes: Axes, box: Box, *, color: str, style: str = "-") -> None:
    """Draw a box's edge; x0, y0, x1, y1 are shares of a film's width and height."""
    x0, y0, x1, y1 = box
    edge = Rectangle(
        (x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=1, linestyle=style
    )
    axes.add_patch(edge)
