"""Figure 7: text-to-image attention (Eq. 11) while a word is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uar.analysis.drawing import CYAN, PAGE_WIDTH, SMALL, new_figure, outline, show_film, wrap
from uar.analysis.grounding import head_word
from uar.analysis.heatmap import COLORS, MOST_OPAQUE, heatmap_ceiling, opacity
from uar.analysis.run import SAMPLES, TrainedRun
from uar.analysis.saving import Caption, Destination
from uar.evaluation.clinical.labels import Label
from uar.evaluation.clinical.phrases import BEYOND, PLACES
from uar.inference.reports import write_reports
from uar.inference.word_attention import with_reports, word_attention

if TYPE_CHECKING:
    from uar.evaluation.clinical.labeller import Labeller

CAPTION = Caption(
    "Figure 7: where the model looks for each word",
    "Attention over the image while a word of the report is written, in multiples of uniform "
    "attention; the image is left clear where attention is uniform or less. A model that looks at "
    "the image attends to the place that the word is about.",
)
SHOWN = 5  # words of a report, at most
ALL_WORDS = "all words"  # shown for a report that has none of these
_DIFFERENCE, _CHANGE_MAP = "difference", "RdBu_r"


def make_figures(run: TrainedRun, to: Destination) -> dict[str, Any]:
    """Draw Figure 7: every model's attention over the report that the last one writes.

    It shows the studies whose true and written reports assert the most findings in common.
    """
    params, models = run.params, run.by_refiner
    predictions = write_reports(
        run.model, run.studies, study_ids=run.ids, raw_reports=run.reports,
        vocabulary=run.vocabulary, params=params.decode, what=f"generate, {list(models)[-1]}",
    )  # fmt: skip
    generated = [prediction.generated for prediction in predictions]
    chosen = studies_with_common_findings(list(zip(run.reports, generated, strict=True)), SAMPLES)
    writing = with_reports(
        run.studies, chosen, [generated[i] for i in chosen], run.vocabulary,
        params.report.max_length,
    )  # fmt: skip
    maps = {
        name: word_attention(model, writing, params.decode.batch_size, f"attention, {name}")
        for name, model in models.items()
    }
    for number, study in enumerate(chosen):
        reports = {
            name: ReportAttention(generated[study].split(), of_studies[number])
            for name, of_studies in maps.items()
        }
        films, views = run.films(run.studies.rows[study]), run.view_names(study)
        figure = draw_word_heatmaps(
            reports,
            films=films,
            views=views,
            reference=run.reports[study],
            boxes=run.boxes_of(study),
        )
        name = f"figure7_attention_{number + 1}"
        to.save(name, figure, CAPTION)
        to.write_numbers(name, attention_table(reports, len(views)))
    return {}


class NamedFinding(NamedTuple):
    """A finding that a report speaks of."""

    word: int  # position of the last word that names it
    finding: str  # CheXpert's observation, or one of `phrases.BEYOND`
    asserted: bool  # not denied, and not uncertain


def named_findings(reports: Iterable[Sequence[str]]) -> list[list[NamedFinding]]:
    """What the clinical labeller finds in each report, in order.

    Args:
        reports: each report's words.
    """
    written = list(reports)
    found = []
    mentions = _labeller().mentions(" ".join(words) for words in written)
    for words, of_report in zip(written, mentions, strict=True):
        ends = np.cumsum([len(word) + 1 for word in words])  # one past each word's space
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
    from uar.evaluation.clinical.labeller import Labeller  # takes a second, too long for --help

    return Labeller(also=BEYOND)


def shown_words(words: Sequence[str]) -> list[int]:
    """Positions of the words that the figure shows, in the report's order, each word once.

    Asserted findings are chosen before places, and places before other findings.
    """
    (named,) = named_findings([words])
    asserted = [finding.word for finding in named if finding.asserted]
    places = [i for i, word in enumerate(words) if word in PLACES]
    chosen: dict[str, int] = {}
    for i in asserted + places + [finding.word for finding in named]:
        chosen.setdefault(words[i], i)
    return sorted(list(chosen.values())[:SHOWN])


def studies_with_common_findings(reports: Sequence[Sequence[str]], count: int) -> list[int]:
    """The studies whose reports all assert the most findings in common; ties keep their order.

    Args:
        reports: for each study, its report and each model's, words joined by spaces.
        count: how many studies to choose.
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
    """A report and one model's attention for each of its words, teacher-forced."""

    words: list[str]  # T of them, as decoded
    attention: np.ndarray  # (T, L), each row sums to 1

    def maps(self, position: int, views: int) -> np.ndarray:
        """A word's attention over each film, `(V, side, side)`, in multiples of uniform."""
        return self._over_films(self.attention[position], views)

    def shown_maps(self, views: int) -> dict[str, np.ndarray]:
        """`maps` of each shown word, by the word; the mean over all words if none is shown."""
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


