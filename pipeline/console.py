"""What the commands print when they end."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from tqdm import tqdm

from uar.evaluation.protocols import PROTOCOLS
from uar.evaluation.summary import BASELINES, COLLAPSE, MODEL, look_up
from uar.evaluation.systems import NATS, PER_STUDY_NATS

LABELLERS = {"clinical": "rule-based labels", "chexbert": "CheXbert's labels"}


def set_up_logging() -> None:
    """Send messages to standard error: through rich on a terminal, otherwise as plain lines."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = _BesideBars(
            console=Console(stderr=True), show_time=False, show_path=False, markup=False
        )
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("uar", "pipeline"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)


class _BesideBars(RichHandler):
    """Writes above progress bars, not through them."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            super().emit(record)


def output() -> Console:
    """Standard output: 120 columns wide if it is not a terminal, so that nothing is cut off."""
    wide = not (sys.stdout.isatty() or "COLUMNS" in os.environ)
    return Console(width=120 if wide else None)


def new_table(title: str, columns: list[str]) -> Table:
    """An empty table whose first column names the rows."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def number(value: float | None) -> str:
    """Three decimals; a dash where there is no score."""
    return "-" if value is None else f"{value:.3f}"


def print_evaluation(summary: Mapping[str, Any]) -> None:
    """Print the closing tables of an evaluation: model with intervals, baselines, control.

    Args:
        summary: what `uar.evaluation.summary.summarise` returns.
    """
    console, model = output(), summary["scores"][MODEL]
    texts = [name for name in PROTOCOLS if name in model]
    metrics = {name: name for name in model[texts[0]]}
    table = new_table("test split", list(metrics))
    for protocol in texts:
        table.add_row(f"[bold]{protocol} protocol")
        _add_systems(table, summary, protocol, metrics)
    console.print(table)
    for group, title, columns in (
        *(
            (labeller, f"13 findings (5: CheXpert's five), {name}", _CLINICAL)
            for labeller, name in LABELLERS.items()
        ),
        ("radgraph", "RadGraph F1", {name: name for name in model.get("radgraph", ())}),
    ):
        if group in model:
            table = new_table(title, list(columns))
            _add_systems(table, summary, group, columns)
            console.print(table)
    if "radeval" in model:
        console.print(_radeval_table(summary))
    if NATS in model:
        console.print(_nats(summary))
    text = summary["text"][MODEL]
    console.print(
        f"{text['distinct_reports']} distinct reports of {summary['studies']} (same: word for "
        "word the same with another study's images; in brackets, of studies with a finding), "
        f"{text['words_used']} words used, {text['mean_length']:.1f} words per report (references: "
        f"{text['reference_words']} words, {text['reference_mean_length']:.1f} per report)"
    )
    if summary["collapsed"]:
        console.print(f"[bold]collapsed:[/bold] {COLLAPSE}")
    for line in shown_signatures(summary):
        console.print(line, style="dim", soft_wrap=True)


def shown_signatures(summary: Mapping[str, Any]) -> list[str]:
    """One signature for each group: the others differ from it in their first word."""
    first = {"r2gen": "BLEU-4", "coco": "BLEU-4", "clinical": "micro", "chexbert": "micro"}
    return [of[first.get(group, next(iter(of)))] for group, of in summary["signatures"].items()]


def _systems(summary: Mapping[str, Any]) -> dict[str, str]:
    """Labels and keys of the systems that were scored, the model first."""
    known = {label: key for label, key in BASELINES.items() if key in summary["scores"]}
    return {"this model": MODEL} | known


def _add_systems(
    table: Table, summary: Mapping[str, Any], group: str, columns: Mapping[str, str]
) -> None:
    """Add a row for each system; below the model's, its intervals and whether it uses images.

    Args:
        table: the one to add to.
        summary: of the evaluation.
        group: which group of scores.
        columns: heading -> score, after its average where the group has several.
    """
    for label, key in _systems(summary).items():
        scores = summary["scores"][key][group]
        table.add_row(f" {label}", *(number(look_up(scores, score)) for score in columns.values()))
        if key == MODEL:
            bounds = summary["intervals"][group]
            cells = (show_interval(bounds[score]) for score in columns.values())
            table.add_row("  95 % interval", *cells, style="dim")
            table.add_row(f"  {_looking(summary)}", style="dim")


def _nats(summary: Mapping[str, Any]) -> str:
    """What a reference costs, and what its images are worth."""
    nats, bounds = summary["scores"][MODEL][NATS], summary["intervals"][NATS]
    cost, gain = (
        f"{nats[name]:.2f} nats ({bounds[name]['low']:.2f} to {bounds[name]['high']:.2f})"
        for name in PER_STUDY_NATS
    )
    return f"cross-entropy of a reference {cost}, with another study's images {gain} more"


def _looking(summary: Mapping[str, Any]) -> str:
    """`56 distinct, 31% same (4%)`: distinct reports, and those unchanged by other images."""
    same, of_findings = (
        summary.get(f"unchanged_with_{what}") for what in ("other_images", "findings")
    )
    shown = f"{summary['text'][MODEL]['distinct_reports']} distinct"
    if same is not None:
        shown += f", {same:.0%} same"
    return shown if of_findings is None else f"{shown} ({of_findings:.0%})"


_CLINICAL = {  # heading -> average and score of `clinical_metrics`
    "micro\nP": "micro precision",
    "\nR": "micro recall",
    "\nF1": "micro F1",
    "macro\nF1": "macro F1",
    "micro 5\nF1": "micro_5 F1",
    "macro 5\nF1": "macro_5 F1",
    "No\nFinding": "no_finding F1",
}


def _radeval_table(summary: Mapping[str, Any]) -> Table:
    """A row for each score: RadEval has many, with long names."""
    systems = _systems(summary)
    table = new_table("RadEval", list(systems))
    for name in summary["scores"][MODEL]["radeval"]:
        values = (summary["scores"][key]["radeval"][name] for key in systems.values())
        table.add_row(f" {name}", *map(number, values))
    return table


def show_interval(bounds: Mapping[str, float]) -> str:
    """`.17-.20`; details.json has more digits."""
    return "-".join(f"{bounds[side]:.2f}".removeprefix("0") for side in ("low", "high"))
