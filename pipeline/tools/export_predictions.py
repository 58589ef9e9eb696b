"""Predictions in the file formats of ReXrank and RadEval."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import paths
from uar.core.errors import UserError
from uar.core.files import read_json
from uar.core.params_file import load_params
from uar.data.study import STUDY_COLUMNS, read_checked
from uar.evaluation.formats import Format, write_radeval, write_rexrank
from uar.evaluation.predictions import Prediction, read_predictions

log = logging.getLogger(__name__)


def export_predictions(
    format_: Annotated[Format, typer.Option("--format", help="Whose file format.")],
    out: Annotated[Path, typer.Option(help="The file to write, .json.")],
    predictions: Annotated[Path, typer.Option(help="What evaluate wrote.")] = paths.PREDICTIONS,
    into: Annotated[
        Path | None,
        typer.Option(
            help="ReXrank's own file of the test studies: each gets its model_prediction, its "
            "context and sections stay. Without it, the fields that the study table has."
        ),
    ] = None,
) -> None:
    """Write predictions as ReXrank's submission or as RadEval's references and hypotheses."""
    rows = read_predictions(predictions)
    if format_ == "radeval":
        write_radeval(out, rows)
    else:
        studies = known_studies() if into is None else studies_in(into, rows)
        write_rexrank(out, rows, studies)
    log.info(f"{out}: {len(rows)} studies")


def known_studies() -> dict[str, dict[str, Any]]:
    """ReXrank's fields of each study, as far as the study table has them."""
    is_impression = load_params(paths.PARAMS).dataset.section == "impression"
    known = {}
    for study in read_checked(paths.STUDIES, STUDY_COLUMNS).itertuples():
        views, images = list(study.views), list(study.image_paths)
        frontal = views.index("frontal") if "frontal" in views else 0
        known[str(study.study_id)] = {
            "key_image_path": images[frontal],
            "image_path": images,
            "report": study.report,
            "section_findings": None if is_impression else study.report,
            "section_impression": study.report if is_impression else None,
            "split": study.split,
            "frontal_lateral": [view.capitalize() for view in views],
            "context": "",
        }
    return known


def studies_in(path: Path, predictions: list[Prediction]) -> dict[str, dict[str, Any]]:
    """The studies in ReXrank's file.

    Raises:
        UserError: it is no such file, or its studies are not those of the predictions.
    """
    studies = read_json(path)
    if not isinstance(studies, dict) or not all(isinstance(of, dict) for of in studies.values()):
        raise UserError(f"{path}: expected an object of studies, as ReXrank publishes")
    own = {p.study_id for p in predictions}
    if own != set(studies):
        extra, missing = sorted(own - set(studies)), sorted(set(studies) - own)
        raise UserError(
            f"{path} has {len(studies)} studies, the predictions {len(own)}: "
            f"{len(missing)} are not predicted ({', '.join(missing[:3]) or 'none'}), "
            f"{len(extra)} are not in the file ({', '.join(extra[:3]) or 'none'})"
        )
    return studies
