"""What the figures have in common: films, texts, and PNG files with the same bytes each time."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uar.core.files import whole_file

BLUE, ORANGE, GREEN, GRAY = "#2f6690", "#d1793a", "#3f7d4e", "#8a8a8a"
_DPI = 130


def new_figure(width: float, height: float, title: str) -> Figure:
    """A figure of `width` by `height` inches; free of pyplot, so that no state is left behind."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure; without the metadata that would tell versions apart."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})


def show_film(axes: Axes, pixels: np.ndarray) -> None:
    """A film `(H, W)` in [0, 1], in coordinates that are shares of its width and height."""
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=(0, 1, 1, 0))
    axes.set_xticks([])
    axes.set_yticks([])


def show_text(axes: Axes, text: str, line: int, lines: int) -> None:
    """A text in lines of `line` characters, cut after `lines` of them."""
    wrapped = textwrap.wrap(text, line, max_lines=lines, placeholder=" …")
    axes.set_axis_off()
    axes.text(0, 1, "\n".join(wrapped), va="top", fontsize=7.5, parse_math=False)
