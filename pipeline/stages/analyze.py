"""The paper's Figures 3 to 7 and grounding, on the validation split, with their numbers."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from pipeline import paths
from pipeline.inputs import Inputs, open_images
from pipeline.provenance import commit
from uar.analysis import (
    alignment,
    basis,
    curves,
    grounding,
    reconstruction,
    reliability,
    retrieval,
    word_heatmaps,
)
from uar.analysis.run import TrainedRun, slug
from uar.analysis.saving import Destination
from uar.core.config import Params
from uar.core.files import sha256, write_json
from uar.core.params_file import load_params
from uar.data.study import BOX_COLUMNS, read_checked
from uar.evaluation.summary import headline
from uar.model.uar import UAR

log = logging.getLogger(__name__)

FIGURES: tuple[Callable[[TrainedRun, Destination], Mapping[str, Any]], ...] = (
    curves.make_figures,
    retrieval.make_figures,
    alignment.make_figures,
    basis.make_figures,
    reconstruction.make_figures,
    word_heatmaps.make_figures,
    grounding.make_figures,
    reliability.make_figures,
)  # each draws its figures and returns what details.json says about them
NUMBERS = ("one", "two", "three")  # of training stages
HEADLINE = {  # as `uar.evaluation.summary.HEADLINE`; for alignment and grounding see `analyze`
    "alignment": "alignment stage_two score",
    "R@5": "retrieval image_to_report R@5",
    "pointing": "grounding with_TIR pointing",
    "chance": "grounding chance pointing",
}


def analyze() -> None:
    """Draw the paper's figures on the validation split; only `evaluate` reads the test split.

    The calibration of the findings head is shown on both splits, as `evaluate` measured it.
    """
    run = read_run(load_params(paths.PARAMS))
    to = Destination(paths.FIGURES, paths.FIGURES_PDF, paths.FIGURE_NUMBERS, paths.CURVES)
    for folder in (to.screen, to.print, to.numbers):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    details: dict[str, Any] = {}
    for make_figures in FIGURES:
        details |= make_figures(run, to)
    names = HEADLINE | {"alignment": f"alignment {slug(run.name)} score"}
    if "with TIR" not in run.by_refiner:
        names = names | {"pointing": "grounding without_TIR pointing"}
    draw_speed()
    write_json(paths.ANALYSIS_DETAILS, details)
    write_json(paths.ANALYSIS, headline(details, names))
    drawn = sorted(path.stem for path in to.screen.iterdir())
    log.info(f"analyze: figures of the validation split in {to.screen}: {', '.join(drawn)}")
    log.info(f"analyze: training curves: {to.curves}")


def draw_speed() -> None:
    """Draw speed and memory of training, if it ran here, next to the page of curves."""
    folders = {f"stage {number}": paths.SPEED / f"stage_{number}" for number in NUMBERS}
    speed = {name: curves.read_speed(of / "plots" / "metrics") for name, of in folders.items()}
    paths.SPEED_FIGURE.unlink(missing_ok=True)
    if trained := {name: of_stage for name, of_stage in speed.items() if of_stage}:
        curves.draw_speed(trained).savefig(paths.SPEED_FIGURE, metadata={"Date": None})


def read_run(params: Params) -> TrainedRun:
    """The run that params.yaml and the stages' files belong to."""
    inputs = Inputs(params)
    return TrainedRun(
        params=params,
        models=trained_models(inputs),
        studies=inputs.studies("val"),
        table=inputs.split_table("val"),
        vocabulary=inputs.vocabulary,
        images=open_images(),
        boxes=read_checked(paths.BOXES, BOX_COLUMNS),
        encoder=paths.DVAE_ENCODER,
        decoder=paths.DVAE_DECODER,
        evaluation=paths.DETAILS,
        logs={
            f"stage {number}": paths.LOGS / f"stage_{number}" / "plots" / "metrics"
            for number in NUMBERS
        },
        origin=(
            f"Data set {params.dataset.name}, train.seed {params.train.seed}, checkpoint "
            f"{sha256(paths.STAGE_THREE)[:8]}, code of commit "
            f"{(commit('analyze') or 'unknown')[:8]}."
        ),
    )


def trained_models(inputs: Inputs) -> dict[str, UAR]:
    """The models of the stages that trained one; the last is the trained model."""
    models = {}
    of_stages = {"stage one": paths.STAGE_ONE, "stage two": paths.STAGE_TWO}
    if sha256(paths.STAGE_THREE) != sha256(paths.STAGE_TWO):
        of_stages["stage three"] = paths.STAGE_THREE
    for name, path in of_stages.items():
        checkpoint, model = inputs.trained(path)
        if checkpoint.validation:  # not stage one of a one-stage run, which is untrained
            models[name] = model
    return models
