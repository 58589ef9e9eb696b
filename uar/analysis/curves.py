"""Losses and validation scores by epoch, stage by stage: as a figure, and as a page of its own."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from uar.analysis.drawing import BLUE, GREEN, ORANGE, PAGE_WIDTH, SMALL, new_figure
from uar.analysis.run import TrainedRun
from uar.analysis.saving import Caption, Destination
from uar.core.files import write_text
from uar.evaluation.safeguard import refusal

CAPTION = Caption(
    "Training curves",
    "Losses, and scores of generated reports, by epoch; stage two's loss without the mask's share. "
    "A validation loss that rises while the training loss falls is a sign of overfitting.",
)
_HEADROOM = 0.16  # share of a panel left free for its legend above the lines
Style = Literal["-", "--"]
PARTS: dict[str, tuple[str, Style]] = {"train": ("training", "--"), "val": ("validation", "-")}
Curves = Mapping[str, pd.Series]  # values by epoch, by name: train/loss, val/CIDEr, ...

# A stage's panels: the title, and the colour of each quantity.
PANELS: dict[str, dict[str, str]] = {
    "loss": {"loss": BLUE},
    "loss terms": {"language_modeling": BLUE, "global": ORANGE},
    "reports": {"BLEU-4": BLUE, "ROUGE-L": ORANGE, "CIDEr": GREEN},
}

# The panels of self-critical training: what is rewarded, and what may be lost by it.
REWARD_PANELS: dict[str, dict[str, str]] = {
    "reward": {"reward": BLUE, "overlap": ORANGE, "findings_reward": GREEN},
    "reports": {"BLEU-4": BLUE, "shuffled_CIDEr": ORANGE, "CIDEr": GREEN},
    "findings": {"F1": BLUE, "precision": ORANGE, "distinct_share": GREEN},
}

_IN_LEGENDS = {  # where a quantity's name is too long
    "distinct_share": "distinct",
    "findings_reward": "findings",
    "shuffled_CIDEr": "shuffled",
}

SPEED_PANELS = {  # a stage's row: each quantity, and its title with the unit
    "studies_per_second": "studies per second",
    "share_of_peak": "share of the measured peak",
    "host_memory": "peak memory of the host, GB",
    "gpu_memory": "peak memory of the GPU, GB",
}

_REWARD = "val/reward"  # only self-critical training has it
_CLIPPED = "train/clipped"  # share of an epoch's steps
_QUANTITIES = {  # DVCLive's name -> words; others are shown by their names
    "changed_by_mask": "reports that change when the mask M is set to 0",
    "clipped": "share of steps with a clipped gradient",
    "cross_entropy": "cross-entropy, nats per report",
    "divergence": "divergence from stage two's model, nats per report",
    "distinct_reports": "distinct reports",
    "distinct_share": "distinct reports, share",
    "findings": "findings loss",
    "findings_reward": "reward for right findings minus cost of wrong ones",
    "global": "triplet contrastive loss (Eq. 10)",
    "image_gain": "image gain, nats per report",
    "language_modeling": "language modelling loss (Eq. 5)",
    "loss": "loss",
    "mask_mean": "mask loss, mean (Eq. 12)",
    "mask_sum": "mask loss, sum (Eq. 12)",
    "mask_spread": "standard deviation of M within a row",
    "overlap": "reward for overlap with the study's own report",
    "overlap_of_others": "reward for overlap with other studies' reports",
    "shuffled_CIDEr": "CIDEr with another study's images",
}


def make_figures(run: TrainedRun, to: Destination) -> dict[str, Any]:
    """Draw the curves of the training stages, and write their page."""
    train = run.params.train
    stages = {name: read_curves(folder) for name, folder in run.logs.items()}
    with_mask = "stage two"  # the one whose loss has the mask's (Eq. 12)
    stages[with_mask] = without_mask(stages[with_mask], train.lambda3, train.mask_reduction)
    figure = draw_curves(stages)
    to.save("curves", figure, CAPTION)
    write_page(figure, stages, run=run.origin, path=to.curves)
    return {}


def read_curves(folder: Path) -> dict[str, pd.Series]:
    """Read a stage's DVCLive curves, `folder/{train,val}/NAME.tsv`; empty if it was not trained."""
    return {
        f"{path.parent.name}/{path.stem}": _read_curve(path)
        for path in sorted(folder.glob("*/*.tsv"))
    }


