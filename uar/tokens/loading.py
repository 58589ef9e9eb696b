"""Loading a tokenizer of any kind."""

from __future__ import annotations

from pathlib import Path

from uar.tokens.distilled import load_distilled
from uar.tokens.dvae import load_dvae
from uar.tokens.tokenizer import DISTILLED, Tokenizer, read_metadata


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file, of whichever kind.

    Args:
        path: safetensors of a dVAE's encoder or a distilled tokenizer, or OpenAI's encoder.pkl.

    Raises:
        UserError: the file is absent or holds something else.
    """
    if DISTILLED in read_metadata(path):
        return load_distilled(path)
    return load_dvae(path)
