"""The dVAE: trained on the training images, or brought in from files."""

import math

import torch
from tqdm import tqdm

from pipeline import paths
from pipeline.inputs import image_rows, open_images
from uar.core.config import load_params
from uar.core.device import resolve_device, seed_everything
from uar.core.files import write_json
from uar.data.views import resize_view
from uar.tokens.dvae import Dvae, load_dvae, reconstruction_quality, train_dvae

_MEASURED_IMAGES = 256


def dvae() -> None:
    """Train the dVAE on the training images, or take its weights from files."""
    params = load_params(paths.PARAMS)
    images = open_images()
    train_rows = image_rows(params, "train").ravel()
    if params.dvae.source == "train":
        seed_everything(params.seed)
        model = Dvae(params.dvae.codebook_size, params.dvae.hidden)
        steps = train_dvae(
            model,
            torch.from_numpy(images[train_rows]),
            params.dvae.train,
            resolve_device(params.device),
            params.precision,
            params.seed,
        )
        for number, values in enumerate(steps, 1):
            if number % 50 == 0:
                shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
                tqdm.write(f"step {number}: {shown}")
    else:
        assert params.dvae.encoder is not None and params.dvae.decoder is not None
        model = load_dvae(
            paths.untracked(params.dvae.encoder), paths.untracked(params.dvae.decoder)
        )
    model.cpu().save(paths.DVAE_ENCODER, paths.DVAE_DECODER)

    measured = train_rows[:: math.ceil(len(train_rows) / _MEASURED_IMAGES)]
    pixels = resize_view(torch.from_numpy(images[measured]), params.image.crop)
    summary = reconstruction_quality(model, pixels)
    write_json(paths.DVAE_SUMMARY, summary)
    print("dvae: " + ", ".join(f"{name} {value:.4g}" for name, value in summary.items()))