def read_speed(folder: Path) -> dict[str, pd.Series]:
    """Read a stage's `SPEED_PANELS`, `folder/NAME.tsv`; empty if it was not trained here."""
    return {
        name: _read_curve(folder / f"{name}.tsv")
        for name in SPEED_PANELS
        if (folder / f"{name}.tsv").is_file()
    }


def _read_curve(path: Path) -> pd.Series:
    table = pd.read_csv(path, sep="\t")
    return pd.Series(table[path.stem].to_numpy(), table["step"].to_numpy())


def without_mask(curves: Curves, weight: float, reduction: str) -> dict[str, pd.Series]:
    """The curves with L_mask's share taken out of the loss (Eq. 13).

    As printed, that share is a thousand times the rest and hardly changes, so it hides the rest.

    Args:
        curves: one stage's curves.
        weight: λ3.
        reduction: `train.mask_reduction`: whether `mask_sum` or `mask_mean` is in the loss.
    """
    kept = dict(curves)
    for part in ("train", "val"):
        mask = curves.get(f"{part}/mask_{reduction}")
        if mask is not None:
            kept[f"{part}/loss"] = curves[f"{part}/loss"] - weight * mask
        elif f"train/mask_{reduction}" in curves:
            kept.pop(f"{part}/loss", None)  # this part's share is not known
    return kept


def draw_curves(stages: Mapping[str, Curves]) -> Figure:
    """Draw a row for each trained stage: its loss, the loss's terms, its reports' scores."""
    trained = {name: curves for name, curves in stages.items() if curves}
    figure = new_figure(PAGE_WIDTH, max(1, len(trained)) * 2.3)
    grid = figure.subplots(max(1, len(trained)), len(PANELS), squeeze=False)
    if not trained:
        for axes in grid.flat:
            axes.set_axis_off()
        figure.text(0.5, 0.5, "nothing was trained", ha="center")
    for row, (stage, curves) in zip(grid, trained.items(), strict=False):
        panels = REWARD_PANELS if _REWARD in curves else PANELS
        for axes, (title, quantities) in zip(row, panels.items(), strict=True):
            for quantity, color in quantities.items():
                _draw(axes, curves, quantity, color)
            _by_epoch(axes, f"{stage}: {title}")
            if len(quantities) > 1:
                names = [
                    _key(color, "-", _IN_LEGENDS.get(name, name))
                    for name, color in quantities.items()
                ]
                low, high = axes.get_ylim()
                axes.set_ylim(low, high + _HEADROOM * (high - low))
                axes.legend(
                    handles=names, loc="upper center", ncols=len(names), fontsize=SMALL,
                    frameon=False, handlelength=1.2, columnspacing=1,
                )  # fmt: skip
    styles = [_key("black", style, part) for part, style in PARTS.values()]
    figure.legend(handles=styles, loc="outside upper right", ncols=2, frameon=False)
    return figure


def draw_speed(stages: Mapping[str, Curves]) -> Figure:
    """Draw a row for each stage: how fast it trained by epoch, and how much memory it used.

    Args:
        stages: `read_speed` of each stage that has any.
    """
    names = [name for name in SPEED_PANELS if any(name in of for of in stages.values())]
    figure = new_figure(PAGE_WIDTH, len(stages) * 2.0)
    grid = figure.subplots(len(stages), len(names), squeeze=False)
    for row, (stage, speed) in zip(grid, stages.items(), strict=True):
        for axes, name in zip(row, names, strict=True):
            _by_epoch(axes, f"{stage}:\n{SPEED_PANELS[name]}")
            if name in speed:
                axes.plot(speed[name].index, speed[name], color=BLUE, marker="o", markersize=2)
            axes.set_ylim(bottom=0)
    return figure


