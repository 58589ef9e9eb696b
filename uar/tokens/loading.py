"""A tokenizer from its files."""

from __future__ import annotations

from pathlib import Path

from uar.tokens.distilled import load_distilled
from uar.tokens.dvae import load_dvae
from uar.tokens.tokenizer import Tokenizer, read_metadata


def load_tokenizer(encoder: Path, decoder: Path) -> Tokenizer:
    """A tokenizer of whichever kind its files say.

    Args:
        encoder: safetensors of a dVAE or a distilled tokenizer, or OpenAI's encoder.pkl.
        decoder: its other half.

    Raises:
        UserError: a file is absent, is no such file, or the two halves do not fit each other.
    """
    if read_metadata(encoder).get("kind") == "distilled":
        return load_distilled(encoder, decoder)
    return load_dvae(encoder, decoder)
