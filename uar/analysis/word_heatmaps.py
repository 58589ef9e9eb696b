"""Figure 7: text-to-image attention (Eq. 11) while a word is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uar.analysis.drawing import (
    CYAN,
    PAGE_WIDTH,
    SMALL,
    new_figure,
    outline,
    show_film,
    wrap,
)
from uar.analysis.grounding import head_word
from uar.evaluation.clinical.labels import Label
from uar.evaluation.clinical.phrases import BEYOND, PLACES
from uar.evaluation.page.heatmap import heatmap_ceiling

if TYPE_CHECKING:
    from uar.evaluation.clinical.labeller import Labeller

SHOWN = 5  # words of a report
ALL_WORDS = "all words"  # shown of a report that has none of these
_DIFFERENCE, _CHANGE_MAP = "difference", "RdBu_r"


class NamedFinding(NamedTuple):
    """A finding that a report speaks of."""

    word: int  # position of the last word that names it
    finding: str  # CheXpert's observation, or one of `phrases.BEYOND`
    asserted: bool  # not denied, and not uncertain


def named_findings(reports: Iterable[Sequence[str]]) -> list[list[NamedFinding]]:
    """What the clinical labeller finds in each report, in order.

    Args:
        reports: words of each.
    """
    written = list(reports)
    found = []
    mentions = _labeller().mentions(" ".join(words) for words in written)
    for words, of_report in zip(written, mentions, strict=True):
        ends = np.cumsum([len(word) + 1 for word in words])  # one behind each word's blank
        named = {
            NamedFinding(
                int(np.searchsorted(ends, mention.end)),
                mention.observation,
                mention.label == Label.POSITIVE,
            )
            for mention in of_report
        }
        found.append(sorted(named))
    return found


@cache
def _labeller() -> Labeller:
    from uar.evaluation.clinical.labeller import Labeller  # a second that --help need not wait

    return Labeller(also=BEYOND)


def shown_words(words: Sequence[str]) -> list[int]:
    """Positions of the words that the figure shows, in the report's order, each word once.

    Findings that the report asserts come before places, these before findings that it denies.
    """
    (named,) = named_findings([words])
    asserted = [finding.word for finding in named if finding.asserted]
    places = [i for i, word in enumerate(words) if word in PLACES]
    chosen: dict[str, int] = {}
    for i in asserted + places + [finding.word for finding in named]:
        chosen.setdefault(words[i], i)
    return sorted(list(chosen.values())[:SHOWN])


def studies_with_common_findings(reports: Sequence[Sequence[str]], count: int) -> list[int]:
    """The studies all of whose reports assert the most findings in common, the first of equals.

    Args:
        reports: for each study its report and each model's, words joined by blanks.
        count: how many studies.
    """
    texts = [text.split() for of_study in reports for text in of_study]
    named = iter(named_findings(texts))
    common = []
    for of_study in reports:
        each = [{f.finding for f in next(named) if f.asserted} for _ in of_study]
        common.append(len(set.intersection(*each)))
    return np.argsort(-np.array(common), kind="stable")[:count].tolist()


@dataclass(frozen=True)
class ReportAttention:
    """A report and the attention of one model over it, teacher-forced."""

    words: list[str]  # T of them, as decoded
    attention: np.ndarray  # (T, L), each row sums to 1

    def maps(self, position: int, views: int) -> np.ndarray:
        """A word's attention over each film, `(V, side, side)`, in multiples of uniform."""
        return self._over_films(self.attention[position], views)

    def shown_maps(self, views: int) -> dict[str, np.ndarray]:
        """`maps` of each shown word, by the word; the mean over all words if there is none."""
        shown = {self.words[i]: self.maps(i, views) for i in shown_words(self.words)}
        mean = self.attention[: max(1, len(self.words))].mean(axis=0)
        return shown or {ALL_WORDS: self._over_films(mean, views)}

    def _over_films(self, row: np.ndarray, views: int) -> np.ndarray:
        over_views = row.reshape(views, -1)
        side = round(over_views.shape[1] ** 0.5)
        return over_views.reshape(views, side, side) * len(row)


