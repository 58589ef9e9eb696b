"""Stage two: fine alignment, {l1, l2, l3}, with the mask (section 3.5)."""

from __future__ import annotations

from pipeline import paths
from pipeline.training import TWO, Restart, Strategy, begin, run_stage
from uar.training.stage import as_one_stage


def train_stage_two(restart: Restart = False, strategy: Strategy = "ddp") -> None:
    """Go on from stage one's best epoch with the mask and its loss."""
    fabric, inputs = begin(strategy)
    params = inputs.params
    refiner = params.model.model_dump(include={"tir", "tir_scale"})
    model = inputs.checkpoint(paths.STAGE_ONE).build(**refiner)
    stage = params.train.stage_two if params.train.two_stage else as_one_stage(params.train)
    run_stage(TWO, fabric, inputs, model=model, stage=stage, restart=restart)
