"""Figures as files, for the screen and for print; the same figure gives the same bytes."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from uar.analysis.drawing import STYLE
from uar.core.files import atomic_write, write_csv

_DPI = 220  # of the PNG


class Caption(NamedTuple):
    """The heading above a figure on the screen."""

    title: str
    text: str  # what to see in it, in a sentence or two


@dataclass(frozen=True)
class Destination:
    """Where figures go.

    Attributes:
        screen: folder of PNG files with captions.
        print: folder of PDF files without captions.
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
    """Write a figure for the screen with its caption, and for print without, where a paper adds it.

    Neither file holds metadata that differs between runs. The figure's layout is fixed afterwards.
    """
    parts = [_image(_heading(caption, figure.get_figwidth())), _image(figure)]
    figure.set_layout_engine("none")  # lay out only once: it takes as long as drawing
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
    mpl.rcParams.update(STYLE)
    heading = Figure(figsize=(width, 0.34 + 0.15 * len(text)))
    top = heading.get_figheight()
    heading.text(0.01, 1 - 0.06 / top, caption.title, va="top", fontsize=10, fontweight="bold")
    heading.text(0.01, 1 - 0.29 / top, "\n".join(text), va="top", fontsize=8, parse_math=False)
    return heading


def _image(figure: Figure) -> Image.Image:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=_DPI)
    return Image.open(written).convert("RGB")
