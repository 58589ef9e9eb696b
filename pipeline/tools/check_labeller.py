"""The labeller's own scores against human labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline import paths
from pipeline.console import new_table, number, output
from uar.core.files import read_json
from uar.core.params_file import load_params
from uar.evaluation.clinical.agreement import TEXTS, agreement, join_sections, read_gold
from uar.evaluation.clinical.labeller import Labeller


def check_labeller(
    root: Annotated[
        Path | None,
        typer.Option(help="IU X-Ray's folder, with its human labels; by default dataset.root."),
    ] = None,
) -> None:
    """Precision, recall and F1 of the clinical labeller against IU X-Ray's human labels."""
    params = load_params(paths.PARAMS)
    root = root or params.dataset.root
    gold, reports = read_gold(root / "gold_labels_14.csv", root / "kaggle_reports.csv")
    splits = read_json(root / "annotation.json")
    test = gold.index.isin([study["id"].split("_")[0] for study in splits["test"]])
    labeller = Labeller()
    labels = {text: labeller.label(join_sections(reports, text)) for text in TEXTS}
    console = output()
    for name, rows in (("all studies", np.ones(len(gold), bool)), ("test split", test)):
        columns = ["studies", *(["P", "R", "F1"] * len(TEXTS))]
        table = new_table(f"{name}: {' | '.join(TEXTS)}", columns)
        results = [
            agreement(gold[rows], labels[text][rows], params.evaluate.uncertain) for text in TEXTS
        ]
        for observation, first in results[0].items():
            cells = [
                number(value)
                for result in results
                for value in (
                    result[observation].precision,
                    result[observation].recall,
                    result[observation].f1,
                )
            ]
            table.add_row(observation, str(first.studies), *cells)
        console.print(table)
    console.print(f"uncertain labels count as {params.evaluate.uncertain} (evaluate.uncertain)")
