"""The Transformer (Vaswani et al. 2017, pre-norm) with the refiner in its decoder (Eq. 3, 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from uar.core.config import ModelParams
from uar.model.attention import MultiHeadAttention
from uar.model.refiner import PredictedMask, StaticMask


class Dropout(nn.Dropout):
    """Dropout that, in eager mode on a CPU, draws 16 random bits per value instead of a number.

    There p is rounded to the nearest multiple of 2^-16. Elsewhere this is PyTorch's own dropout.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(*)` -> `(*)`: each value is zero with probability p, else scaled by 1 / (1 - p)."""
        if not self.training or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        dropped = round(self.p * 2**16)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        return x * (bits >= dropped - 2**15).to(x.dtype).mul_(2**16 / (2**16 - dropped))


_IN_CACHE = 2**21  # values of a hidden layer (8 MB) that still fit into a CPU's cache


class FeedForward(nn.Sequential):
    """Two linear maps with a ReLU between them, `(*, d_model)` -> `(*, d_model)`.

    Args:
        d_model: d.
        d_ff: width of the hidden layer between the maps.
        dropout: probability with which a hidden value is zeroed in training.
    """

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(d_model, d_ff), nn.ReLU(), Dropout(dropout), nn.Linear(d_ff, d_model)
        )


class EncoderLayer(nn.Module):
    """Self-attention over visual features.

    Args:
        params: widths, heads and dropout.
    """

    def __init__(self, params: ModelParams) -> None:
        super().__init__()
        d = params.d_model
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = MultiHeadAttention(d, params.heads)
        self.feed_forward = FeedForward(d, params.d_ff, params.dropout)
        self.dropout = Dropout(params.dropout)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """`(B, L, d)` -> `(B, L, d)`; `seen` comes from `missing_view_mask`."""
        normed = self.attention_norm(x)
        keys_and_values = self.attention.keys_and_values(normed)
        x = x + self.dropout(self.attention(normed, keys_and_values, bias=seen))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Encoder(nn.Module):
    """A stack of encoder layers over visual features with learned positions.

    Args:
        params: widths, heads, dropout and the number of layers.
        visual_length: L, the number of visual tokens of a study.
    """

    def __init__(self, params: ModelParams, visual_length: int) -> None:
        super().__init__()
        self.d_ff = params.d_ff
        self.positions = Positions(visual_length, params.d_model)
        self.dropout = Dropout(params.dropout)
        self.layers = nn.ModuleList(EncoderLayer(params) for _ in range(params.encoder_layers))
        self.norm = nn.LayerNorm(params.d_model)

    def forward(self, visual: Tensor, seen: Tensor | None = None) -> Tensor:
        """F^(I) `(B, L, d)` -> encoded visual features `(B, L, d)`.

        Args:
            seen: hides the tokens of missing views; comes from `missing_view_mask`.
        """
        parts = self._blocks(visual)
        masks = [None] * len(parts) if seen is None else seen.split(len(parts[0]))
        encoded = [self._encode(*part) for part in zip(parts, masks, strict=True)]
        return torch.cat(encoded) if len(encoded) > 1 else encoded[0]

    def _blocks(self, visual: Tensor) -> Sequence[Tensor]:
        """Split studies, on a CPU without gradients, so that hidden layers fit into its cache."""
        if torch.is_grad_enabled() or visual.device.type != "cpu":
            return [visual]
        blocks = -(-visual[..., 0].numel() * self.d_ff // _IN_CACHE)
        return visual.split(-(-len(visual) // max(1, blocks)))

    def _encode(self, visual: Tensor, seen: Tensor | None) -> Tensor:
        x = self.dropout(visual + self.positions(0, visual.shape[1]))
        for layer in self.layers:
            x = layer(x, seen)
        return self.norm(x)


def tokens_of(present: Tensor, visual: Tensor) -> Tensor:
    """Which tokens belong to views that the study has, `(B, L)` bool.

    Args:
        present: which views each study has, `(B, V)` bool; each has at least one.
        visual: visual features `(B, L, d)`, of which each view has L / V tokens.
    """
    return present.repeat_interleave(visual.shape[1] // present.shape[1], dim=1)


def missing_view_mask(present: Tensor | None, visual: Tensor) -> Tensor | None:
    """Attention bias `(B, 1, 1, L)`: 0 for tokens of present views, -inf for the others.

    None if `present` is None, which means that every study has every view.
    """
    if present is None:
        return None
    hidden = ~tokens_of(present, visual)
    return visual.new_zeros(hidden.shape).masked_fill(hidden, -torch.inf)[:, None, None]


@dataclass
class LayerCache:
    """What a decoder layer keeps between the steps of decoding G texts for each of B studies."""

    keys: Tensor  # filled in place: (B, h, T * G, d/h) for beams, (B * G, h, T, d/h) for `Rows`
    values: Tensor
    visual_keys: Tensor | None = None  # (B, h, L, d/h), once per study, shared by its texts
    visual_values: Tensor | None = None
    mask_keys: Tensor | None = None  # (B, L, d), for a predicted sigma(M)
    attended: Tensor | None = None  # (B, 1, d), replaces the three above if no film is seen


@dataclass(frozen=True)
class Rows:
    """R rows of texts of B studies, any number per study: texts identical so far share a row."""

    study: Tensor  # (R,), the study of each row
    place: Tensor  # (R,), index among the rows of its study, from 0
    width: int  # the most rows that a study has

    @classmethod
    def of(cls, study: Tensor) -> Rows:
        """Make rows for these studies `(R,)`, one per entry."""
        counts = study.bincount()
        order = study.argsort(stable=True)
        place = torch.empty_like(study)
        before = (counts.cumsum(0) - counts)[study[order]]
        place[order] = torch.arange(len(study), device=study.device) - before
        return cls(study, place, int(counts.max()))

    def padded(self, x: Tensor, studies: int) -> Tensor:
        """Arrange `(R, d)` as `(B, width, d)`, with zeros where a study has fewer rows."""
        grid = x.new_zeros(studies, self.width, x.shape[1])
        grid[self.study, self.place] = x
        return grid

    def flat(self, grid: Tensor) -> Tensor:
        """Arrange `(B, width, d)` as `(R, d)`."""
        return grid[self.study, self.place]


@dataclass
class Cache:
    """What the decoder keeps between steps, for up to G texts of each of B studies.

    Beams: keys and values stay in the slots to which they were written. When beams branch, only the
    record of each beam's ancestors is copied: of its study's slots, a beam attends only to those of
    its ancestors.

    Rows (samples): each has T slots of its own. A row whose texts continue with different words is
    copied; rows whose texts have ended are reused for others (`regroup`).
    """

    layers: list[LayerCache]  # in the decoder's order
    texts: int  # G
    ancestors: Tensor | None  # for beams: (B, 1, G, T * G), 0 for slots of ancestors, else -inf
    rows: Rows | None  # for samples
    seen: Tensor | None = None  # (B, 1, 1, L), from `missing_view_mask`
    prompt: Tensor | None = None  # (B, 1, d), added to every word's features
    position: int = 0  # of the next word

    @property
    def slots(self) -> slice:
        """The slots of `position`, one per beam."""
        return slice(self.position * self.texts, (self.position + 1) * self.texts)

    def branch(self, parents: Tensor) -> None:
        """Let beam g of each study continue beam `parents[:, g]`; `parents` is `(B, G)`."""
        assert self.ancestors is not None  # these texts may branch
        past = self.ancestors[..., : self.slots.start]
        past.copy_(past.gather(2, parents[:, None, :, None].expand_as(past)))

    def regroup(self, origins: Tensor, places: Tensor, rows: Rows) -> None:
        """Copy rows `origins`, some of which are then given up, to rows `places`, both `(M,)`.

        Args:
            rows: the rows after the move.
        """
        for layer in self.layers:
            for slots in (layer.keys, layer.values):
                slots[places, :, : self.position] = slots[origins, :, : self.position]
        self.rows = rows

    def keep(self, rows: Sequence[int], moved: Sequence[int]) -> None:
        """Keep only B' of the studies, in place; keys and values of `Rows` stay as they are.

        Args:
            rows: the studies to keep, B' of them; `rows[i]` is either i or at least B'.
            moved: the places i for which `rows[i]` is not i.
        """
        device = self.layers[0].keys.device
        places = torch.tensor(moved, dtype=torch.int64).to(device, non_blocking=True)
        origins = torch.tensor([rows[place] for place in moved], dtype=torch.int64)
        origins = origins.to(device, non_blocking=True)

        def closed_up(tensor: Tensor) -> Tensor:
            tensor[places] = tensor[origins]
            return tensor[: len(rows)]

        self.ancestors = None if self.ancestors is None else closed_up(self.ancestors)
        self.seen = None if self.seen is None else closed_up(self.seen)
        self.prompt = None if self.prompt is None else closed_up(self.prompt)
        of_rows = () if self.rows is None else ("keys", "values")
        for layer in self.layers:
            for name, tensor in vars(layer).items():
                if tensor is not None and name not in of_rows:
                    setattr(layer, name, closed_up(tensor))


class DecoderLayer(nn.Module):
    """Causal self-attention, text-to-image attention with the refiner's mask, feed-forward.

    Args:
        params: widths and switches.
        max_length: T, the most words of a report.
        visual_length: L, the number of visual tokens of a study.
    """

    def __init__(self, params: ModelParams, max_length: int, visual_length: int) -> None:
        super().__init__()
        d = params.d_model
        self.self_norm, self.visual_norm, self.feed_forward_norm = (
            nn.LayerNorm(d) for _ in range(3)
        )
        self.self_attention = MultiHeadAttention(d, params.heads)
        self.visual_attention = MultiHeadAttention(d, params.heads)
        self.feed_forward = FeedForward(d, params.d_ff, params.dropout)
        self.dropout = Dropout(params.dropout)
        self.refiner: StaticMask | PredictedMask | None = None
        if params.tir == "static":
            self.refiner = StaticMask(max_length, visual_length)
        elif params.tir == "predicted":
            self.refiner = PredictedMask(d)
        self.mask_scale = params.tir_scale / (d // params.heads) ** 0.5  # k / sqrt(d), Eq. 11

    def forward(
        self, x: Tensor, visual: Tensor, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Compute all text positions at once.

        Args:
            x: text states `(B, T, d)`.
            visual: encoded visual features `(B, L, d)`.
            seen: hides the tokens of missing views.

        Returns:
            States `(B, T, d)`, and sigma(M) `(1 or B, T, L)`, or None without a refiner.
        """
        normed = self.self_norm(x)
        keys_and_values = self.self_attention.keys_and_values(normed)
        x = x + self.dropout(self.self_attention(normed, keys_and_values, causal=True))
        normed = self.visual_norm(x)
        mask = None
        if self.refiner is not None:
            mask = self.refiner(normed, self.refiner.keys(visual), position=0)
        bias = self._bias(mask, seen)
        keys_and_values = self.visual_attention.keys_and_values(visual)
        x = x + self.dropout(self.visual_attention(normed, keys_and_values, bias=bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), mask

    def start(self, visual: Tensor, slots: tuple[int, ...]) -> LayerCache:
        """An empty cache for visual features `(B, L, d)`; `slots` come from `Decoder._slots`."""
        visual_keys, visual_values = (
            part.contiguous() for part in self.visual_attention.keys_and_values(visual)
        )
        mask_keys = self.refiner.keys(visual) if self.refiner is not None else None
        empty = self._empty(visual, slots)
        return LayerCache(*empty, visual_keys, visual_values, mask_keys)

    def start_without_image(self, features: Tensor, slots: tuple[int, ...]) -> LayerCache:
        """Like `start`, but all visual features of a study are the same vector, `(B, d)`.

        Text-to-image attention is then the same for every word, whatever the mask.
        """
        attended = self.visual_attention.to_one(features).unsqueeze(1)
        return LayerCache(*self._empty(features, slots), attended=attended)

    def _empty(self, visual: Tensor, slots: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Empty keys and values, `(B, h, T * G, d/h)` for beams, `(B * G, h, T, d/h)` for rows."""
        heads = self.self_attention.heads
        per_study, positions = slots
        shape = len(visual) * per_study, heads, positions, visual.shape[-1] // heads
        return visual.new_zeros(shape), visual.new_zeros(shape)

    def step(self, x: Tensor, layer: LayerCache, cache: Cache) -> Tensor:
        """Compute one position of all texts, `(B, G, d)` or `(R, d)` in and out; fill its slots."""
        x = x + self._look_back(x, layer, cache)
        x = x + self._look(x, layer, cache)
        return x + self.feed_forward(self.feed_forward_norm(x))

    def _look_back(self, x: Tensor, layer: LayerCache, cache: Cache) -> Tensor:
        """Self-attention in `step`, to be added to `x`."""
        normed = self.self_norm(x)
        if cache.ancestors is None:
            normed = normed.unsqueeze(1)  # (R, 1, d)
            keys, values = self.self_attention.keys_and_values(normed)  # (R, h, 1, d/h)
            place, end = cache.position, cache.position + 1
            layer.keys[: len(x), :, place:end] = keys
            layer.values[: len(x), :, place:end] = values
            own = layer.keys[: len(x), :, :end], layer.values[: len(x), :, :end]
            return self.self_attention(normed, own).squeeze(1)
        keys, values = self.self_attention.keys_and_values(normed)  # (B, h, G, d/h)
        slots = cache.slots
        layer.keys[:, :, slots], layer.values[:, :, slots] = keys, values
        bias = cache.ancestors[..., : slots.stop]
        past = layer.keys[:, :, : slots.stop], layer.values[:, :, : slots.stop]
        return self.self_attention(normed, past, bias=bias)

    def _look(self, x: Tensor, layer: LayerCache, cache: Cache) -> Tensor:
        """Text-to-image attention in `step`, to be added to `x`.

        The texts of a study share its visual keys: they are G queries at one text position.
        """
        rows = cache.rows
        if layer.attended is not None:
            return layer.attended if rows is None else layer.attended[rows.study, 0]
        assert layer.visual_keys is not None and layer.visual_values is not None
        normed = self.visual_norm(x)
        if rows is not None:
            normed = rows.padded(normed, len(layer.visual_keys))
        mask = None
        if self.refiner is not None:
            queries = normed[:, :1] if isinstance(self.refiner, StaticMask) else normed
            mask = self.refiner(queries, layer.mask_keys, cache.position)
        keys_and_values = layer.visual_keys, layer.visual_values
        bias = self._bias(mask, cache.seen)
        attended = self.visual_attention(normed, keys_and_values, bias=bias)
        return attended if rows is None else rows.flat(attended)

    def _bias(self, mask: Tensor | None, seen: Tensor | None) -> Tensor | None:
        """k sigma(M) of Eq. 11 for all heads, minus each row's maximum, for tokens that are seen.

        Softmax ignores a constant added to a row. Subtracting the maximum keeps low precision
        exact where attention is large, however far training has shifted M as a whole.
        """
        if mask is None:
            return seen
        largest = mask.detach().amax(dim=-1, keepdim=True)
        bias = (self.mask_scale * (mask - largest)).unsqueeze(1)
        return bias if seen is None else bias + seen


class Decoder(nn.Module):
    """A stack of decoder layers over text features with learned positions.

    Args:
        params: widths, heads, dropout, the number of layers and the refiner's mask.
        max_length: T, the most words of a report, including its end token.
        visual_length: L, the number of visual tokens of a study.
    """

    def __init__(self, params: ModelParams, max_length: int, visual_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.positions = Positions(max_length, params.d_model)
        self.dropout = Dropout(params.dropout)
        self.layers: Sequence[DecoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            DecoderLayer(params, max_length, visual_length) for _ in range(params.decoder_layers)
        )
        self.norm = nn.LayerNorm(params.d_model)

    def forward(
        self, text: Tensor, visual: Tensor, seen: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The hidden states h_t of Eq. 3.

        Args:
            text: F^(R) `(B, T, d)` of the words before each position.
            visual: encoded visual features `(B, L, d)`.
            seen: hides the tokens of missing views.

        Returns:
            h_t `(B, T, d)`, and sigma(M) of each layer that has a refiner.
        """
        x = self.dropout(text + self.positions(0, text.shape[1]))
        masks = []
        for layer in self.layers:
            x, mask = layer(x, visual, seen)
            if mask is not None:
                masks.append(mask)
        return self.norm(x), masks

    def start(
        self,
        visual: Tensor,
        texts: int,
        seen: Tensor | None = None,
        prompt: Tensor | None = None,
        branching: bool = True,
    ) -> Cache:
        """An empty cache for decoding G `texts` per study, for visual features `(B, L, d)`.

        Args:
            seen: hides the tokens of missing views.
            prompt: `(B, 1, d)`, added to every word's features.
            branching: for beams; else for `Rows`, at first one per study.
        """
        slots = self._slots(texts, branching)
        layers = [layer.start(visual, slots) for layer in self.layers]
        return self._cache(layers, visual, texts, branching, seen=seen, prompt=prompt)

    def start_without_image(self, features: Tensor, texts: int, branching: bool = True) -> Cache:
        """Like `start`, but all visual features of a study are one vector, `(B, d)`."""
        slots = self._slots(texts, branching)
        layers = [layer.start_without_image(features, slots) for layer in self.layers]
        return self._cache(layers, features, texts, branching)

    def _slots(self, texts: int, branching: bool) -> tuple[int, int]:
        """Rows and slots per row of a study: 1 and T * G for its beams together, or G and T."""
        return (1, self.max_length * texts) if branching else (texts, self.max_length)

    def _cache(
        self,
        layers: list[LayerCache],
        visual: Tensor,
        texts: int,
        branching: bool,
        *,
        seen: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Cache:
        """A cache of `layers`; of `visual`, only the number of studies, dtype and device matter."""
        if branching:
            return Cache(layers, texts, self._ancestors(visual, texts), None, seen, prompt)
        rows = Rows.of(torch.arange(len(visual), device=visual.device))
        return Cache(layers, texts, None, rows, seen, prompt)

    def _ancestors(self, visual: Tensor, beams: int) -> Tensor:
        """The ancestors of beams that have not branched yet, `(B, 1, G, T * G)`."""
        own = torch.eye(beams, device=visual.device, dtype=visual.dtype)
        own = own.repeat(1, self.max_length)  # (G, T * G)
        ancestors = torch.zeros_like(own).masked_fill(own == 0, -torch.inf)
        return ancestors.expand(len(visual), 1, -1, -1).clone()

    def step(self, text: Tensor, cache: Cache) -> Tensor:
        """h_t of the next position from F^(R) of its input words, both `(B, G, d)` or `(R, d)`."""
        if cache.prompt is not None:
            of_studies = cache.prompt if cache.rows is None else cache.prompt[cache.rows.study, 0]
            text = text + of_studies
        x = text + self.positions(cache.position, cache.position + 1)
        for layer, kept in zip(self.layers, cache.layers, strict=True):
            x = layer.step(x, kept, cache)
        cache.position += 1
        return self.norm(x)


class Positions(nn.Module):
    """Learned positions, on the same scale as the embeddings to which they are added.

    Args:
        length: the number of positions.
        d_model: d.
    """

    def __init__(self, length: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(length, d_model) * d_model**-0.5)

    def forward(self, start: int, end: int) -> Tensor:
        """The positions `start` to `end - 1`, `(end - start, d)`."""
        return self.table[start:end] * self.table.shape[1] ** 0.5
