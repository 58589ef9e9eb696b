"""A report drawn: attention over the films as a picture, and the report in a notebook."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from uar.evaluation.page.heatmap import opacity

if TYPE_CHECKING:
    from uar.bundle.reporter import Report

_SIDE = 256  # pixels of a film
_GAP = 12
_LINE = 30


def overlay(film: np.ndarray, attention: np.ndarray, ceiling: float) -> Image.Image:
    """A film `(H, W)` uint8 under attention `(side, side)`; as much as uniform leaves it clear."""
    base = Image.fromarray(film).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    levels = (255 * np.minimum(attention / ceiling, 1) ** 0.5).round().astype(np.uint8)
    colours = (matplotlib.colormaps["inferno"](levels)[..., :3] * 255).round().astype(np.uint8)
    veil = (255 * opacity(attention, ceiling)).round().astype(np.uint8)
    size = (_SIDE, _SIDE)
    heat = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)
    base.paste(heat, (0, 0), Image.fromarray(veil).resize(size, Image.Resampling.NEAREST))
    return base


def heatmap(report: Report) -> Image.Image:
    """A row for each sentence: the films under its words' mean attention."""
    views = [v for v, there in enumerate(report.present) if there]
    rows = max(1, len(report.sentences))
    width = max(len(views) * (_SIDE + _GAP) + _GAP, 560)
    picture = Image.new("RGB", (width, rows * (_SIDE + _LINE + _GAP) + _GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    means = [report.attention[s.start : s.end].mean(axis=0) for s in report.sentences]
    ceiling = max((float(mean.max()) for mean in means), default=1.0)
    for row, (sentence, mean) in enumerate(zip(report.sentences, means, strict=True)):
        top = _GAP + row * (_SIDE + _LINE + _GAP)
        draw.text((_GAP, top + 4), _fitting(sentence.text, width - 2 * _GAP, font), "black", font)
        for column, view in enumerate(views):
            place = (_GAP + column * (_SIDE + _GAP), top + _LINE)
            picture.paste(overlay(report.films[view], mean[view], max(ceiling, 1.01)), place)
    return picture


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while len(text) > 4 and font.getlength(text) > width:
        text = text[:-2].rstrip("… ") + "…"
    return text


def notebook_html(report: Report) -> str:
    """Films and sentences, less certain ones underlined by dots, for a notebook."""
    films = "".join(
        f'<img alt="{view} film as the model sees it" width="192" '
        f'style="image-rendering:pixelated;margin-right:4px" src="data:image/png;base64,'
        f'{png(film)}">'
        for film, view, there in zip(report.films, report.views, report.present, strict=True)
        if there
    )
    sentences = " ".join(
        f'<span title="certainty {np.exp(s.log_probability):.0%} a word">'
        f"{html.escape(s.text)}</span>"
        for s in report.sentences
    )
    notes = "".join(f"<p><em>{html.escape(note)}</em></p>" for note in report.notes)
    return (
        f'<div style="max-width:45em"><div>{films}</div><p>{sentences}</p>{notes}'
        "<p><small>Draft by a research model, not for clinical use.</small></p></div>"
    )


def png(film: np.ndarray) -> str:
    """A film as PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(film).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
