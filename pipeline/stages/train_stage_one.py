"""Stage one: coarse alignment, {l1, l2, 0}, no mask (section 3.5)."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

import typer

from pipeline import paths
from pipeline.inputs import Inputs
from pipeline.training import ONE, STRATEGY, run_stage, save_untrained
from uar.core.device import seed_everything
from uar.core.distributed import launch
from uar.core.params_file import load_params
from uar.model.uar import UAR
from uar.tokens.tokenizer import read_code_vectors

log = logging.getLogger(__name__)


def train_stage_one(
    restart: Annotated[bool, typer.Option(help="Do not resume a killed run.")] = False,
    strategy: Annotated[Literal["ddp", "fsdp"], typer.Option(help=STRATEGY)] = "ddp",
) -> None:
    """Train without the mask; with `train.two_stage: false`, only initialise the model."""
    params = load_params(paths.PARAMS)
    fabric = launch(params.device, strategy)
    inputs = Inputs(params)
    seed_everything(params.train.seed)
    model = UAR(params.model.model_copy(update={"tir": "none"}), inputs.sizes)
    weights = params.model.extractor.weights
    if model.unifier is None and weights != "none":
        model.extractor.load_pretrained(str(paths.external(weights)))
    if model.unifier is not None and params.model.token_embedding == "codes":
        model.unifier.start_from_codes(read_code_vectors(paths.DVAE_ENCODER))
    if not params.train.two_stage:
        if fabric.is_global_zero:
            save_untrained(ONE, fabric, inputs, model)
            log.info("stage_one: skipped (train.two_stage is false), model initialised only")
        return
    run_stage(ONE, fabric, inputs, model, params.train.stage_one, restart)
