"""Transformer (Vaswani et al. 2017, layer norm first), the refiner in its decoder (Eq. 3, 11)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from uar.attention import MultiHeadAttention
from uar.config import ModelParams
from uar.refiner import PredictedMask, StaticMask


class FeedForward(nn.Sequential):
    """Two linear maps with a ReLU between them."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(d_model, d_ff), nn.ReLU(), nn.Dropout(dropout), nn.Linear(d_ff, d_model)
        )


class EncoderLayer(nn.Module):
    """Self-attention over visual features."""

    def __init__(self, params: ModelParams) -> None:
        super().__init__()
        d = params.d_model
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = MultiHeadAttention(d, params.heads)
        self.feed_forward = FeedForward(d, params.d_ff, params.dropout)
        self.dropout = nn.Dropout(params.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, L, d)` -> `(B, L, d)`."""
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, self.attention.keys_and_values(normed)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Encoder(nn.Module):
    """Stack of encoder layers over visual features with learned positions."""

    def __init__(self, params: ModelParams, visual_length: int) -> None:
        super().__init__()
        self.positions = Positions(visual_length, params.d_model)
        self.dropout = nn.Dropout(params.dropout)
        self.layers = nn.ModuleList(EncoderLayer(params) for _ in range(params.encoder_layers))
        self.norm = nn.LayerNorm(params.d_model)

    def forward(self, visual: Tensor) -> Tensor:
        """F^(I) `(B, L, d)` -> encoded visual features `(B, L, d)`."""
        x = self.dropout(visual + self.positions(0, visual.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


@dataclass
class LayerCache:
    """What a decoder layer keeps between steps of decoding G beams for each of B studies."""

    self_keys: Tensor  # (B * G, h, T, d/h), filled up to the current position
    self_values: Tensor
    visual_keys: Tensor  # (B, h, L, d/h), once per study, shared by its beams
    visual_values: Tensor
    visual: Tensor  # (B, L, d)

    def select(self, beams: Tensor, studies: Tensor | None = None) -> LayerCache:
        """Reorder beams by `(B' * G,)` indices, and keep only `studies` `(B',)` if given."""
        memory = [self.visual_keys, self.visual_values, self.visual]
        if studies is not None:
            memory = [tensor[studies] for tensor in memory]
        return LayerCache(self.self_keys[beams], self.self_values[beams], *memory)


class DecoderLayer(nn.Module):
    """Causal self-attention, text-to-image attention with the refiner's mask, feed-forward.

    Args:
        params: widths and switches.
        max_length: T.
        visual_length: L.
    """

    def __init__(self, params: ModelParams, max_length: int, visual_length: int) -> None:
        super().__init__()
        d = params.d_model
        self.self_norm, self.visual_norm, self.feed_forward_norm = (
            nn.LayerNorm(d),
            nn.LayerNorm(d),
            nn.LayerNorm(d),
        )
        self.self_attention = MultiHeadAttention(d, params.heads)
        self.visual_attention = MultiHeadAttention(d, params.heads)
        self.feed_forward = FeedForward(d, params.d_ff, params.dropout)
        self.dropout = nn.Dropout(params.dropout)
        self.refiner: StaticMask | PredictedMask | None = None
        if params.tir:
            self.refiner = (
                StaticMask(max_length, visual_length)
                if params.tir_mask == "static"
                else PredictedMask(d)
            )
        self.mask_scale = params.tir_scale / (d // params.heads) ** 0.5  # k / sqrt(d), Eq. 11

    def forward(self, x: Tensor, visual: Tensor) -> tuple[Tensor, Tensor | None]:
        """All text positions at once.

        Args:
            x: text states `(B, T, d)`.
            visual: encoded visual features `(B, L, d)`.

        Returns:
            States `(B, T, d)` and sigma(M), `(1 or B, T, L)`, if there is a refiner.
        """
        normed = self.self_norm(x)
        keys_and_values = self.self_attention.keys_and_values(normed)
        x = x + self.dropout(self.self_attention(normed, keys_and_values, causal=True))
        return self._refine(x, visual, self.visual_attention.keys_and_values(visual), position=0)

    def start(self, visual: Tensor, beams: int, max_length: int) -> LayerCache:
        """An empty cache for `beams` beams over each of `(B, L, d)` visual features."""
        keys, values = self.visual_attention.keys_and_values(visual)
        batch, heads, _, width = keys.shape
        empty = keys.new_zeros(batch * beams, heads, max_length, width)
        return LayerCache(empty, empty.clone(), keys, values, visual)

    def step(self, x: Tensor, cache: LayerCache, position: int) -> Tensor:
        """One text position, `(B * G, 1, d)` -> `(B * G, 1, d)`; writes its keys into `cache`."""
        normed = self.self_norm(x)
        key, value = self.self_attention.keys_and_values(normed)
        cache.self_keys[:, :, position] = key.squeeze(2)
        cache.self_values[:, :, position] = value.squeeze(2)
        past = cache.self_keys[:, :, : position + 1], cache.self_values[:, :, : position + 1]
        x = x + self.self_attention(normed, past)
        # a study's beams share its visual keys: they stand as G queries, at one text position
        x = x.squeeze(1).unflatten(0, (len(cache.visual), -1))  # (B, G, d)
        visual_keys_and_values = (cache.visual_keys, cache.visual_values)
        x, _ = self._refine(x, cache.visual, visual_keys_and_values, position, same_position=True)
        return x.flatten(0, 1).unsqueeze(1)

    def _refine(
        self,
        x: Tensor,
        visual: Tensor,
        visual_keys_and_values: tuple[Tensor, Tensor],
        position: int,
        same_position: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        normed = self.visual_norm(x)
        mask = bias = None
        if self.refiner is not None:
            queries = normed[:, :1] if same_position and self.mask_is_static else normed
            mask = self.refiner(queries, visual, position)  # sigma(M), (1 or B, T, L)
            # Eq. 11; the constant is lost in softmax and keeps low precision exact near 0
            bias = (self.mask_scale * (mask - 0.5)).unsqueeze(1)
        x = x + self.dropout(self.visual_attention(normed, visual_keys_and_values, bias=bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), mask

    @property
    def mask_is_static(self) -> bool:
        """Whether sigma(M) depends on the text position alone."""
        return isinstance(self.refiner, StaticMask)


class Decoder(nn.Module):
    """Stack of decoder layers over text features with learned positions."""

    def __init__(self, params: ModelParams, max_length: int, visual_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.positions = Positions(max_length, params.d_model)
        self.dropout = nn.Dropout(params.dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(params, max_length, visual_length) for _ in range(params.decoder_layers)
        )
        self.norm = nn.LayerNorm(params.d_model)

    def forward(self, text: Tensor, visual: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Hidden states h_t of Eq. 3.

        Args:
            text: F^(R) of the words before each position `(B, T, d)`.
            visual: encoded visual features `(B, L, d)`.

        Returns:
            `(B, T, d)`, and each layer's sigma(M).
        """
        x = self.dropout(text + self.positions(0, text.shape[1]))
        masks = []
        for layer in self.layers:
            x, mask = layer(x, visual)
            if mask is not None:
                masks.append(mask)
        return self.norm(x), masks

    def start(self, visual: Tensor, beams: int) -> list[LayerCache]:
        """Empty caches for decoding `beams` beams over each of `(B, L, d)` visual features."""
        return [layer.start(visual, beams, self.max_length) for layer in self.layers]

    def step(self, text: Tensor, caches: list[LayerCache], position: int) -> Tensor:
        """h_t of one position, `(B * G, d)`, from its input word's F^(R) `(B * G, d)`."""
        x = (text + self.positions(position, position + 1)).unsqueeze(1)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer.step(x, cache, position)
        return self.norm(x).squeeze(1)


class Positions(nn.Module):
    """Learned positions, on the scale of the embeddings they are added to.

    Args:
        length: number of positions.
        d_model: d.
    """

    def __init__(self, length: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(length, d_model) * d_model**-0.5)

    def forward(self, start: int, end: int) -> Tensor:
        """Positions `start .. end - 1`, `(end - start, d)`."""
        return self.table[start:end] * self.table.shape[1] ** 0.5
