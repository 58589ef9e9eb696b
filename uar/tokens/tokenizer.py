"""What makes visual tokens of films: a codebook, a stride, and a way back to pixels."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from uar.core.device import few_at_once
from uar.core.errors import UserError
from uar.core.weights import read_safetensors


class Tokenizer(nn.Module, ABC):
    """Films to tokens of a codebook and back.

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
    def reconstruct(self, tokens: Tensor) -> Tensor:
        """Gray pixels `(N, H, W)` in [0, 1] of a square grid of tokens `(N, L)`."""

    @abstractmethod
    def encoder_state(self) -> dict[str, Tensor]:
        """All that decides which tokens a film gets."""

    @abstractmethod
    def save(self, encoder: Path, decoder: Path) -> None:
        """Write what makes tokens and what makes pixels of them, as safetensors."""

    def tokenize(self, pixels: Tensor) -> Tensor:
        """Tokens `(N, L)`, row by row, of `(N, H, W)` gray pixels in [0, 1]."""
        return torch.cat([self.encode(part) for part in few_at_once(pixels)]).flatten(1)

    def fingerprint(self) -> str:
        """SHA-256 over the encoder's weights: two caches agree if their encoders do."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.encoder_state().items()):
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def read_metadata(path: Path) -> dict[str, str]:
    """The text beside a safetensors file's weights; empty for other files."""
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        return read_safetensors(path)[1]
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no whole safetensors file ({error}). Make it again.") from None


def read_code_vectors(encoder: Path) -> Tensor:
    """What a tokenizer's codes stand for, `(codebook_size, D)`, from its saved encoder.

    Raises:
        UserError: its codes are but numbers, as a dVAE's.
    """
    codes = None
    if read_metadata(encoder).get("kind") == "distilled":
        codes = read_safetensors(encoder)[0].get("codes")
    if codes is None:
        raise UserError(
            f"{encoder} holds no code vectors: model.token_embedding codes needs dvae.source "
            "distill, or use random."
        )
    return codes


def kmeans(points: Tensor, count: int, generator: torch.Generator, rounds: int = 8) -> Tensor:
    """Centres `(count, D)` of `(N, D)` points by Lloyd's algorithm; an empty one stays in place."""
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
    """How much of the codebook tokens use: codes that occur, and their perplexity."""
    share = tokens.flatten().bincount(minlength=codebook_size).float() / tokens.numel()
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return {"codes_used": int((share > 0).sum()), "code_perplexity": entropy.exp().item()}


def reconstruction_quality(model: Tokenizer, pixels: Tensor) -> dict[str, Any]:
    """Mean squared error of the round trip through tokens, and how much of the codebook it used.

    Args:
        pixels: `(N, H, W)` gray, in [0, 1].
    """
    with torch.inference_mode():
        tokens = model.tokenize(pixels)
        error = nn.functional.mse_loss(model.reconstruct(tokens), pixels)
    return {
        "mse": error.item(),
        "psnr_db": (-10 * torch.log10(error)).item(),
        **codebook_use(tokens, model.codebook_size),
    }
