"""The tokenizer: fitted to the training films, or brought in from files."""

from __future__ import annotations

import logging
import math

import torch

from pipeline import paths
from pipeline.inputs import fitted_views, training_films
from uar.core.config import Params
from uar.core.device import resolve_device, seed_everything
from uar.core.files import write_json
from uar.core.params_file import load_params
from uar.core.progress import log_steps
from uar.data.views import PackedFilms, resize_view
from uar.networks.pretrained import FeatureNetwork, load_network
from uar.tokens.decoder import TokenDecoder, load_decoder, save_both
from uar.tokens.distilled import DistilledTokenizer, fit_codes
from uar.tokens.dvae import Dvae, train_dvae
from uar.tokens.loading import load_tokenizer
from uar.tokens.tokenizer import Tokenizer, codebook_use

_MEASURED_FILMS = 256

log = logging.getLogger(__name__)


def dvae() -> None:
    """Fit what makes the visual tokens to the training films, or take its weights from a file."""
    params = load_params(paths.PARAMS)
    films = training_films(params)
    if params.dvae.source in ("train", "distill"):
        seed_everything(params.seed)
        tokenizer = _train(films, params) if params.dvae.source == "train" else _distill(params)
    else:
        tokenizer = _bring_in(params)
    measured = torch.arange(0, len(films), math.ceil(len(films) / _MEASURED_FILMS))
    with torch.inference_mode():
        tokens = tokenizer.cpu().tokenize(resize_view(films[measured], params.image.crop))
    summary = codebook_use(tokens, tokenizer.codebook_size)
    write_json(paths.DVAE_SUMMARY, summary)
    log.info("dvae: " + ", ".join(f"{name} {value:.4g}" for name, value in summary.items()))


def _train(films: PackedFilms, params: Params) -> Tokenizer:
    """Train encoder and decoder together and save them in one file."""
    model = Dvae(params.dvae.codebook_size, params.dvae.hidden)
    decoder = TokenDecoder(params.dvae.codebook_size, params.dvae.hidden, stride=model.stride)
    device, train = resolve_device(params.device), params.dvae.train
    taught = train.perceptual_weight > 0 or train.feature_weight > 0
    network = _network(params).to(device) if taught else None
    log_steps(
        train_dvae(
            model,
            decoder,
            films,
            params=train,
            device=device,
            precision=params.precision,
            seed=params.seed,
            network=network,
        )
    )
    save_both(paths.DVAE_ENCODER, model, decoder)
    return model


def _distill(params: Params) -> Tokenizer:
    chosen = params.dvae.distill
    model = DistilledTokenizer(_network(params), params.dvae.codebook_size, chosen.components)
    generator = torch.Generator().manual_seed(params.seed)
    views = fitted_views(params, generator)
    fit_codes(model.to(resolve_device(params.device)), views, params=chosen, generator=generator)
    model.save(paths.DVAE_ENCODER)
    return model


def _bring_in(params: Params) -> Tokenizer:
    assert params.dvae.encoder is not None and params.dvae.decoder is not None
    model = load_tokenizer(paths.external(params.dvae.encoder))
    load_decoder(paths.external(params.dvae.decoder), model)  # refused now rather than at the end
    model.save(paths.DVAE_ENCODER)
    return model


def _network(params: Params) -> FeatureNetwork:
    """The pretrained network, which is not trained further."""
    chosen = params.dvae.distill
    weights = None if chosen.weights is None else paths.external(chosen.weights)
    return load_network(chosen.network, weights, "dvae.distill").requires_grad_(False)