def attention_table(reports: Mapping[str, ReportAttention], views: int) -> pd.DataFrame:
    """The numbers behind the figure: a row for each model, word, film and cell."""
    rows = []
    for name, report in reports.items():
        for word, maps in report.shown_maps(views).items():
            for (view, top, left), value in np.ndenumerate(maps):
                rows.append((name, word, view, top, left, float(value)))
    return pd.DataFrame(rows, columns=["model", "word", "view", "row", "column", "times_uniform"])


def draw_word_heatmaps(
    reports: Mapping[str, ReportAttention],
    films: np.ndarray,
    views: Sequence[str],
    reference: str,
    boxes: pd.DataFrame,
) -> Figure:
    """For each film a row of heatmaps for each model, and one of what the last adds to the first.

    Args:
        reports: the same report with each model's attention, by the model's name.
        films: `(V, H, W)` in [0, 1].
        views: names of the V films.
        reference: the true report.
        boxes: known boxes of this study, `uar.data.study.BOX_COLUMNS`; may be empty.
    """
    maps = {name: report.shown_maps(len(films)) for name, report in reports.items()}
    words = list(next(iter(maps.values())))
    first, last = list(maps)[0], list(maps)[-1]
    kinds = [*maps] + ([_DIFFERENCE] if first != last else [])
    stacked = np.stack([values[word] for values in maps.values() for word in words])
    # weak attention shows beside strong
    scale = PowerNorm(0.5, vmin=0, vmax=heatmap_ceiling(stacked), clip=True)
    change = {word: maps[last][word] - maps[first][word] for word in words}
    limit = max(float(np.abs(np.stack(list(change.values()))).max()), 1e-6)
    difference = Normalize(-limit, limit)

    rows = len(kinds) * len(films)
    figure = new_figure(PAGE_WIDTH, 0.9 + 1.06 * rows)
    grid = figure.subplots(rows, 1 + SHOWN, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, (view, kind) in enumerate(product(range(len(films)), kinds)):
        of_view = boxes[boxes["view"] == view]
        if kind == kinds[0]:
            show_film(grid[row, 0], films[view])
            grid[row, 0].set_title(views[view], fontsize=7)
            grid[row, 0].set_axis_on()
            for box in of_view.itertuples():
                outline(grid[row, 0], (box.x0, box.y0, box.x1, box.y1), CYAN)
        for axes, word in zip(grid[row, 1:], words, strict=False):
            axes.set_axis_on()
            show_film(axes, films[view])
            if kind == _DIFFERENCE:
                heat = change[word][view]
                opacity = 0.85 * np.abs(heat) / limit
                axes.imshow(heat, _CHANGE_MAP, difference, alpha=opacity, extent=(0, 1, 1, 0))
            else:
                heat = maps[kind][word][view]
                opacity = (
                    0.8 * scale(heat).filled() ** 1.5
                )  # weak attention leaves the film visible
                axes.imshow(heat, "inferno", scale, alpha=opacity, extent=(0, 1, 1, 0))
            for box in of_view.itertuples():
                if head_word(box.finding) == word:
                    outline(axes, (box.x0, box.y0, box.x1, box.y1), CYAN)
            if row == 0:
                axes.set_title(word, parse_math=False)
        grid[row, 1].set_ylabel(kind, fontsize=7)
    upper = grid[: rows // 2] if first != last else grid
    bar = figure.colorbar(ScalarMappable(scale, "inferno"), ax=upper, extend="max", shrink=0.9)
    bar.set_label("attention, × uniform")
    bar.set_ticks([0, *(2.0**n for n in range(-1, 8) if scale.vmax and 2.0**n <= scale.vmax)])
    if first != last:
        lower = grid[rows // 2 :]
        bar = figure.colorbar(ScalarMappable(difference, _CHANGE_MAP), ax=lower, shrink=0.9)
        bar.set_label(f"{last} − {first}, × uniform")
    if len(boxes):
        edge = Line2D(
            [], [], color=CYAN, label="a finding's known box; under a word, its own alone"
        )
        figure.legend(handles=[edge], loc="outside upper left", frameon=False)
    written = f"written: {' '.join(reports[last].words)}"
    caption = "\n".join(wrap(text, 125) for text in (written, f"true: {reference}"))
    figure.supxlabel(caption, fontsize=SMALL, ha="left", x=0.01, parse_math=False)
    return figure
