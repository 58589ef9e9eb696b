"""A trained model on the studies of a split: reports, global features, attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from uar.core.config import DecodeParams
from uar.data.batches import Batch, Studies
from uar.data.text import Vocabulary
from uar.evaluation.predictions import Prediction
from uar.inference.decoding import generate
from uar.model.attention import MultiHeadAttention
from uar.model.uar import UAR, global_image_feature


def write_reports(
    model: UAR,
    studies: Studies,
    study_ids: Sequence[str],
    raw_reports: Sequence[str],
    vocabulary: Vocabulary,
    params: DecodeParams,
    what: str,
) -> list[Prediction]:
    """Generate a report for each study.

    Args:
        model: in evaluation mode.
        studies: S studies.
        study_ids: their names, in order.
        raw_reports: their whole reports, in order.
        vocabulary: V_R.
        params: beam search.
        what: names the progress bar.
    """
    device = model.head.weight.device
    generated = []
    tables = model.tables()
    for batch in _batches(studies, params.batch_size, what):
        batch = batch.to(device)
        generated += generate(
            model, batch.visual, params.beam_size, params.length_penalty, tables, batch.present
        )
    return [
        Prediction(
            study_id=study_id,
            report=report,
            reference=vocabulary.decode(ids),
            generated=vocabulary.decode(beam.ids),
            log_probability=beam.log_probability,
        )
        for study_id, report, ids, beam in zip(
            study_ids, raw_reports, studies.reports.tolist(), generated, strict=True
        )
    ]


@torch.inference_mode()
def global_features(
    model: UAR, studies: Studies, batch_size: int, what: str
) -> Iterator[np.ndarray]:
    """Global visual features F(I) of Eq. 10, batch by batch, `(B, d)` float32."""
    device = model.head.weight.device
    tables = model.tables()
    for batch in _batches(studies, batch_size, what):
        batch = batch.to(device)
        image = model.image_features(batch.visual, tables)
        yield global_image_feature(image, batch.present).float().cpu().numpy()


@torch.inference_mode()
def paired_features(
    model: UAR, studies: Studies, batch_size: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Global features F(I) and F(R) of Eq. 10 of all studies, both `(S, d)` float32."""
    device = model.head.weight.device
    images, reports = [], []
    for batch in _batches(studies, batch_size, what):
        batch = batch.to(device)
        output = model(batch.visual, batch.report, batch.present)
        images.append(output.image_global.float().cpu().numpy())
        reports.append(output.report_global.float().cpu().numpy())
    return np.concatenate(images), np.concatenate(reports)


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
        chosen: which.
        reports: one for each of these, words joined by blanks.
        vocabulary: V_R.
        max_length: T.
    """
    present = None if studies.present is None else studies.present.numpy()[chosen]
    rows = studies.rows[chosen]
    return Studies(studies.visual, rows, reports, vocabulary, max_length, present)


@torch.inference_mode()
def word_attention(model: UAR, studies: Studies, batch_size: int, what: str) -> np.ndarray:
    """Attention with which each word of the studies' reports is written, `(S, T, L)` float32.

    Teacher-forced; row t is of the step that predicts word t. Mean over heads and decoder layers,
    so that a row sums to 1 over the study's views.

    Args:
        model: in evaluation mode.
        studies: S studies.
        batch_size: studies.
        what: names the progress bar.
    """
    device = model.head.weight.device
    maps = []
    for batch in _batches(studies, batch_size, what):
        batch = batch.to(device)
        with recorded_attention(model) as layers:
            model(batch.visual, batch.report, batch.present)
        maps.append(torch.stack(layers).mean(dim=0).float().cpu().numpy())
    return np.concatenate(maps)


def heatmap_ceiling(attention: np.ndarray) -> float:
    """The attention from which heatmaps show their last colour: one cell in 200 has more.

    A few cells draw many times the attention of the others, which would else all look alike.
    """
    return float(np.quantile(attention, 0.995, method="higher"))


def attention_weights(
    attention: MultiHeadAttention, x: Tensor, keys: Tensor, bias: Tensor | None
) -> Tensor:
    """softmax(A) of Eq. 7 and 11, `(B, h, T, S)`, which `attention` itself never forms.

    Args:
        attention: whose projections are used.
        x: `(B, T, d)`.
        keys: `(B, h, S, d/h)`.
        bias: added to the scaled activations.
    """
    queries = attention.query(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    activations = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
    return (activations if bias is None else activations + bias).softmax(dim=-1)


@contextmanager
def recorded_attention(model: UAR) -> Iterator[list[Tensor]]:
    """Text-to-image attention `(B, T, L)` of each decoder layer, mean over heads.

    The list yielded is filled by a forward pass in the block.
    """
    recorded: list[Tensor] = []

    def record(attention: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x, (keys, _) = inputs
        recorded.append(attention_weights(attention, x, keys, named["bias"]).mean(dim=1))

    hooks = [
        layer.visual_attention.register_forward_pre_hook(record, with_kwargs=True)
        for layer in model.decoder.layers
    ]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def _batches(studies: Studies, batch_size: int, what: str) -> Iterator[Batch]:
    total = -(-len(studies) // batch_size)
    yield from tqdm(studies.batches(batch_size), desc=what, total=total, unit="batch")
