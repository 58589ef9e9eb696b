"""Figure 6: what the dVAE's tokens keep of a film."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uar.analysis.drawing import GREEN, ORANGE, PAGE_WIDTH, SMALL, new_figure, outline, show_film
from uar.analysis.run import TrainedRun
from uar.analysis.saving import Caption, Destination
from uar.data.study import Box
from uar.tokens.decoder import load_decoder, reconstruction_quality
from uar.tokens.loading import load_tokenizer

log = logging.getLogger(__name__)

CAPTION = Caption(
    "Figure 6: what the visual tokens keep of an image",
    "Image, its reconstruction from the tokens, and what is lost. What the reconstruction does "
    "not show is hard for the model to see.",
)
_MEASURED_FILMS = 256  # about how many the reconstruction's quality is measured on

_RESIDUAL = 0.5  # end of the residual's colour scale; black to white is 1
_LOST = 0.5  # a finding counts as lost if less than this share is kept


def make_figures(run: TrainedRun, to: Destination) -> dict[str, Any]:
    """Draw Figure 6; the result is None for a model that sees pixels."""
    if not run.params.model.lsu:
        log.info("analyze: no figure6_reconstruction: the model sees pixels (model.lsu: false)")
        return {"reconstruction": None}
    tokenizer = load_tokenizer(run.encoder).to(run.device)
    decoder = load_decoder(run.decoder, tokenizer).to(run.device)
    shown = [(i, int(view)) for i in run.samples for view in np.flatnonzero(run.present[i])]
    raw = run.films(np.array([run.studies.rows[i, view] for i, view in shown]))
    with torch.inference_mode():
        tokens = tokenizer.tokenize(torch.from_numpy(raw).to(run.device))
        copies = decoder.reconstruct(tokens).cpu().numpy()
    names = [f"{run.ids[i]}, {run.view_names(i)[view]}" for i, view in shown]
    boxes = [
        {
            box.finding: (box.x0, box.y0, box.x1, box.y1)
            for box in run.boxes_of(i).itertuples()
            if box.view == view
        }
        for i, view in shown
    ]
    to.save(
        "figure6_reconstruction",
        draw_reconstruction(raw, copies, names=names, boxes=boxes),
        CAPTION,
    )
    table = pd.DataFrame(film_table(raw, copies, names))
    to.write_numbers("figure6_reconstruction", table)
    to.write_numbers("figure6_findings", finding_table(raw, copies, names=names, boxes=boxes))
    rows = run.studies.rows[run.present]
    measured = torch.from_numpy(run.films(rows[:: math.ceil(len(rows) / _MEASURED_FILMS)]))
    return {"reconstruction": reconstruction_quality(tokenizer, decoder, measured.to(run.device))}


def film_table(
    raw: np.ndarray, reconstructed: np.ndarray, names: Sequence[str]
) -> list[dict[str, str | float]]:
    """Errors of each film: mean squared error, peak signal-to-noise ratio in dB, largest error.

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


def kept_share(film: np.ndarray, reconstructed: np.ndarray, box: Box) -> float:
    """Share of the variation in a box that the reconstruction explains: R², clipped at 0.

    1 is a box restored pixel by pixel; 0 is one that a uniform gray would match as well.

    Args:
        film: `(H, W)`.
        reconstructed: likewise.
        box: in shares of the film's width and height.
    """
    height, width = film.shape
    x0, y0, x1, y1 = box
    rows = slice(math.floor(y0 * height), math.ceil(y1 * height))
    columns = slice(math.floor(x0 * width), math.ceil(x1 * width))
    inside = film[rows, columns].astype(np.float64)
    varying = np.square(inside - inside.mean()).sum()
    lost = np.square(inside - reconstructed[rows, columns]).sum()
    return max(0.0, float(1 - lost / varying)) if varying > 0 else 0.0


def finding_table(
    raw: np.ndarray,
    reconstructed: np.ndarray,
    *,
    names: Sequence[str],
    boxes: Sequence[Mapping[str, Box]],
) -> pd.DataFrame:
    """A table of `kept_share` for each known finding: film, finding, kept.

    Args:
        raw: `(N, H, W)` in [0, 1].
        reconstructed: likewise.
        names: of the films.
        boxes: each film's boxes, by finding.
    """
    rows = [
        (name, finding, kept_share(film, copy, box))
        for name, film, copy, of_film in zip(names, raw, reconstructed, boxes, strict=True)
        for finding, box in of_film.items()
    ]
    return pd.DataFrame(rows, columns=["film", "finding", "kept"])


def draw_reconstruction(
    raw: np.ndarray,
    reconstructed: np.ndarray,
    *,
    names: Sequence[str],
    boxes: Sequence[Mapping[str, Box]],
) -> Figure:
    """Draw raw film, reconstruction and residual from left to right, two films per row.

    Known findings are outlined: dashed where the reconstruction keeps less than half of what
    varies in the box.

    Args:
        raw: `(N, H, W)` in [0, 1].
        reconstructed: likewise.
        names: of the films.
        boxes: each film's boxes, by finding; may be empty.
    """
    rows = -(-len(raw) // 2)
    figure = new_figure(PAGE_WIDTH, 0.3 + 1.35 * rows)
    grid = figure.subplots(rows, 6, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    table = film_table(raw, reconstructed, names)
    for i, (film, copy, row) in enumerate(zip(raw, reconstructed, table, strict=True)):
        left, middle, right = grid[i // 2, 3 * (i % 2) : 3 * (i % 2) + 3]
        show_film(left, film)
        left.set_title(row["film"], fontsize=SMALL, loc="left")
        show_film(middle, copy)
        middle.set_title(f"{row['psnr_db']:.1f} dB", fontsize=SMALL, loc="left")
        image = right.imshow(
            film - copy, cmap="RdBu_r", vmin=-_RESIDUAL, vmax=_RESIDUAL, extent=(0, 1, 1, 0)
        )
        right.set_title("residual", fontsize=SMALL, loc="left")
        for finding, box in boxes[i].items():
            kept = kept_share(film, copy, box)
            color, style = (ORANGE, "--") if kept < _LOST else (GREEN, "-")
            for axes in (left, middle):
                outline(axes, box, color=color, style=style)
            middle.text(
                0.02, box[1] - 0.02, f"{finding} {100 * kept:.0f} %", fontsize=5.5, color="white"
            )
    bar = figure.colorbar(image, ax=grid, shrink=0.8, extend="both")
    bar.set_label("raw − reconstruction (black to white is 1)")
    if any(boxes):
        edges = [
            Line2D([], [], color=GREEN, label="finding that is kept (R² ≥ 0.5)"),
            Line2D([], [], color=ORANGE, linestyle="--", label="finding that is lost (R² < 0.5)"),
        ]
        figure.legend(handles=edges, loc="outside lower center", ncols=2, frameon=False)
    return figure
