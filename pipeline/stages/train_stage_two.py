"""Stage two: fine alignment, {l1, l2, l3}, with the mask (section 3.5)."""

from typing import Annotated, Literal

import typer

from pipeline import paths
from pipeline.inputs import Inputs
from pipeline.training import STRATEGY, TWO, run_stage
from uar.core.device import seed_everything
from uar.core.distributed import launch
from uar.core.params_file import load_params
from uar.model.checkpoint import Checkpoint
from uar.training.stage import as_one_stage


def train_stage_two(
    restart: Annotated[bool, typer.Option(help="Do not resume a killed run.")] = False,
    strategy: Annotated[Literal["ddp", "fsdp"], typer.Option(help=STRATEGY)] = "ddp",
) -> None:
    """Go on from stage one's best epoch with the mask and its loss."""
    params = load_params(paths.PARAMS)
    fabric = launch(params.device, strategy)
    inputs = Inputs(params)
    checkpoint = Checkpoint.load(paths.STAGE_ONE)
    inputs.refuse_other_encoder(checkpoint.encoder_sha256, str(paths.STAGE_ONE))
    seed_everything(params.train.seed)
    refiner = params.model.model_dump(include={"tir", "tir_scale"})
    model = checkpoint.build(**refiner)
    stage = params.train.stage_two if params.train.two_stage else as_one_stage(params.train)
    run_stage(TWO, fabric, inputs, model, stage, restart)
