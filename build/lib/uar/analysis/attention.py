"""Figure 7: where the decoder looks while it writes a word."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from uar.analysis.drawing import new_figure, show_film
from uar.analysis.grounding import head_word
from uar.evaluation.page.heatmap import heatmap_ceiling

# What radiologists look for, and where: the words whose attention the figure shows.
FINDINGS = (
    "cardiomegaly", "enlarged", "effusion", "effusions", "pneumothorax", "consolidation", "nodule",
    "nodules", "mass", "atelectasis", "edema", "opacity", "opacities", "infiltrate", "pneumonia",
    "granuloma", "scarring", "emphysema", "hyperinflation", "hyperexpanded", "fracture",
    "degenerative", "pacemaker", "catheter", "hernia",
)  # fmt: skip
PLACES = (
    "heart", "cardiac", "cardiomediastinal", "mediastinum", "mediastinal", "aorta", "lungs", "lung",
    "pulmonary", "pleural", "costophrenic", "diaphragm", "bony", "osseous", "spine", "ribs",
)  # fmt: skip
NEGATIONS = ("no", "not", "without", "negative", "free", "normal", "clear", "unremarkable")
SHOWN = 5  # words of a report


def asserted_findings(words: Sequence[str]) -> list[int]:
    """Positions of the words of `FINDINGS` in sentences that negate nothing."""
    positions: list[int] = []
    start = 0
    for end in [i for i, word in enumerate(words) if word == "."] + [len(words)]:
        sentence = range(start, end)
        if not any(words[i] in NEGATIONS for i in sentence):
            positions += [i for i in sentence if words[i] in FINDINGS]
        start = end + 1
    return positions


def shown_words(words: Sequence[str]) -> list[int]:
    """Positions of the words that the figure shows, in the report's order, each word once.

    Findings that the report asserts come before places, these before findings that it denies.
    """
    asserted = asserted_findings(words)
    places = [i for i, word in enumerate(words) if word in PLACES]
    others = [i for i, word in enumerate(words) if word in FINDINGS]
    chosen: dict[str, int] = {}
    for i in asserted + places + others:
        chosen.setdefault(words[i], i)
    return sorted(list(chosen.values())[:SHOWN])


def telling_studies(reports: Sequence[Sequence[str]], count: int) -> list[int]:
    """The studies all of whose reports assert the most findings in common, the first of equals.

    Args:
        reports: for each study its report and each model's, words joined by blanks.
        count: how many studies.
    """
    common = []
    for of_study in reports:
        each = [text.split() for text in of_study]
        found = [{words[i] for i in asserted_findings(words)} for words in each]
        common.append(len(set.intersection(*found)))
    return np.argsort(-np.array(common), kind="stable")[:count].tolist()


@dataclass(frozen=True)
class Written:
    """A report and the attention that it was written with."""

    words: list[str]
    attention: np.ndarray  # (T, L)

    def maps(self, position: int, views: int) -> np.ndarray:
        """A word's attention over each film, `(V, side, side)`, in multiples of uniform."""
        row = self.attention[position].reshape(views, -1)
        side = round(row.shape[1] ** 0.5)
        return row.reshape(views, side, side) * self.attention.shape[1]


def attention_table(written: Mapping[str, Written], views: int) -> pd.DataFrame:
    """The numbers behind the figure: a row for each model, word, film and cell."""
    rows = []
    for name, report in written.items():
        for position in shown_words(report.words):
            maps = report.maps(position, views)
            for (view, top, left), value in np.ndenumerate(maps):
                rows.append((name, position, report.words[position], view, top, left, float(value)))
    columns = ["model", "position", "word", "view", "row", "column", "times_uniform"]
    return pd.DataFrame(rows, columns=columns)


def draw_attention(
    written: Mapping[str, Written],
    films: np.ndarray,
    reference: str,
    boxes: pd.DataFrame,
    title: str,
) -> Figure:
    """A block for each model: its report, and for each film a row of words' heatmaps.

    Args:
        written: each model's report, by the model's name.
        films: `(V, H, W)` in [0, 1].
        reference: the true report.
        boxes: known boxes of this study, `uar.data.study.BOX_COLUMNS`; may be empty.
        title: of the figure.
    """
    views = len(films)
    shown = {name: shown_words(report.words) for name, report in written.items()}
    maps = {
        (name, position): report.maps(position, views)
        for name, report in written.items()
        for position in shown[name]
    }
    ceiling = heatmap_ceiling(np.stack(list(maps.values()))) if maps else 1.0
    scale = PowerNorm(0.5, vmin=0, vmax=ceiling, clip=True)  # weak attention shows beside strong
    columns = 1 + max(map(len, shown.values()))
    figure = new_figure(
        max(6.0, 1.7 * columns + 0.9), 0.9 + len(written) * (0.7 + 1.75 * views), ""
    )
    figure.suptitle(
        f"{title}\ntrue report: {_lines(reference, columns)}", fontsize=9, parse_math=False
    )
    blocks = figure.subfigures(len(written), 1, squeeze=False)[:, 0]
    for block, (name, report) in zip(blocks, written.items(), strict=True):
        block.suptitle(
            f"{name}: {_lines(' '.join(report.words), columns)}", fontsize=8, parse_math=False
        )
        grid = block.subplots(views, columns, squeeze=False)
        for view, row in enumerate(grid):
            for axes in row:
                axes.set_axis_off()
            row[0].set_axis_on()
            show_film(row[0], films[view])
            for box in boxes[boxes["view"] == view].itertuples():
                _outline(row[0], box)
            for position, axes in zip(shown[name], row[1:], strict=False):
                axes.set_axis_on()
                show_film(axes, films[view])
                heat = maps[name, position][view]
                opacity = (
                    0.8 * scale(heat).filled() ** 1.5
                )  # weak attention leaves the film visible
                axes.imshow(
                    heat, cmap="inferno", norm=scale, alpha=opacity,
                    extent=(0, 1, 1, 0),
                )  # fmt: skip
                for box in boxes[boxes["view"] == view].itertuples():
                    if head_word(box.finding) == report.words[position]:
                        _outline(axes, box)
                if view == 0:
                    axes.set_title(report.words[position], fontsize=9, parse_math=False)
        bar = block.colorbar(ScalarMappable(scale, "inferno"), ax=grid, shrink=0.85, extend="max")
        bar.set_label("attention, × uniform", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


def _lines(text: str, columns: int) -> str:
    return textwrap.fill(text, 10 + 20 * columns)


def _outline(axes: Any, box: Any) -> None:
    corner, size = (box.x0, box.y0), (box.x1 - box.x0, box.y1 - box.y0)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="#5ce1e6", linewidth=1.2))
