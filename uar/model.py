"""UAR (Eq. 1-4) and, by its switches, every variant of Tables 2-4."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uar.aligner import CrossModalRepresentationAligner
from uar.config import ModelParams
from uar.text import BOS, EOS, PAD
from uar.transformer import Decoder, Encoder, LayerCache
from uar.unifier import LatentSpaceUnifier, LookUp, ResNetFeatures


@dataclass(frozen=True)
class ModelSizes:
    """Sizes that come from the data, not from params.yaml."""

    vocabulary: int  # |V_R|, special words included
    codebook: int  # |V_I|
    visual_length: int  # L over all images of a study
    max_length: int  # T


@dataclass(frozen=True)
class Output:
    """What the losses need of a forward pass."""

    logits: Tensor  # (B, T, |V_R|)
    image_global: Tensor  # (B, d), pooled F^(I)
    report_global: Tensor  # (B, d), pooled F^(R)
    masks: list[Tensor]  # sigma(M) of each decoder layer, (1 or B, T, L)


class UAR(nn.Module):
    """Report generator.

    Its visual input is tokens `(B, V, L/V)` int64 with `params.lsu`, else gray pixels
    `(B, V, H, W)` float in [0, 1]; V is the number of images a study has.

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
            self.resnet = ResNetFeatures(params.resnet, d)
            self.text_embedding = LookUp(sizes.vocabulary, d)
        self.aligner: CrossModalRepresentationAligner | None = None
        if params.integration:
            self.aligner = CrossModalRepresentationAligner(
                d, params.heads, params.basis, params.basis_size, params.fusion
            )
        self.encoder = Encoder(params, sizes.visual_length)
        self.decoder = Decoder(params, sizes.max_length, sizes.visual_length)
        self.head = nn.Linear(d, sizes.vocabulary)  # Eq. 4

    def forward(self, visual: Tensor, report: Tensor) -> Output:
        """Teacher-forced pass.

        Args:
            visual: tokens or pixels of B studies.
            report: ids `(B, T + 1)`: BOS, words, EOS, padding.
        """
        inputs = report[:, :-1]
        image, text = self.image_features(visual), self.text_features(inputs)  # Eq. 1, 2
        states, masks = self.decoder(text, self.encoder(image))  # Eq. 3
        words = (inputs != PAD) & (inputs != BOS) & (inputs != EOS)
        return Output(
            logits=self.head(states),  # Eq. 4
            image_global=image.mean(dim=1),
            report_global=masked_mean(text, words),
            masks=masks,
        )

    def image_features(self, visual: Tensor) -> Tensor:
        """F^(I) `(B, L, d)` of tokens or pixels."""
        if self.unifier is not None:
            return self._features_of_ids(self.unifier.visual, visual.flatten(1))
        return self._align(self.resnet(visual))

    def text_features(self, ids: Tensor) -> Tensor:
        """F^(R) `(*, d)` of word ids `(*)`."""
        table = self.unifier.text if self.unifier is not None else self.text_embedding
        return self._features_of_ids(table, ids)

    def _features_of_ids(self, table: LookUp, ids: Tensor) -> Tensor:
        if self.aligner is None:
            return table(ids)
        distinct, index = ids.unique(return_inverse=True)  # F depends on the id alone
        return F.embedding(index, self._align(table(distinct).unsqueeze(0)).squeeze(0))

    def _align(self, e: Tensor) -> Tensor:
        return e if self.aligner is None else self.aligner(e)

    def start(self, visual: Tensor, beams: int) -> list[LayerCache]:
        """Encode B studies and open the decoder's caches for `beams` beams each."""
        return self.decoder.start(self.encoder(self.image_features(visual)), beams)

    def step(self, features: Tensor, caches: list[LayerCache], position: int) -> Tensor:
        """Log-probabilities `(B * G, |V_R|)` of the word after `features` `(B * G, d)`."""
        return self.head(self.decoder.step(features, caches, position)).float().log_softmax(-1)

    def word_features(self) -> Tensor:
        """F^(R) of every word, `(|V_R|, d)`: decoding looks its input words up here."""
        ids = torch.arange(self.sizes.vocabulary, device=self.head.weight.device)
        return self.text_features(ids)


def masked_mean(features: Tensor, mask: Tensor) -> Tensor:
    """Mean of `(B, T, d)` over the positions where `(B, T)` is true."""
    weights = mask.unsqueeze(-1).to(features.dtype)
    return (features * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)
