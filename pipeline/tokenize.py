"""Offline tokenization of every image."""

import numpy as np

from pipeline import paths
from pipeline.inputs import image_rows, open_images
from uar.config import load_params
from uar.device import resolve_device
from uar.dvae import load_dvae
from uar.files import whole_file, write_json
from uar.tokens import info_as_json, tokenize_images


def tokenize() -> None:
    """Encode every image once into the cached token array."""
    params = load_params(paths.PARAMS)
    images = open_images()
    in_training = np.zeros(len(images), dtype=bool)
    in_training[image_rows(params, "train").ravel()] = True
    with whole_file(paths.TOKENS) as out:
        info = tokenize_images(
            load_dvae(paths.DVAE_ENCODER, paths.DVAE_DECODER),
            images,
            in_training,
            crop=params.image.crop,
            crops=params.tokenize.crops,
            batch_size=params.tokenize.batch_size,
            seed=params.seed,
            device=resolve_device(params.device),
            precision=params.precision,
            out=out,
        )
    write_json(paths.TOKENS_INFO, info_as_json(info))
    print(f"tokenize: {info.shape} tokens of {info.codebook_size}")
