"""Stage three: self-critical training on the reports that the model draws; beyond the paper."""

from __future__ import annotations

import logging

from pipeline import paths
from pipeline.training import THREE, Restart, Strategy, begin, hand_on, run_stage
from uar.core.config import StageParams
from uar.core.errors import UserError
from uar.training.self_critical import Critic

log = logging.getLogger(__name__)


def train_stage_three(restart: Restart = False, strategy: Strategy = "ddp") -> None:
    """Go on from stage two's model by the reward of what it writes; off unless it has epochs."""
    fabric, inputs = begin(strategy)
    params = inputs.params.train.stage_three
    if params.epochs and strategy == "fsdp" and fabric.world_size > 1:
        raise UserError(
            "stage three draws reports in every step, for which each process needs the whole "
            "model: run it without --strategy fsdp."
        )
    if params.epochs:
        run_stage(
            THREE,
            fabric,
            inputs,
            model=inputs.checkpoint(paths.STAGE_TWO).build(),
            stage=StageParams(epochs=params.epochs, learning_rate=params.learning_rate),
            restart=restart,
            critic=Critic(params, inputs.studies("train"), inputs.vocabulary),
        )
    elif fabric.is_global_zero:
        hand_on(THREE)
        log.info("stage_three: skipped (train.stage_three.epochs is 0), the model is stage two's")
