"""Text-to-image attention (Eq. 11) of a trained model, word by word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uar.data.batches import Studies
from uar.data.text import Vocabulary
from uar.inference.batches import progress_batches
from uar.model.attention import MultiHeadAttention
from uar.model.ensemble import Ensemble, members_of
from uar.model.uar import UAR


def with_reports(
    studies: Studies,
    chosen: Sequence[int],
    reports: Sequence[str],
    vocabulary: Vocabulary,
    max_length: int,
) -> Studies:
    """Some of the studies, with these reports in place of their own, for `word_attention`.

    Args:
        studies: S studies.
        chosen: indices of the studies.
        reports: one for each of these, words separated by blanks.
        vocabulary: V_R.
        max_length: T.
    """
    present = None if studies.present is None else studies.present.numpy()[chosen]
    rows = studies.rows[chosen]
    return Studies(
        studies.visual, rows, reports, vocabulary=vocabulary, max_length=max_length, present=present
    )


@torch.inference_mode()
def word_attention(
    model: UAR | Ensemble, studies: Studies, batch_size: int, what: str
) -> np.ndarray:
    """Attention with which each word of the studies' reports is written, `(S, T, L)` float32.

    Teacher-forced; row t belongs to the step that predicts word t. Averaged over heads and decoder
    layers, so that a row sums to 1 over the study's views.

    Args:
        model: in evaluation mode.
        studies: S studies.
        batch_size: studies per batch.
        what: names the progress bar.
    """
    maps = []
    for batch in progress_batches(model, studies, batch_size, what):
        with recorded_attention(model) as layers:
            model(batch.visual, batch.report, batch.present)
        maps.append(torch.stack(layers).mean(dim=0).float().cpu().numpy())
    return np.concatenate(maps)


def attention_weights(
    attention: MultiHeadAttention, x: Tensor, keys: Tensor, bias: Tensor | None
) -> Tensor:
    """softmax(A) of Eq. 7 and 11, `(B, h, T, S)`, which `attention` itself never forms.

    Args:
        attention: the module whose projections are used.
        x: `(B, T, d)`.
        keys: `(B, h, S, d/h)`.
        bias: added to the scaled activations.
    """
    queries = attention.query(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    activations = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
    return (activations if bias is None else activations + bias).softmax(dim=-1)


@contextmanager
def recorded_attention(model: UAR | Ensemble) -> Iterator[list[Tensor]]:
    """Record text-to-image attention `(B, T, L)` of each member's decoder layers, mean over heads.

    The list yielded is filled by a forward pass in the block.
    """
    recorded: list[Tensor] = []

    def record(attention: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x, (keys, _) = inputs
        recorded.append(attention_weights(attention, x, keys, named["bias"]).mean(dim=1))

    hooks = [
        layer.visual_attention.register_forward_pre_hook(record, with_kwargs=True)
        for member in members_of(model)
        for layer in member.decoder.layers
    ]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()
