"""The tokenizer: trained on the training images, or brought in from files."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping

import torch

from pipeline import paths
from pipeline.inputs import image_rows, open_images
from uar.core.config import Params
from uar.core.device import resolve_device, seed_everything
from uar.core.files import write_json
from uar.core.params_file import load_params
from uar.data.views import resize_view
from uar.networks.pretrained import FeatureNetwork, load_network
from uar.tokens.distilled import DistilledTokenizer, fit_codes, train_decoder
from uar.tokens.dvae import Dvae, train_dvae
from uar.tokens.loading import load_tokenizer
from uar.tokens.tokenizer import Tokenizer, reconstruction_quality

_MEASURED_IMAGES = 256
_STEPS_A_LINE = 50

log = logging.getLogger(__name__)


def dvae() -> None:
    """Train what makes the visual tokens on the training images, or take its weights from files."""
    params = load_params(paths.PARAMS)
    images = open_images()
    train_rows = image_rows(params, "train").ravel()
    if params.dvae.source in ("train", "distill"):
        seed_everything(params.seed)
        train = {"train": _train, "distill": _distill}[params.dvae.source]
        model = train(torch.from_numpy(images[train_rows]), params)
    else:
        assert params.dvae.encoder is not None and params.dvae.decoder is not None
        model = load_tokenizer(
            paths.external(params.dvae.encoder), paths.external(params.dvae.decoder)
        )
    model.cpu().save(paths.DVAE_ENCODER, paths.DVAE_DECODER)

    measured = train_rows[:: math.ceil(len(train_rows) / _MEASURED_IMAGES)]
    pixels = resize_view(torch.from_numpy(images[measured]), params.image.crop)
    summary = reconstruction_quality(model, pixels)
    write_json(paths.DVAE_SUMMARY, summary)
    log.info("dvae: " + ", ".join(f"{name} {value:.4g}" for name, value in summary.items()))


def _train(images: torch.Tensor, params: Params) -> Tokenizer:
    model = Dvae(params.dvae.codebook_size, params.dvae.hidden)
    device = resolve_device(params.device)
    train = params.dvae.train
    network = _network(params).to(device) if train.perceptual_weight > 0 else None
    _run(train_dvae(model, images, train, device, params.precision, params.seed, network))
    return model


def _network(params: Params) -> FeatureNetwork:
    """The pretrained network, which trains no further."""
    chosen = params.dvae.distill
    weights = None if chosen.weights is None else paths.external(chosen.weights)
    return load_network(chosen.network, weights, "dvae.distill").requires_grad_(False)


def _distill(images: torch.Tensor, params: Params) -> Tokenizer:
    chosen, device = params.dvae.distill, resolve_device(params.device)
    model = DistilledTokenizer(
        _network(params), params.dvae.codebook_size, chosen.components, params.dvae.hidden
    ).to(device)
    views = torch.cat([resize_view(part, params.image.crop) for part in images.split(64)])
    fit_codes(model, views, chosen, params.seed)
    _run(train_decoder(model, views, params.dvae.train, device, params.precision, params.seed))
    return model


def _run(steps: Iterable[Mapping[str, float]]) -> None:
    for number, values in enumerate(steps, 1):
        if number % _STEPS_A_LINE == 0:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            log.info("step %d: %s", number, shown)
