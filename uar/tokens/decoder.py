"""Decoders from tokens back to films, for Figure 6: a dVAE's own, or one trained on the tokens.

No other part of the project needs it: tokenizers are complete without a decoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uar.core.config import DvaeTrainParams
from uar.core.device import autocast
from uar.core.errors import UserError, plainly
from uar.core.progress import progress
from uar.core.schedule import warmup_cosine
from uar.core.weights import fill_module, refuse_absurd, write_safetensors
from uar.tokens.openai import dall_e, read_dall_e
from uar.tokens.tokenizer import Tokenizer, codebook_use

OWN_DECODER = "decoder."  # prefix of its weights' names in a file with a tokenizer
_UPSAMPLING = 8  # of `dall_e.Decoder`
_WARMUP = 0.1  # share of the steps with rising learning rate


class TokenDecoder(nn.Module):
    """Gray films from tokens: `dall_e.Decoder`, its output enlarged if a token is wider than 8.

    Args:
        codebook_size: visual words, |V_I|.
        hidden: channels of the last group of blocks; at least 64.
        stride: M, pixels along a token's side.
        first: channels of the first layer.
        device: where its weights are; on `meta` they are only shapes.
    """

    def __init__(
        self, codebook_size: int, hidden: int, *, stride: int, first: int = 128, device: str = "cpu"
    ) -> None:
        super().__init__()
        self.codebook_size, self.stride = codebook_size, stride
        self.layers = dall_e.Decoder(
            n_hid=hidden, vocab_size=codebook_size, n_init=first, device=torch.device(device)
        )

    def forward(self, codes: Tensor) -> Tensor:
        """Means and log-scales `(N, 6, 8h, 8w)`, given weights over codes `(N, |V_I|, h, w)`."""
        return self.layers(codes).float()

    def statistics(self, tokens: Tensor) -> Tensor:
        """Means and log-scales `(N, 6, 8h, 8w)`, given tokens `(N, h, w)`."""
        return self(F.one_hot(tokens.long(), self.codebook_size).float().movedim(-1, 1))

    def reconstruct(self, tokens: Tensor) -> Tensor:
        """Gray pixels `(N, H, W)` in [0, 1] of a square grid of tokens `(N, L)`."""
        side = int(tokens.shape[1] ** 0.5)
        films = gray(self.statistics(tokens.unflatten(1, (side, side))))
        if self.stride == _UPSAMPLING:
            return films
        whole = (side * self.stride, side * self.stride)
        return F.interpolate(films.unsqueeze(1), whole, mode="bilinear").squeeze(1).clamp(0, 1)

    def save(self, path: Path) -> None:
        """Write the weights as safetensors."""
        write_safetensors(path, self.layers.state_dict())


def save_both(path: Path, tokenizer: Tokenizer, decoder: TokenDecoder) -> None:
    """Write a tokenizer and the decoder that was trained with it into one safetensors file."""
    own = {f"{OWN_DECODER}{name}": w for name, w in decoder.layers.state_dict().items()}
    write_safetensors(path, tokenizer.encoder_state() | own, tokenizer.metadata)


def load_decoder(path: Path, tokenizer: Tokenizer) -> TokenDecoder:
    """Load the decoder of a tokenizer's tokens, with sizes taken from the weights.

    Args:
        path: what `TokenDecoder.save` or `save_both` wrote, or OpenAI's decoder.pkl.
        tokenizer: the one whose tokens it reads.

    Raises:
        UserError: the file is absent, holds something else, or is for another codebook.
    """
    weights = read_dall_e(path)
    own = {n.removeprefix(OWN_DECODER): w for n, w in weights.items() if n.startswith(OWN_DECODER)}
    weights = own or weights
    try:
        first, codebook_size = weights["blocks.input.w"].shape[:2]
        hidden = weights["blocks.group_4.block_1.id_path.w"].shape[0]
        decoder = TokenDecoder(
            codebook_size, hidden, stride=tokenizer.stride, first=first, device="meta"
        )
        fill_module(decoder.layers, weights)
    except (KeyError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is not the decoder of a dall_e dVAE: {plainly(error)}") from None
    refuse_absurd(path, weights)
    if codebook_size != tokenizer.codebook_size:
        raise UserError(
            f"{path} has a codebook of {codebook_size} codes, but the tokenizer's has "
            f"{tokenizer.codebook_size}: the two are from different runs."
        )
    return decoder.eval()


def train_decoder(
    decoder: TokenDecoder,
    tokenizer: Tokenizer,
    views: Tensor,
    *,
    params: DvaeTrainParams,
    device: torch.device,
    precision: str,
    generator: torch.Generator,
) -> Iterator[dict[str, Tensor]]:
    """Fit the decoder to the films' pixels given their tokens, by the dVAE's likelihood.

    Args:
        views: `(N, crop, crop)` gray in [0, 1], whole views of films of the training split.
        params: steps, batch, learning rate; `crop` is the side of the windows that are decoded, in
            output pixels of `dall_e.Decoder`.
        generator: draws films and windows.

    Yields:
        Each step's `reconstruction` (nats per pixel value), on the device.
    """
    tokenizer.to(device).eval()
    decoder.to(device).train()
    side = views.shape[-1] // tokenizer.stride
    pixels = F.interpolate(
        views.unsqueeze(1), (side * _UPSAMPLING,) * 2, mode="bilinear", antialias=True
    ).squeeze(1)
    with torch.inference_mode():
        parts = progress(views.split(2), "tokens", len(views) // 2)
        tokens = torch.cat([tokenizer.encode(part.to(device)).cpu() for part in parts])  # (N, h, w)
    window = min(side, max(1, params.crop // _UPSAMPLING))
    optimizer = torch.optim.AdamW(
        decoder.parameters(), params.learning_rate, betas=(0.9, 0.99), fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(params.steps, _WARMUP))
    for _ in progress(range(params.steps), "decoder", params.steps):
        rows = torch.randint(len(views), (params.batch_size,), generator=generator)
        top, left = torch.randint(side - window + 1, (2,), generator=generator).tolist()
        of_tokens = (rows, slice(top, top + window), slice(left, left + window))
        begin, end = (torch.tensor([top, left]) + e for e in (0, window))
        (y0, x0), (y1, x1) = (begin * _UPSAMPLING).tolist(), (end * _UPSAMPLING).tolist()
        with autocast(device, precision):
            statistics = decoder.statistics(tokens[of_tokens].to(device))
        target = pixels[rows, y0:y1, x0:x1].to(device)
        loss = -logit_laplace(target, statistics).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield {"reconstruction": loss.detach()}
    decoder.eval()


def gray(statistics: Tensor) -> Tensor:
    """Pixels `(N, H, W)` in [0, 1], given the decoder's statistics `(N, 6, H, W)`."""
    mean, _ = statistics.chunk(2, dim=1)
    return dall_e.unmap_pixels(torch.sigmoid(mean)).mean(dim=1)


def logit_laplace(pixels: Tensor, statistics: Tensor) -> Tensor:
    """Log-density of gray `pixels` `(N, H, W)` (Ramesh et al. 2021, Eq. 2 of appendix A.3).

    Args:
        statistics: `(N, 6, H, W)`, the decoder's means and log-scales of three channels.
    """
    x = dall_e.map_pixels(pixels.unsqueeze(1)).expand(-1, 3, -1, -1)
    mean, log_scale = statistics.chunk(2, dim=1)
    distance = (torch.logit(x) - mean).abs() / log_scale.exp()
    return -distance - log_scale - torch.log(2 * x * (1 - x))


def reconstruction_quality(
    tokenizer: Tokenizer, decoder: TokenDecoder, pixels: Tensor
) -> dict[str, Any]:
    """Mean squared error of the round trip through tokens, and how much of the codebook it used.

    Args:
        pixels: `(N, H, W)` gray, in [0, 1].
    """
    with torch.inference_mode():
        tokens = tokenizer.tokenize(pixels)
        error = F.mse_loss(decoder.reconstruct(tokens), pixels)
    return {
        "mse": error.item(),
        "psnr_db": -10 * math.log10(error.item()),
        **codebook_use(tokens, tokenizer.codebook_size),
    }
