"""Measured runs compared with the paper's numbers, and systems with each other."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pipeline import paths
from pipeline.console import new_table, output
from pipeline.experiments.dvc import Experiment, read_experiments
from pipeline.experiments.folders import read_folder
from pipeline.experiments.results import (
    Cell,
    Result,
    Setting,
    append_results,
    collapsed,
    group,
    provenance,
    read_results,
    values,
)
from pipeline.experiments.rows import Ablations
from pipeline.experiments.tables import EVIDENCE, IN_NATS, MODEL, RUN_BY_RUN, csv_text, markdown
from uar.core.errors import UserError
from uar.core.files import write_text
from uar.core.params_file import load_params
from uar.evaluation.summary import COLLAPSE

log = logging.getLogger(__name__)

_SHOWN = {  # column on the terminal -> its path in a result, and number of decimals
    "\nnats": (IN_NATS["cross-entropy, nats"], 2),
    "image\ngain": (IN_NATS["image gain, nats"], 2),
    "\nBLEU-4": (f"{MODEL} BLEU-4", 3),
    "\nCIDEr": (f"{MODEL} CIDEr", 3),
    "CIDEr,\nothers'": (EVIDENCE["CIDEr, another study's images"], 3),
    "findings\nF1": (EVIDENCE["findings, micro F1"], 3),
    "\nP": (EVIDENCE["precision"], 2),
    "\nR": (EVIDENCE["recall"], 2),
}


def compare(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]...",
            help="Copies of the project in which a row was run without DVC, stage by stage.",
        ),
    ] = None,
    paired: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Test two methods: each a file of predictions, an experiment, or a row of the "
            "tables with all its runs.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="ROW", help="Test all rows against this one, with corrected p-values."
        ),
    ] = None,
    setting: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="The setting whose rows are meant, as `compare` lists it; by default the newest.",
        ),
    ] = None,
    save: Annotated[
        bool,
        typer.Option(
            help="Add new runs to results/runs/, for other clones, and write "
            "results/RESULTS.md and .csv."
        ),
    ] = False,
) -> None:
    """Show every run's scores, row by row; with --save, keep them and write the tables."""
    params = load_params(paths.PARAMS)
    if paired is not None and all(Path(source).is_file() for source in paired):
        from pipeline.experiments.paired import Sources, print_paired

        print_paired(*paired, Sources(None, {}, {}), params)
        return
    ablations = Ablations.load()
    apart = {folder: read_folder(folder, ablations) for folder in folders or []}
    kept = read_results(paths.RESULT_RUNS)
    experiments = read_experiments()
    new = new_results(experiments, apart.values(), kept)
    settings = group([*kept, *new], ablations)
    if paired is not None or against is not None:
        from pipeline.experiments import paired as tests  # loads spaCy and more, for labels

        sources = tests.Sources(chosen(settings, setting), experiments, apart)
        if paired is not None:
            tests.print_paired(*paired, sources, params)
        if against is not None:
            tests.print_against(against, sources, params)
        return
    for of in settings:
        if setting in (None, of.id):
            show(of, ablations)
    runs = sum(len(of.runs) for of in settings)
    log.info(f"{runs} runs in {len(settings)} settings, {len(new)} of them not yet saved")
    if save:
        append_results(paths.RESULT_RUNS, new)
        for name, text in (
            ("RESULTS.md", markdown(settings, ablations)),
            ("RESULTS.csv", csv_text(settings, ablations)),
        ):
            write_text(paths.RESULTS / name, text)
        log.info(f"wrote {paths.RESULT_RUNS}, {paths.RESULTS}/RESULTS.md and RESULTS.csv")


def chosen(settings: list[Setting], wanted: str | None) -> Setting | None:
    """The setting with this id, or without an id the newest; None if there are no settings.

    Raises:
        UserError: no setting has that id.
    """
    if wanted is None:
        return max(settings, key=lambda of: max(run.finished for run in of.runs), default=None)
    for of in settings:
        if of.id == wanted:
            return of
    known = ", ".join(of.id for of in settings) or "none"
    raise UserError(f"--setting: no setting {wanted!r}; available: {known}.")


def new_results(
    experiments: dict[str, Experiment], apart: Iterable[Result], kept: list[Result]
) -> list[Result]:
    """Finished experiments, and runs made without DVC, that results/runs lacks."""
    known = {(result.experiment, result.finished) for result in kept}
    found = [
        result
        for experiment in experiments.values()
        if (experiment.name, experiment.finished) not in known
        and (result := Result.of_experiment(experiment)) is not None
    ]
    for result in apart:
        if (result.experiment, result.finished) not in known:
            known.add((result.experiment, result.finished))
            found.append(result)
    return found


def show(setting: Setting, ablations: Ablations) -> None:
    """Print a setting's rows as means over seeds; what --save writes has more."""
    by = " ".join(sorted({run.details["selection"]["by"] for run in setting.runs}))
    studies = " ".join(sorted({str(run.details["studies"]) for run in setting.runs}))
    title = (
        f"{setting.dataset}, setting {setting.id}, code {setting.code}\n"
        f"{studies} test studies; epochs chosen by validation {by}"
    )
    table = new_table(title, ["\nseeds", *_SHOWN, "distinct\nreports", "\nsame", "\nepoch"])
    for model in ablations.models(ablations.tables):
        if runs := setting.models.get(model):
            means = [(Cell.of(values(runs, path)).mean, of) for path, of in _SHOWN.values()]
            distinct, _, same = (values(runs, path) for path in RUN_BY_RUN.values())
            run = provenance(runs)
            table.add_row(
                f"{model}{collapsed(runs)}",
                run["seeds"],
                *("–" if mean is None else f"{mean:.{of}f}" for mean, of in means),
                " ".join("–" if value is None else f"{value:.0f}" for value in distinct),
                " ".join("–" if value is None else f"{value:.0%}" for value in same),
                run["epochs"],
            )
    console = output()
    console.print(table)
    console.print(
        "same: unchanged with another study's images, of studies with a finding", style="dim"
    )
    if any(run.collapsed for run in setting.runs):
        console.print(f"† {COLLAPSE}", style="dim")