class _Heatmaps:
    """Maps `(V, side, side)` of the shown words and their colour scales.

    Args:
        maps: each word's maps, by the model's name.
    """

    def __init__(self, maps: dict[str, dict[str, np.ndarray]]) -> None:
        self.maps = maps
        self.words = list(next(iter(maps.values())))
        self.first, self.last = list(maps)[0], list(maps)[-1]
        self.compared = self.first != self.last
        self.kinds = [*maps] + ([_DIFFERENCE] if self.compared else [])
        stacked = np.stack([values[word] for values in maps.values() for word in self.words])
        self.ceiling = heatmap_ceiling(stacked)
        # so that weak attention shows next to strong
        self.scale = PowerNorm(0.5, vmin=0, vmax=self.ceiling, clip=True)
        self.change = {word: maps[self.last][word] - maps[self.first][word] for word in self.words}
        self.limit = max(float(np.abs(np.stack(list(self.change.values()))).max()), 1e-6)
        self.difference = Normalize(-self.limit, self.limit)

    def show(self, axes: Axes, *, kind: str, word: str, view: int) -> None:
        """Draw one word's heatmap over the film that `axes` shows."""
        if kind == _DIFFERENCE:
            heat = self.change[word][view]
            shown = MOST_OPAQUE * np.abs(heat) / self.limit
            axes.imshow(heat, _CHANGE_MAP, self.difference, alpha=shown, extent=(0, 1, 1, 0))
        else:
            heat = self.maps[kind][word][view]
            shown = opacity(heat, self.ceiling)
            axes.imshow(heat, COLORS, self.scale, alpha=shown, extent=(0, 1, 1, 0))

    def show_scales(self, figure: Figure, grid: np.ndarray) -> None:
        """Draw colour bars: attention next to the upper rows, change next to the lower."""
        scale, half = self.scale, len(grid) // 2
        upper = grid[:half] if self.compared else grid
        bar = figure.colorbar(ScalarMappable(scale, COLORS), ax=upper, extend="max", shrink=0.9)
        bar.set_label("attention, × uniform")
        bar.set_ticks([0, *(2.0**n for n in range(-1, 8) if scale.vmax and 2.0**n <= scale.vmax)])
        if self.compared:
            changes = ScalarMappable(self.difference, _CHANGE_MAP)
            bar = figure.colorbar(changes, ax=grid[half:], shrink=0.9)
            bar.set_label(f"{self.last} − {self.first}, × uniform")


def draw_word_heatmaps(
    reports: Mapping[str, ReportAttention],
    *,
    films: np.ndarray,
    views: Sequence[str],
    reference: str,
    boxes: pd.DataFrame,
) -> Figure:
    """Draw, for each film, a row of heatmaps per model and one of the last minus the first.

    Args:
        reports: the same report with each model's attention, by the model's name.
        films: `(V, H, W)` in [0, 1].
        views: names of the V films.
        reference: the true report.
        boxes: known boxes of this study, `uar.data.study.BOX_COLUMNS`; may be empty.
    """
    heatmaps = _Heatmaps({name: of.shown_maps(len(films)) for name, of in reports.items()})
    rows = len(heatmaps.kinds) * len(films)
    figure = new_figure(PAGE_WIDTH, 0.9 + 1.06 * rows)
    grid = figure.subplots(rows, 1 + SHOWN, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, word in zip(grid[0, 1:], heatmaps.words, strict=False):
        axes.set_title(word, parse_math=False)
    for row, (view, kind) in enumerate(product(range(len(films)), heatmaps.kinds)):
        of_view = boxes[boxes["view"] == view]
        if kind == heatmaps.kinds[0]:
            show_film(grid[row, 0], films[view])
            grid[row, 0].set_title(views[view], fontsize=7)
            grid[row, 0].set_axis_on()
            _outline(grid[row, 0], of_view)
        for axes, word in zip(grid[row, 1:], heatmaps.words, strict=False):
            axes.set_axis_on()
            show_film(axes, films[view])
            heatmaps.show(axes, kind=kind, word=word, view=view)
            _outline(axes, of_view[of_view["finding"].map(head_word) == word])
        grid[row, 1].set_ylabel(kind, fontsize=7)
    heatmaps.show_scales(figure, grid)
    if len(boxes):
        edge = Line2D(
            [], [], color=CYAN, label="known box of a finding; under a word, only that finding's"
        )
        figure.legend(handles=[edge], loc="outside upper left", frameon=False)
    written = f"written: {' '.join(reports[heatmaps.last].words)}"
    caption = "\n".join(wrap(text, 125) for text in (written, f"true: {reference}"))
    figure.supxlabel(caption, fontsize=SMALL, ha="left", x=0.01, parse_math=False)
    return figure


def _outline(axes: Axes, boxes: pd.DataFrame) -> None:
    for box in boxes.itertuples():
        outline(axes, (box.x0, box.y0, box.x1, box.y1), color=CYAN)
