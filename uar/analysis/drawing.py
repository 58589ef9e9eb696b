"""What the figures have in common: sizes for print, films, texts, PNG and PDF files.

The same figure gives the same bytes each time.
"""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from uar.core.files import atomic_write, write_csv

BLUE, ORANGE, GREEN, GRAY, CYAN = "#2f6690", "#d1793a", "#3f7d4e", "#8a8a8a", "#5ce1e6"
PAGE_WIDTH = 7.0  # inches between the margins of a two-column page
SMALL = 6.5  # points, the smallest type used
_DPI = 220  # of the PNG
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "pdf.fonttype": 42,  # text stays text, as publishers ask
    "svg.hashsalt": "uar",  # else its ids are drawn at random
}


class Caption(NamedTuple):
    """What stands above a figure on the screen."""

    title: str
    text: str  # what to see in it, in a sentence or two


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` by `height` inches, drawn at the size it is printed at.

    Without a title, which `save_figure` puts above it. Free of pyplot: no state is left behind.
    """
    mpl.rcParams.update(_STYLE)
    return Figure(figsize=(width, height), layout="constrained")


@dataclass(frozen=True)
class Destination:
    """Where figures go.

    Attributes:
        screen: folder of PNG files with captions.
        print: folder of PDF files without.
        numbers: folder of CSV files, the numbers behind the figures.
        curves: the page of training curves.
    """

    screen: Path
    print: Path
    numbers: Path
    curves: Path

    def save(self, name: str, figure: Figure, caption: Caption) -> None:
        """Write a figure, for the screen and for print."""
        save_figure(
            figure, caption, png=self.screen / f"{name}.png", pdf=self.print / f"{name}.pdf"
        )

    def write_numbers(self, name: str, table: pd.DataFrame, *, index: bool = False) -> None:
        """Write the numbers behind a figure."""
        write_csv(self.numbers / f"{name}.csv", table, index=index, float_format="%.5g")


def save_figure(figure: Figure, caption: Caption, *, png: Path, pdf: Path) -> None:
    """Write a figure for the screen, with its caption, and for print, where the page has one.

    Neither file holds the metadata that tells runs apart.
    """
    parts = [_image(_heading(caption, figure.get_figwidth())), _image(figure)]
    whole = Image.new("RGB", (parts[1].width, sum(part.height for part in parts)), "white")
    whole.paste(parts[0], (0, 0))
    whole.paste(parts[1], (0, parts[0].height))
    with atomic_write(png) as temporary:
        whole.save(temporary, format="png", dpi=(_DPI, _DPI))
    with atomic_write(pdf) as temporary:
        metadata = {"Creator": None, "Producer": None, "CreationDate": None}
        figure.savefig(temporary, format="pdf", dpi=_DPI, metadata=metadata)


def _heading(caption: Caption, width: float) -> Figure:
    """A caption as a figure of its own, `width` inches wide."""
    text = textwrap.wrap(caption.text, round(17 * width))
    mpl.rcParams.update(_STYLE)
    heading = Figure(figsize=(width, 0.34 + 0.15 * len(text)))
    top = heading.get_figheight()
    heading.text(0.01, 1 - 0.06 / top, caption.title, va="top", fontsize=10, fontweight="bold")
    heading.text(0.01, 1 - 0.29 / top, "\n".join(text), va="top", fontsize=8, parse_math=False)
    return heading


def _image(figure: Figure) -> Image.Image:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=_DPI)
    return Image.open(written).convert("RGB")


def signed(value: float, decimals: int) -> str:
    """A number in print, with a minus sign where it is negative."""
    return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def show_film(axes: Axes, pixels: np.ndarray) -> None:
    """A film `(H, W)` in [0, 1], in coordinates that are shares of its width and height."""
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=(0, 1, 1, 0))
    axes.set_xticks([])
    axes.set_yticks([])


def show_films(axes: Axes, films: np.ndarray) -> None:
    """A study's films `(V, H, W)` in [0, 1], side by side."""
    for i, pixels in enumerate(films):
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=(1.03 * i, 1.03 * i + 1, 1, 0))
    axes.set_xlim(0, 1.03 * len(films) - 0.03)
    axes.set_ylim(1, 0)
    axes.set_anchor("NW")
    axes.set_axis_off()


def show_text(axes: Axes, text: str, *, line: int, lines: int) -> None:
    """A text in lines of `line` characters, cut after `lines` of them."""
    axes.set_axis_off()
    axes.text(0, 1, wrap(text, line, lines), va="top", fontsize=SMALL, parse_math=False)


def wrap(text: str, line: int, lines: int | None = None) -> str:
    """A report in lines of `line` characters, of which none begins with a full stop."""
    kept = text.replace(" .", "\N{NO-BREAK SPACE}.")
    return "\n".join(textwrap.wrap(kept, line, max_lines=lines, placeholder=" …"))


def outline(
    axes: Axes, box: tuple[float, float, float, float], *, color: str, style: str = "-"
) -> None:
    """A box's edge: x0, y0, x1, y1 in shares of a film's width and height."""
    x0, y0, x1, y1 = box
    edge = Rectangle(
        (x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=1, linestyle=style
    )
    axes.add_patch(edge)
