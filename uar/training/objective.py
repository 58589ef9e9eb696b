"""The objective of a stage (Eq. 13)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from uar.core.config import TrainParams
from uar.core.special_words import PAD
from uar.data.batches import Batch
from uar.model.uar import Output
from uar.training.losses import (
    distillation_loss,
    findings_loss,
    language_modeling_loss,
    mask_loss,
    symmetric_divergence,
    triplet_contrastive_loss,
)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Eq. 13 in one stage.

    Args:
        params: weights and settings of the losses.
        lambda3: weight of the mask loss in this stage.
        positive_weights: of each finding's positives in the findings head's loss, `(N,)`.
    """

    params: TrainParams
    lambda3: float
    positive_weights: Tensor | None = None

    @classmethod
    def of_stage(
        cls, params: TrainParams, with_mask: bool, findings: Tensor | None = None
    ) -> Objective:
        """A stage's objective: {l1, l2, 0} without the mask, {l1, l2, l3} with it (section 3.5).

        Args:
            findings: of the training studies, `(S, N)` 0 or 1. A finding's positives are weighted
                by the square root of the odds against it, at most sqrt(10).
        """
        positive_weights = None
        if findings is not None:
            share = findings.float().mean(dim=0)
            positive_weights = ((1 - share) / share.clamp_min(1e-3)).clamp(max=10).sqrt()
        lambda3 = params.lambda3 if with_mask else 0.0
        return cls(params=params, lambda3=lambda3, positive_weights=positive_weights)

    def to(self, device: torch.device) -> Objective:
        """The same objective for outputs on `device`."""
        if self.positive_weights is None:
            return self
        return replace(self, positive_weights=self.positive_weights.to(device))

    def __call__(
        self,
        model: Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Output],
        batch: Batch,
        gather: Callable[[Tensor], Tensor] = lambda rows: rows,
        taught: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (Eq. 13) of a batch, and each term by name.

        Call it outside autocast, which would compute the cosines of Eq. 10 in low precision, where
        the hardest negatives among close features tie. `model` itself may use autocast.

        With `r_drop`, terms are means over two passes, which differ by dropout, and the
        divergence between the passes is added.

        Args:
            gather: concatenates the rows of all ranks, `(B, d)` to `(ranks * B, d)`. Per-study
                terms are multiplied by `ranks`, so that the mean over the ranks is the value of
                the whole batch.
            taught: the teachers' log-probabilities of words, `(B, T, |V_R|)`; None: no teachers.
        """
        output = model(*batch.inputs)
        loss, terms = self.of_output(output, batch, gather, taught)
        if not self.params.r_drop:
            return loss, terms
        again = model(*batch.inputs)
        _, terms_again = self.of_output(again, batch, gather, taught)
        terms = {name: (term + terms_again[name]) / 2 for name, term in terms.items()}
        targets = batch.report[:, 1:]
        ranks = len(batch.report_ids) // len(targets)
        alike = output.blind == again.blind  # films hidden in only one pass: no dropout noise
        divergence = symmetric_divergence(
            output.logits, again.logits, targets, counted=alike, words=batch.words
        )
        terms["r_drop"] = ranks * divergence
        terms["loss"] = terms["loss"] + self.params.r_drop * terms["r_drop"]
        return terms["loss"], terms

    def of_output(
        self,
        output: Output,
        batch: Batch,
        gather: Callable[[Tensor], Tensor] = lambda rows: rows,
        taught: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms, given the output of a forward pass."""
        params, targets = self.params, batch.report[:, 1:]
        ranks = len(batch.report_ids) // len(targets)
        terms = {
            "language_modeling": ranks
            * language_modeling_loss(
                output.logits, targets, words=batch.words, smoothing=params.label_smoothing
            ),
            "global": triplet_contrastive_loss(
                gather(output.image_global),
                gather(output.report_global),
                batch.report_ids,
                margin=params.margin,
                studies=batch.studies,
                smoothness=params.smoothness,
            ),
        }
        loss = params.lambda1 * terms["language_modeling"]
        if params.lambda2:
            loss = loss + params.lambda2 * terms["global"]
        if taught is not None:
            terms["teachers"] = ranks * distillation_loss(
                output.logits, taught, targets, counted=~output.blind, words=batch.words
            )
            loss = loss + params.teacher_weight * terms["teachers"]
        if output.finding_logits is not None and self.positive_weights is not None:
            assert batch.findings is not None  # a findings head needs them
            real = (targets != PAD).any(dim=1)
            terms["findings"] = ranks * findings_loss(
                output.finding_logits,
                batch.findings,
                weights=self.positive_weights,
                real=real,
                studies=batch.studies,
            )
            loss = loss + params.findings_weight * terms["findings"]
        if output.masks:
            for reduction in ("sum", "mean"):
                of_share = mask_loss(
                    output.masks, targets, reduction=reduction, studies=batch.studies
                )
                terms[f"mask_{reduction}"] = ranks * of_share
            loss = loss + self.lambda3 * terms[f"mask_{params.mask_reduction}"]
        return loss, {"loss": loss, **terms}
