"""Training objectives (Eq. 5, 10, 12, 13).

Each is a mean over a batch. A loss that sees only part of a batch (a micro-batch, or one process's
share) takes the size of the whole batch as an argument and divides the part's sum by it, so that
the losses of the parts add up to the batch's mean.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from uar.core.special_words import PAD


def language_modeling_loss(
    logits: Tensor, targets: Tensor, *, words: int | None = None, smoothing: float = 0.0
) -> Tensor:
    """Eq. 5, as the mean over the batch's words and end tokens.

    Args:
        logits: `(B, T, |V_R|)`.
        targets: ids `(B, T)`; padding does not count.
        words: number of words and end tokens in the whole batch; None: this is all of it.
        smoothing: share of the target's probability spread over all words (Szegedy et al. 2016).
    """
    total = F.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=PAD,
        reduction="sum",
        label_smoothing=smoothing,
    )
    return total / ((targets != PAD).sum() if words is None else words)


def symmetric_divergence(
    one: Tensor, other: Tensor, targets: Tensor, *, counted: Tensor, words: int | None = None
) -> Tensor:
    """Mean of both KL divergences between two passes over a batch (R-Drop, Wu et al. 2021, Eq. 2).

    Args:
        one: logits `(B, T, |V_R|)` of one pass.
        other: those of the other pass.
        targets: ids `(B, T)`; padding does not count.
        counted: `(B,)` bool, the studies that count.
        words: number of words and end tokens in the whole batch; None: this is all of it.
    """
    p, q = one.float().log_softmax(-1), other.float().log_softmax(-1)
    each = ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2  # (B, T)
    real = targets != PAD
    return (each * (real & counted.unsqueeze(1))).sum() / (real.sum() if words is None else words)


def distillation_loss(
    logits: Tensor,
    taught: Tensor,
    targets: Tensor,
    *,
    counted: Tensor,
    words: int | None = None,
) -> Tensor:
    """Mean KL divergence of the model's words from its teachers' (Hinton et al. 2015, section 2).

    Args:
        logits: `(B, T, |V_R|)`.
        taught: the teachers' log-probabilities, `(B, T, |V_R|)`.
        targets: ids `(B, T)`; padding does not count.
        counted: `(B,)` bool, the studies that count.
        words: number of words and end tokens in the whole batch; None: this is all of it.
    """
    p, q = taught.float(), logits.float().log_softmax(-1)
    each = (p.exp() * (p - q)).sum(-1)  # (B, T)
    real = targets != PAD
    return (each * (real & counted.unsqueeze(1))).sum() / (real.sum() if words is None else words)


def triplet_contrastive_loss(
    image: Tensor,
    report: Tensor,
    report_ids: Tensor,
    *,
    margin: float,
    studies: int | None = None,
    smoothness: float = 0.0,
) -> Tensor:
    """Eq. 10 with each anchor's hard negatives in the batch, both ways; mean over the batch.

    Args:
        image: global visual features `(B, d)`.
        report: global textual features `(B, d)`.
        report_ids: `(B,)`; equal ids mean identical report text, which is never a negative.
            A negative id marks a row that is no study: neither anchor nor negative.
        margin: alpha.
        studies: number in the whole batch; None: this is all of it.
        smoothness: 0 takes the hardest negative. A number tau takes the smooth maximum of all
            negatives, tau log(mean(exp(cosine / tau))): between their mean (large tau) and the
            hardest one.

    Returns:
        A scalar. An anchor without any negative adds 0.
    """
    similarity = F.normalize(image.float(), dim=-1) @ F.normalize(report.float(), dim=-1).T
    same_text = report_ids.unsqueeze(0) == report_ids.unsqueeze(1)
    absent = report_ids < 0
    excluded = same_text | absent.unsqueeze(0) | absent.unsqueeze(1)
    negatives = similarity.masked_fill(excluded, -torch.inf)
    positive = similarity.diagonal()
    if not smoothness:
        hard_report, hard_image = negatives.amax(dim=1), negatives.amax(dim=0)
    else:
        count = (~excluded).sum(dim=1).clamp_min(1).log()  # the same both ways
        hard_report, hard_image = (
            smoothness * ((negatives / smoothness).logsumexp(dim=dim) - count) for dim in (1, 0)
        )
    # <F(I), F-(R)> and <F-(I), F(R)>
    loss = F.relu(margin - positive + hard_report) + F.relu(margin - positive + hard_image)
    return loss.sum() / (len(loss) if studies is None else studies)


def findings_loss(
    logits: Tensor, findings: Tensor, *, weights: Tensor, real: Tensor, studies: int | None = None
) -> Tensor:
    """Binary cross-entropy of the findings head, mean over findings and the batch.

    Args:
        logits: `(B, N)`.
        findings: true ones, `(B, N)` 0 or 1.
        weights: those of each finding's positives, `(N,)`.
        real: `(B,)` bool, the rows that are studies rather than filling.
        studies: number in the whole batch; None: this is all of it.
    """
    each = F.binary_cross_entropy_with_logits(
        logits.float(), findings, pos_weight=weights, reduction="none"
    ).mean(dim=1)
    return (each * real).sum() / (len(logits) if studies is None else studies)


def mask_loss(
    masks: list[Tensor],
    targets: Tensor,
    *,
    reduction: Literal["sum", "mean"],
    studies: int | None = None,
) -> Tensor:
    """Eq. 12 over each report's real positions; mean over the batch and the decoder layers.

    Args:
        masks: sigma(M) of each decoder layer, `(1 or B, T, L)`.
        targets: ids `(B, T)`; padded positions do not count.
        reduction: `sum` over T x L as printed, or their `mean`.
        studies: number in the whole batch; None: this is all of it.
    """
    real = (targets != PAD).unsqueeze(-1)  # (B, T, 1)
    terms = torch.stack([((1 - mask.float()) * real).sum(dim=(1, 2)) for mask in masks])  # (N, B)
    if reduction == "mean":
        terms = terms / (real.sum(dim=(1, 2)).clamp_min(1) * masks[0].shape[-1])
    return terms.mean(dim=0).sum() / (len(targets) if studies is None else studies)
