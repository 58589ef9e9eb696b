"""A tokenizer from its file."""

from __future__ import annotations

from pathlib import Path

from uar.tokens.distilled import load_distilled
from uar.tokens.dvae import load_dvae
from uar.tokens.tokenizer import DISTILLED, Tokenizer, read_metadata


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer of whichever kind its file says.

    Args:
        path: safetensors of a dVAE's encoder or a distilled tokenizer, or OpenAI's encoder.pkl.

    Raises:
        UserError: the file is absent or is no such file.
    """
    if DISTILLED in read_metadata(path):
        return load_distilled(path)
    return load_dvae(path)
