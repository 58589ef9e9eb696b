"""The decoder of visual tokens, for Figure 6."""

from __future__ import annotations

import torch

from pipeline import paths
from pipeline.inputs import fitted_views
from uar.core.device import resolve_device, seed_everything
from uar.core.params_file import load_params
from uar.core.progress import log_steps
from uar.tokens.decoder import TokenDecoder, load_decoder, train_decoder
from uar.tokens.loading import load_tokenizer


def dvae_decoder() -> None:
    """The dVAE's own decoder; for distilled codes one is trained here."""
    params = load_params(paths.PARAMS)
    tokenizer = load_tokenizer(paths.DVAE_ENCODER)
    if params.dvae.source == "distill":
        seed_everything(params.seed)
        decoder = TokenDecoder(tokenizer.codebook_size, params.dvae.hidden, stride=tokenizer.stride)
        generator = torch.Generator().manual_seed(params.seed)
        views, device = fitted_views(params, generator), resolve_device(params.device)
        log_steps(
            train_decoder(
                decoder,
                tokenizer,
                views,
                params=params.dvae.train,
                device=device,
                precision=params.precision,
                generator=generator,
            )
        )
    elif params.dvae.source == "train":
        decoder = load_decoder(paths.DVAE_ENCODER, tokenizer)
    else:
        assert params.dvae.decoder is not None
        decoder = load_decoder(paths.external(params.dvae.decoder), tokenizer)
    decoder.save(paths.DVAE_DECODER)
