"""UAR (Eq. 1-4) and, by its switches, every variant of Tables 2-4."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uar.core.config import ModelParams
from uar.core.geometry import pool_side
from uar.core.special_words import BOS, EOS, PAD, UNK
from uar.model.aligner import CrossModalRepresentationAligner
from uar.model.extractor import VisualExtractor
from uar.model.findings import FindingsHead
from uar.model.transformer import Cache, Decoder, Encoder, missing_view_mask, tokens_of
from uar.model.unifier import LatentSpaceUnifier, LookUp


@dataclass(frozen=True)
class ModelSizes:
    """Sizes that come from the data, not from params.yaml."""

    vocabulary: int  # |V_R|, special words included
    codebook: int  # |V_I|
    visual_length: int  # L over all images of a study
    max_length: int  # T
    findings: int = 0  # N, of the findings head


@dataclass(frozen=True)
class Output:
    """What the losses need from a forward pass."""

    logits: Tensor  # (B, T, |V_R|)
    image_global: Tensor  # (B, d), pooled F^(I)
    report_global: Tensor  # (B, d), pooled F^(R)
    masks: list[Tensor]  # sigma(M) of each decoder layer, (1 or B, T, L)
    blind: Tensor  # (B,) bool, studies whose films `image_dropout` hid
    finding_logits: Tensor | None = None  # (B, N), of the findings head


@dataclass(frozen=True)
class Tables:
    """F of every id, computed once for a trained model: Eq. 6-9 do not depend on position."""

    image: Tensor | None  # F^(I) (|V_I|, d); None without LSU
    words: Tensor  # F^(R) (|V_R|, d)


class UAR(nn.Module):
    """Report generator.

    Its visual input is tokens `(B, V, L/V)` int64 with `params.lsu`, else gray pixels
    `(B, V, H, W)` float in [0, 1] or the output of `VisualExtractor.maps` for them,
    `(B, V, C, h, w)`; V is the number of images a study has.

    Args:
        params: architecture and switches.
        sizes: vocabulary, codebook and lengths.
    """

    def __init__(self, params: ModelParams, sizes: ModelSizes) -> None:
        super().__init__()
        self.params = params
        self.sizes = sizes
        d = params.d_model
        self.unifier: LatentSpaceUnifier | None = None
        if params.lsu:
            self.unifier = LatentSpaceUnifier(sizes.codebook, sizes.vocabulary, d)
        else:
            self.extractor = VisualExtractor(params.extractor, d)
            self.text_embedding = LookUp(sizes.vocabulary, d)
        self.aligner: CrossModalRepresentationAligner | None = None
        if params.integration:
            self.aligner = CrossModalRepresentationAligner(
                d,
                params.heads,
                basis=params.basis,
                basis_size=params.basis_size,
                fusion=params.fusion,
            )
        self.pool = pool_side(params.visual_pool, params.lsu, params.extractor.network)
        encoded = sizes.visual_length // self.pool**2
        self.encoder = Encoder(params, encoded)
        self.decoder = Decoder(params, sizes.max_length, encoded)
        self.findings = FindingsHead(d, sizes.findings) if params.findings else None
        self.no_image = nn.Parameter(torch.zeros(d)) if params.image_dropout else None
        self.head = nn.Linear(d, sizes.vocabulary)  # Eq. 4

    def forward(
        self,
        visual: Tensor,
        report: Tensor,
        present: Tensor | None = None,
        findings: Tensor | None = None,
    ) -> Output:
        """Teacher-forced pass.

        Args:
            visual: tokens or pixels of B studies.
            report: ids `(B, T + 1)`: BOS, words, EOS, padding. `(B * G, T + 1)`: G reports per
                study, grouped by study; the films are encoded once.
            present: `(B, V)` bool, the views that each study has; None: all of them.
            findings: the true ones `(B, N)` float, 0 or 1, which serve as prompts in training.
        """
        inputs = report[:, :-1]
        words = words_in(inputs)
        drop = self.training and self.params.word_dropout > 0
        shown = torch.cat([inputs, self._hide(inputs, words)]) if drop else inputs
        image, text = self.features(visual, shown)  # Eq. 1, 2
        whole, text = text[: len(inputs)], text[-len(inputs) :]
        memory, seen = self._encode(image, visual.shape[1], present)
        logits, prompt = self._findings(memory, seen, findings if self.training else None)
        blind = torch.zeros(len(memory), 1, 1, dtype=torch.bool, device=memory.device)
        if self.training and self.no_image is not None:
            blind = torch.rand(blind.shape, device=memory.device) < self.params.image_dropout
            memory = torch.where(blind, self.no_image.to(memory.dtype), memory)
            prompt = None if prompt is None else prompt.masked_fill(blind, 0)
        if (texts := len(inputs) // len(memory)) > 1:
            memory = memory.repeat_interleave(texts, dim=0)
            seen = None if seen is None else seen.repeat_interleave(texts, dim=0)
            prompt = None if prompt is None else prompt.repeat_interleave(texts, dim=0)
        states, masks = self.decoder(
            text if prompt is None else text + prompt, memory, seen
        )  # Eq. 3
        image_global = global_image_feature(image, present, self._kept(image))
        kept = self._kept(whole)
        return Output(
            logits=self.head(states),  # Eq. 4
            image_global=image_global,
            report_global=masked_mean(whole, words if kept is None else words & kept),
            masks=masks,
            blind=blind[:, 0, 0],
            finding_logits=logits,
        )

    def _hide(self, inputs: Tensor, words: Tensor) -> Tensor:
        """Word dropout (Bowman et al. 2016, section 3.2): some of the words become `<unk>`."""
        hidden = torch.rand(inputs.shape, device=inputs.device) < self.params.word_dropout
        return inputs.masked_fill(hidden & words, UNK)

    def _kept(self, features: Tensor) -> Tensor | None:
        """Which positions of `(B, T, d)` count in the means of Eq. 10, `(B, T)` bool; None: all."""
        share = self.params.feature_dropout
        if not (self.training and share):
            return None
        return torch.rand(features.shape[:2], device=features.device) >= share

    def _encode(
        self, image: Tensor, views: int, present: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """What the decoder attends to, from F^(I) of `views` films, and its `missing_view_mask`."""
        pool = self.pool
        if pool > 1:
            side = math.isqrt(image.shape[1] // views)
            squares = image.unflatten(1, (views, side // pool, pool, side // pool, pool))
            image = squares.mean(dim=(3, 5)).flatten(1, 3)
        seen = missing_view_mask(present, image)
        return self.encoder(image, seen), seen

    def _findings(
        self, memory: Tensor, seen: Tensor | None, true: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The findings head's logits and the decoder's prompt, from `true` findings if given."""
        if self.findings is None:
            return None, None
        logits = self.findings(pool_seen(memory, seen))
        prompts = self.findings.found(logits.detach()) if true is None else true
        return logits, self.findings.prompt(prompts)

    def finding_logits(
        self, visual: Tensor, tables: Tables, present: Tensor | None = None
    ) -> Tensor:
        """Logits `(B, N)` of the findings head; the model must have one."""
        image = self.image_features(visual, tables)
        memory, seen = self._encode(image, visual.shape[1], present)
        logits, _ = self._findings(memory, seen)
        assert logits is not None
        return logits

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def finding_thresholds(self) -> Tensor | None:
        """Probabilities above which the findings head counts findings as present, `(N,)`."""
        return None if self.findings is None else self.findings.thresholds

    def features(self, visual: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """F^(I) `(B, L, d)` of tokens or pixels and F^(R) `(B, T, d)` of word ids (Eq. 1, 2).

        Both go through CRA together, so that B̂ is projected to keys and values once.
        """
        if self.unifier is not None:
            image, image_rows = distinct(self.unifier.visual, visual.flatten(1))
        else:
            image, image_rows = self.extractor(visual), None
        text, text_rows = distinct(self.text_table, words)
        if self.aligner is not None:
            f = self.aligner(torch.cat([image.flatten(0, -2), text]))
            image, text = f[: -len(text)].view_as(image), f[-len(text) :]
        image = image if image_rows is None else F.embedding(image_rows, image)
        return image, F.embedding(text_rows, text)

    @contextmanager
    def without_mask(self) -> Iterator[None]:
        """Remove every layer's mask within the block, which is equivalent to M = 0 (Eq. 11)."""
        refiners = [layer.refiner for layer in self.decoder.layers]
        try:
            for layer in self.decoder.layers:
                layer.refiner = None
            yield
        finally:
            for layer, refiner in zip(self.decoder.layers, refiners, strict=True):
                layer.refiner = refiner

    @property
    def text_table(self) -> LookUp:
        """W_R."""
        return self.unifier.text if self.unifier is not None else self.text_embedding

    @torch.inference_mode()
    def tables(self) -> Tables:
        """F of both vocabularies, for `start` and for the words that `step` takes."""
        image = self.unifier.visual.all() if self.unifier is not None else None
        return Tables(
            image=None if image is None else self._align(image),
            words=self._align(self.text_table.all()),
        )

    def image_features(self, visual: Tensor, tables: Tables) -> Tensor:
        """F^(I) `(B, L, d)` of tokens or pixels; tokens are looked up in `tables`."""
        if tables.image is not None:
            return F.embedding(visual.flatten(1), tables.image)
        return self._align(self.extractor(visual))

    def start(
        self,
        visual: Tensor,
        texts: int,
        tables: Tables,
        present: Tensor | None = None,
        branching: bool = True,
    ) -> Cache:
        """Encode B studies and open the decoder's cache for G `texts` per study."""
        image = self.image_features(visual, tables)
        memory, seen = self._encode(image, visual.shape[1], present)
        _, prompt = self._findings(memory, seen)
        return self.decoder.start(memory, texts, seen, prompt, branching)

    def start_without_image(self, cache: Cache) -> Cache:
        """A cache as `start` returns it, for the same studies without their films.

        Decoding then uses only the language model, which `image_dropout` has trained.
        """
        assert self.no_image is not None  # the model has `image_dropout`
        keys = cache.layers[0].visual_keys
        assert keys is not None  # the cache is from `start`
        features = self.no_image.expand(len(keys), -1)
        return self.decoder.start_without_image(
            features, cache.texts, branching=cache.ancestors is not None
        )

    def step(self, words: Tensor, tables: Tables, cache: Cache) -> Tensor:
        """Logits `(B, G, |V_R|)` of the words after `words` `(B, G)`; for `Rows`, `(R, |V_R|)`."""
        return self.head(self.decoder.step(tables.words[words], cache)).float()

    def _align(self, e: Tensor) -> Tensor:
        return e if self.aligner is None else self.aligner(e)


def distinct(table: LookUp, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings E `(N, d)` of ids `(*)`, and the row of each id among them, `(*)`.

    In eager mode on a CPU, E has each distinct id once. Elsewhere their number would be a shape
    that changes from batch to batch (a new compilation, a wait for the device), so E has the whole
    table, or every token if those are fewer.
    """
    if ids.device.type == "cpu" and not torch.compiler.is_compiling():
        found, rows = ids.unique(return_inverse=True)
        return table(found), rows
    if table.num_embeddings <= ids.numel():
        return table.all(), ids
    return table(ids.flatten()), torch.arange(ids.numel(), device=ids.device).view_as(ids)


def global_image_feature(
    image: Tensor, present: Tensor | None, kept: Tensor | None = None
) -> Tensor:
    """F^(I) `(B, L, d)` pooled to `(B, d)`: the mean over the tokens of the views present.

    Args:
        present: `(B, V)` bool, the views that each study has; None: all of them.
        kept: `(B, L)` bool, tokens that count; None: all of them.
    """
    if present is None:
        return wide(image).mean(dim=1) if kept is None else masked_mean(image, kept)
    there = tokens_of(present, image)
    return masked_mean(image, there if kept is None else there & kept)


def words_in(ids: Tensor) -> Tensor:
    """Which ids are words, not BOS, EOS or padding; F(R) is the mean over these (Eq. 10)."""
    return (ids != PAD) & (ids != BOS) & (ids != EOS)


def pool_seen(memory: Tensor, seen: Tensor | None) -> Tensor:
    """Mean of `(B, L, d)` over the tokens that `missing_view_mask` leaves visible, `(B, d)`."""
    return wide(memory).mean(dim=1) if seen is None else masked_mean(memory, seen[:, 0, 0] == 0)


def masked_mean(features: Tensor, mask: Tensor) -> Tensor:
    """Mean of `(B, T, d)` over the positions where `(B, T)` is true, in at least float32."""
    features = wide(features)
    weights = mask.unsqueeze(-1).to(features.dtype)
    return (features * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)


def wide(features: Tensor) -> Tensor:
    """Return features in float32, whatever autocast has made of them; float64 stays."""
    return features if features.dtype == torch.float64 else features.float()
