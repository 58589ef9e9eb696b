"""Offline tokenization of every image."""

from __future__ import annotations

import logging

import numpy as np

from pipeline import paths
from pipeline.inputs import image_rows, open_images
from pipeline.provenance import stages
from uar.core.distributed import launch
from uar.core.params_file import load_params
from uar.data.views import Views
from uar.tokens.cache import PackedImages, TokenEncoding, tokenize_images
from uar.tokens.loading import load_tokenizer

log = logging.getLogger(__name__)


def tokenize() -> None:
    """Encode every image once into the cached token array."""
    params = load_params(paths.PARAMS)
    fabric = launch(params.device)
    count, size, _ = open_images().shape
    in_training = np.zeros(count, dtype=bool)
    in_training[image_rows(params, "train").ravel()] = True
    tokenizer = load_tokenizer(paths.DVAE_ENCODER)
    views = Views(
        kind=params.tokenize.views,
        crops=params.tokenize.crops,
        crop=params.image.crop,
        size=size,
        stride=tokenizer.stride,
        seed=params.seed,
    )
    info = tokenize_images(
        TokenEncoding(
            fabric,
            tokenizer,
            batch_size=params.tokenize.batch_size,
            precision=params.tokenize.precision,
        ),
        PackedImages(paths.IMAGES, in_training, views),
        paths.TOKENS,
        stages()["tokenize"].scratch(params),
    )
    if fabric.is_global_zero:
        info.save(paths.TOKENS_INFO)
        log.info(
            f"tokenize: {info.shape} tokens, codebook of {info.codebook_size}, {info.agreement}"
        )
