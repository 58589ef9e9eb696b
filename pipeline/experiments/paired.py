"""Two systems' reports of the same studies against each other."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from pipeline import paths
from pipeline.console import new_table, number
from pipeline.experiments.dvc import fetch
from pipeline.stages.labellers import open_graph_scorers, open_labellers
from uar.core.config import Params
from uar.core.device import resolve_device
from uar.evaluation.bootstrap import paired_test
from uar.evaluation.predictions import Prediction, read_predictions, refuse_other_studies
from uar.evaluation.systems import score_systems


def print_paired(a: str, b: str, params: Params) -> None:
    """Paired test: difference, 95 % interval and p-value of every headline metric.

    Args:
        a: predictions.jsonl of one system, or the experiment that made it.
        b: the other.
        params: how clinical labels and resamples are made.

    Raises:
        UserError: a source is neither, or they hold other studies.
    """
    systems = {"A": predictions(a), "B": predictions(b)}
    refuse_other_studies(systems["A"], systems["B"], f"{a} and {b}")
    device = resolve_device(params.device)
    labellers, _ = open_labellers(params.evaluate.chexbert, device)
    graph_scorers, _ = open_graph_scorers(params.evaluate.radgraph, device)
    scores = score_systems(systems, labellers, params.evaluate.uncertain, graph_scorers)
    table = new_table(f"A: {a}\nB: {b}", ["A", "B", "B - A", "95 % interval", "p"])
    for group, metrics in scores["A"].headline().items():
        table.add_row(f"[bold]{group}")
        compared = paired_test(
            metrics,
            scores["B"].headline()[group],
            resamples=params.evaluate.resamples,
            seed=params.seed,
        )
        for name, result in compared.items():
            if result is None:
                table.add_row(f" {name}", *"-----")
                continue
            table.add_row(
                f" {name}",
                number(result.a),
                number(result.b),
                f"{result.b - result.a:+.3f}",
                f"{result.low:+.3f} to {result.high:+.3f}",
                number(result.p_value),
            )
    console = Console()
    console.print(table)
    console.print(
        f"{len(systems['A'])} studies, {params.evaluate.resamples} resamples (paired bootstrap) "
        "and random exchanges (p-value)"
    )


def predictions(source: str) -> list[Prediction]:
    """Of a file, else of an experiment's cached output."""
    if Path(source).is_file():
        return read_predictions(source)
    with TemporaryDirectory() as folder:
        copy = Path(folder) / paths.PREDICTIONS.name
        fetch(source, paths.PREDICTIONS, copy)
        return read_predictions(copy)
