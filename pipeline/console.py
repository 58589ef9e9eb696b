"""What the commands print at their end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from tqdm import tqdm

from uar.evaluation.protocols import PROTOCOLS

BASELINES = {  # keys of metrics.json
    "constant report": "constant_report",
    "nearest by tokens": "nearest_tokens",
    "nearest by F(I)": "nearest_features",
    "shuffled images": "shuffled_images",
}

LABELLERS = {"clinical": "rule-based labels", "chexbert": "CheXbert's labels"}


def set_up_logging() -> None:
    """Messages go to standard error: by rich on a terminal, else as plain lines."""
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


def new_table(title: str, columns: list[str]) -> Table:
    """An empty table whose first column names the rows."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def number(value: float | None) -> str:
    """Three decimals; a dash for a score that could not be had."""
    return "-" if value is None else f"{value:.3f}"


def print_evaluation(metrics: Mapping[str, Any]) -> None:
    """The closing table of evaluate: this model with its intervals, baselines, control."""
    console = Console()
    columns = list(metrics["r2gen"])
    table = new_table("test split", columns)
    for protocol in PROTOCOLS:
        table.add_row(f"[bold]{protocol} protocol")
        table.add_row(" this model", *(number(metrics[protocol][name]) for name in columns))
        intervals = metrics["intervals"][protocol]
        table.add_row(
            "  95 % interval", *(show_interval(intervals[n]) for n in columns), style="dim"
        )
        for label, key in BASELINES.items():
            values = metrics[key][protocol]
            table.add_row(f" {label}", *(number(values[name]) for name in columns))
    console.print(table)
    for labeller, name in LABELLERS.items():
        if metrics[labeller] is not None:
            console.print(_clinical_table(metrics, labeller, name))
    if metrics["radgraph"] is not None:
        console.print(_radgraph_table(metrics))
    text = metrics["text"]
    console.print(
        f"{text['distinct_reports']} distinct reports, {text['words_used']} words used, "
        f"{text['mean_length']:.1f} words a report (references: {text['reference_words']} words, "
        f"{text['reference_mean_length']:.1f} a report)"
    )


def _clinical_table(metrics: Mapping[str, Any], labeller: str, name: str) -> Table:
    short = {"precision": "P", "recall": "R", "F1": "F1"}
    keys = [(average, score) for average in ("micro", "macro", "micro_5") for score in short]
    columns = [f"{average} {short[score]}" for average, score in keys]
    table = new_table(f"clinical efficacy, 13 findings (5: CheXpert's five), {name}", columns)
    systems = {"this model": metrics} | {label: metrics[key] for label, key in BASELINES.items()}
    for label, system in systems.items():
        table.add_row(f" {label}", *(number(system[labeller][a][s]) for a, s in keys))
        if label == "this model":
            bounds = show_interval(metrics["intervals"][labeller]["micro F1"])
            cells = (bounds if key == ("micro", "F1") else "" for key in keys)
            table.add_row("  95 % interval", *cells, style="dim")
    return table


def _radgraph_table(metrics: Mapping[str, Any]) -> Table:
    columns = list(metrics["radgraph"])
    table = new_table("RadGraph F1", columns)
    systems = {"this model": metrics} | {label: metrics[key] for label, key in BASELINES.items()}
    for label, system in systems.items():
        table.add_row(f" {label}", *(number(system["radgraph"][name]) for name in columns))
        if label == "this model":
            intervals = metrics["intervals"]["radgraph"]
            cells = (show_interval(intervals[name]) for name in columns)
            table.add_row("  95 % interval", *cells, style="dim")
    return table


def show_interval(bounds: Mapping[str, float] | None) -> str:
    """`.17-.20`; metrics.json has more digits."""
    if bounds is None:
        return "-"
    return "-".join(f"{bounds[side]:.2f}".removeprefix("0") for side in ("low", "high"))
