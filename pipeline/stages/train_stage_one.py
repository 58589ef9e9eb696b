"""Stage one: coarse alignment, {l1, l2, 0}, no mask (section 3.5)."""

from __future__ import annotations

import logging

from pipeline import paths
from pipeline.training import ONE, Restart, Strategy, begin, run_stage, save_untrained
from uar.model.uar import UAR
from uar.tokens.tokenizer import read_code_vectors

log = logging.getLogger(__name__)


def train_stage_one(restart: Restart = False, strategy: Strategy = "ddp") -> None:
    """Train without the mask; with `train.two_stage: false`, only initialise the model."""
    fabric, inputs = begin(strategy)
    params = inputs.params
    model = UAR(params.model.model_copy(update={"tir": "none"}), inputs.sizes)
    weights = params.model.extractor.weights
    if model.unifier is None and weights != "none":
        model.extractor.load_pretrained(str(paths.external(weights)))
    if model.unifier is not None and params.model.token_embedding == "codes":
        model.unifier.start_from_codes(read_code_vectors(paths.DVAE_ENCODER))
    if params.train.two_stage:
        run_stage(ONE, fabric, inputs, model=model, stage=params.train.stage_one, restart=restart)
    elif fabric.is_global_zero:
        save_untrained(ONE, fabric, inputs, model)
        log.info("stage_one: skipped (train.two_stage is false), the model is only initialised")