def _by_epoch(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(linewidth=0.4, alpha=0.5)


def _draw(axes: Axes, curves: Curves, quantity: str, color: str) -> None:
    for part, (_, style) in PARTS.items():
        values = curves.get(f"{part}/{quantity}")
        if values is not None:
            axes.plot(values.index, values, style, color=color, marker="o", markersize=2)


def _key(color: str, style: Style, label: str) -> Line2D:
    return Line2D([], [], color=color, linestyle=style, label=label.replace("_", " "))


def write_page(figure: Figure, curves: Mapping[str, Curves], *, run: str, path: Path) -> None:
    """Write an HTML file that needs no network: the figure, and a table of last-epoch values.

    What differs from run to run, `draw_speed`, is loaded from `speed.svg` in the same folder, so
    the page has the same bytes wherever the same model is trained.

    Args:
        figure: `draw_curves`.
        curves: each stage's curves, by its name.
        run: whose curves these are, in a sentence.
        path: the file to write.
    """
    image = io.BytesIO()
    figure.savefig(image, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(image.getvalue()).decode()
    remarks = "".join(
        f"<p>In {html.escape(stage)}, the gradient of {100 * of_stage[_CLIPPED].mean():.1f} % of "
        "the steps exceeded <code>train.gradient_clip</code> and was clipped.</p>"
        for stage, of_stage in curves.items()
        if _CLIPPED in of_stage
    ) + "".join(
        f"<p>{html.escape(stage.capitalize())} {html.escape(reason)}.</p>"
        for stage, of_stage in curves.items()
        if _REWARD in of_stage and (reason := refusal(_validated(of_stage)))
    )
    rows = "".join(
        f"<tr><td>{html.escape(stage)}</td><td>{html.escape(_in_words(name))}</td>"
        f"<td>{values.index[-1]}</td><td>{_number(values.iloc[-1])}</td></tr>"
        for stage, of_stage in curves.items()
        for name, values in of_stage.items()
    )
    text = (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Training curves</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
        "img{width:100%;min-width:40em}div{overflow-x:auto}"
        "td,th{text-align:left;padding:.1em 1em .1em 0}</style>"
        f"<h1>Training curves</h1><p>{html.escape(run)}</p>"
        "<p>Dashed: training. Solid: validation. Stage two's loss is shown without the mask's "
        f"share.</p>{remarks}"
        '<div tabindex="0"><img alt="loss and scores by epoch" '
        f'src="data:image/svg+xml;base64,{encoded}"></div>'
        '<h2>Last epoch</h2><div tabindex="0"><table>'
        f"<tr><th>stage<th>quantity<th>epoch<th>value</tr>{rows}</table></div>"
        '<h2>Training speed and memory use on this machine</h2><object data="speed.svg" '
        'type="image/svg+xml" style="width:100%">Not trained here, or not drawn: '
        "there is no <code>speed.svg</code> next to this page.</object></html>\n"
    )
    write_text(path, text)


def _validated(curves: Curves) -> list[dict[str, float]]:
    """The validation scores of each epoch that has all of them."""
    scores = {name.partition("/")[2]: of for name, of in curves.items() if name.startswith("val/")}
    return pd.DataFrame(scores).dropna().to_dict("records")


def _number(value: float) -> str:
    return f"{value:.5g}".replace("-", "\N{MINUS SIGN}")


def _in_words(name: str) -> str:
    """A curve's name in words: `val/image_gain` is "validation: image gain, nats per report"."""
    part, _, quantity = name.partition("/")
    said = _QUANTITIES.get(quantity, quantity.replace("_", " "))
    return f"{PARTS[part][0] if part in PARTS else part}: {said}"
