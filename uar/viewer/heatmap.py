"""A report as a picture: attention over the films, sentence by sentence."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from uar.analysis.heatmap import color_levels, color_scale, opacity
from uar.bundle.report import Report

_SIDE = 256  # pixels of a film
_GAP = 12
_LINE = 30


def overlay(film: np.ndarray, attention: np.ndarray, ceiling: float) -> Image.Image:
    """Lay attention `(side, side)` over a film `(H, W)` uint8; uniform or less leaves it clear."""
    base = Image.fromarray(film).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    colours = color_scale()[color_levels(attention, ceiling)]
    veil = (255 * opacity(attention, ceiling)).round().astype(np.uint8)
    size = (_SIDE, _SIDE)
    heat = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)
    base.paste(heat, (0, 0), Image.fromarray(veil).resize(size, Image.Resampling.NEAREST))
    return base


def heatmap(report: Report) -> Image.Image:
    """Draw a row for each sentence: the films under its words' mean attention."""
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
