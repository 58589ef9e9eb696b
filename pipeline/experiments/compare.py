"""Measured runs beside the paper's numbers, and two systems against each other."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from pipeline import paths
from pipeline.experiments.dvc import read_experiments
from pipeline.experiments.results import Result, csv_text, group, markdown
from pipeline.experiments.rows import Ablations
from uar.core.config import load_params
from uar.core.files import whole_file

log = logging.getLogger(__name__)


def compare(
    paired: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Paired test of two prediction files or experiments."),
    ] = None,
    save: Annotated[
        bool, typer.Option(help="Keep each experiment as a file in results/, for other clones.")
    ] = False,
) -> None:
    """Write results/RESULTS.md and .csv of all experiments and result files."""
    params = load_params(paths.PARAMS)
    if paired is not None:
        from pipeline.experiments.paired import print_paired  # torch, for the labellers' sake

        print_paired(*paired, params)
        return
    ablations = Ablations.load()
    measured = [
        result
        for experiment in read_experiments().values()
        if (result := Result.of_experiment(experiment)) is not None
    ]
    if save:
        for result in measured:
            result.save(paths.RESULTS)
    kept = [Result.load(path) for path in sorted(paths.RESULTS.glob("*.json"))]
    settings = group([*kept, *measured], ablations)
    for name, text in (
        ("RESULTS.md", markdown(settings, ablations)),
        ("RESULTS.csv", csv_text(settings, ablations)),
    ):
        with whole_file(paths.RESULTS / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    runs = sum(len(runs) for setting in settings for runs in setting.models.values())
    log.info(f"{runs} runs of {len(settings)} settings: {paths.RESULTS}/RESULTS.md and RESULTS.csv")
