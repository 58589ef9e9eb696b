"""Tokenizers: a codebook and a stride that turn films into visual tokens."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from uar.core.device import split_for_convolution
from uar.core.errors import UserError
from uar.core.weights import read_safetensors, write_safetensors

DISTILLED = "distilled"  # metadata key in a DistilledTokenizer's file; its value names the network


class Tokenizer(nn.Module, ABC):
    """A network that turns films into tokens of a codebook.

    Attributes:
        stride: M, pixels along a token's side (section 3.2).
    """

    stride: int

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """Number of visual words, |V_I|."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Tokens `(N, H/M, W/M)` int64 of `(N, H, W)` gray pixels in [0, 1]."""

    @abstractmethod
    def encoder_state(self) -> dict[str, Tensor]:
        """Everything that decides which tokens a film gets."""

    @property
    def metadata(self) -> dict[str, str] | None:
        """Text that its file holds in addition to the weights."""
        return None

    def save(self, path: Path) -> None:
        """Write the encoder as safetensors."""
        write_safetensors(path, self.encoder_state(), self.metadata)

    def tokenize(self, pixels: Tensor) -> Tensor:
        """Tokens `(N, L)`, row by row, of `(N, H, W)` gray pixels in [0, 1]."""
        return torch.cat([self.encode(part) for part in split_for_convolution(pixels)]).flatten(1)

    def fingerprint(self) -> str:
        """SHA-256 over the encoder's weights: token caches with equal fingerprints may be mixed."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.encoder_state().items()):
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for other files."""
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        return read_safetensors(path)[1]
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({error}). Make it again."
        ) from None


def read_code_vectors(encoder: Path) -> Tensor:
    """Read the vectors that a tokenizer's codes stand for, `(codebook_size, D)`, from its file.

    Raises:
        UserError: its codes have no vectors, as is the case with a dVAE.
    """
    codes = None
    if DISTILLED in read_metadata(encoder):
        codes = read_safetensors(encoder)[0].get("codes")
    if codes is None:
        raise UserError(
            f"{encoder} holds no code vectors: model.token_embedding codes needs dvae.source "
            "distill, or use random."
        )
    return codes


def kmeans(points: Tensor, count: int, *, generator: torch.Generator, rounds: int = 8) -> Tensor:
    """Centres `(count, D)` of `(N, D)` points by Lloyd's algorithm; an empty one stays put."""
    centres = points[torch.randperm(len(points), generator=generator)[:count].to(points.device)]
    for _ in range(rounds):
        nearest = nearest_codes(points, centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = nearest.bincount(minlength=count).unsqueeze(1)
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    return centres


def nearest_codes(points: Tensor, codes: Tensor) -> Tensor:
    """Index `(N,)` of the nearest of `(K, D)` codes to each of `(N, D)` points."""
    half_norms = codes.square().sum(1) / 2
    parts = [(part @ codes.T - half_norms).argmax(1) for part in points.split(_CHUNK)]
    return torch.cat(parts)


_CHUNK = 16_384  # points whose scores over the codebook are in memory at once


def codebook_use(tokens: Tensor, codebook_size: int) -> dict[str, Any]:
    """How much of the codebook the tokens use: the codes that occur, and their perplexity."""
    share = tokens.flatten().bincount(minlength=codebook_size).float() / tokens.numel()
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {"codes_used": int((share > 0).sum()), "code_perplexity": entropy.exp().item()}
