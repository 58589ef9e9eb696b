"""Features and attention of a split's studies, against the model asked study by study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import reference
from tests.conftest import decode_params
from uar.core.special_words import PAD
from uar.data.batches import Studies, TokenSource
from uar.data.text import Vocabulary
from uar.inference.features import global_features
from uar.inference.reports import sampled_candidates, write_reports
from uar.inference.word_attention import with_reports, word_attention
from uar.model.uar import UAR

WORDS = Vocabulary.build(["a b c d e f g"], min_count=1)  # the 11 ids of `make_model`
REPORTS = ["a b c", "d e", "f g a b c d", "b", "c a"]
PRESENT = np.array([[True, True], [True, False], [True, True], [False, True], [True, True]])


def make_studies(present: np.ndarray | None = None) -> Studies:
    """Five studies of two images, whose rows are in no order."""
    tokens = np.random.default_rng(0).integers(0, 12, (10, 1, 4)).astype(np.uint16)
    rows = np.random.default_rng(1).permutation(10).reshape(5, 2)
    return Studies(
        TokenSource(tokens), rows, REPORTS, vocabulary=WORDS, max_length=7, present=present
    )


def each(model: UAR, studies: Studies) -> list[tuple[Any, ...]]:
    """Visual input, report and views of every study, each a batch of its own."""
    return [(batch.visual, batch.report, batch.present) for batch in studies.batches(1)]


@pytest.mark.parametrize("present", [None, PRESENT], ids=["all views", "some views"])
def test_global_features_are_those_of_each_study(
    make_model: Callable[..., UAR], present: np.ndarray | None
) -> None:
    model, studies = make_model(), make_studies(present)
    with torch.no_grad():
        outputs = [model(*study) for study in each(model, studies)]
    images = torch.cat([output.image_global for output in outputs]).numpy()
    reports = torch.cat([output.report_global for output in outputs]).numpy()
    batches = list(global_features(model, studies, 2, "tests"))
    assert [batch.shape[:2] for batch in batches] == [(2, 2), (2, 2), (2, 1)]
    for actual, expected in zip(np.hstack(batches), (images, reports), strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert np.abs(images[0] - images[1:]).max(axis=1).min() > 1e-2  # studies differ
    assert np.abs(reports[0] - reports[1:]).max(axis=1).min() > 1e-2


@pytest.mark.parametrize("present", [None, PRESENT], ids=["all views", "some views"])
def test_what_a_reference_costs_is_what_its_words_cost_one_after_another(
    make_model: Callable[..., UAR], present: np.ndarray | None
) -> None:
    model, studies = make_model(3), make_studies(present)
    decode = decode_params(beam_size=1, guidance=0.0, batch_size=2)
    written = write_reports(
        model, studies, study_ids="12345", raw_reports=REPORTS, vocabulary=WORDS, params=decode,
        what="tests",
    )  # fmt: skip
    for prediction, (visual, report, views) in zip(written, each(model, studies), strict=True):
        with torch.no_grad():
            likely = model(visual, report, views).logits.double().log_softmax(-1)[0]
        words = [word for word in report[0, 1:].tolist() if word != PAD]
        nats = -sum(float(likely[place, word]) for place, word in enumerate(words))
        assert prediction.cross_entropy == pytest.approx(nats, rel=1e-4)


@torch.no_grad()
def attention_by_hand(model: UAR, visual: Tensor, report: Tensor, hidden: Tensor) -> Tensor:
    """softmax(A) of Eq. 11 `(T, L)` of one study, mean over heads and layers.

    Args:
        hidden: `(L,)` bool, tokens of views that it does not have.
    """
    seen = torch.zeros(1, 1, 1, len(hidden)).masked_fill(hidden, -torch.inf).double()
    memory = model.encoder(reference.image_features(model, visual), seen)
    x = reference.text_features(model, report[:, :-1]) + model.decoder.positions(0, 7)
    maps = []
    for layer in model.decoder.layers:
        normed = layer.self_norm(x)
        x = x + reference.attend(layer.self_attention, normed, normed, causal=True)
        normed, attention = layer.visual_norm(x), layer.visual_attention
        bias = seen
        if layer.refiner is not None:
            mask = layer.refiner(normed, layer.refiner.keys(memory), 0)
            bias = layer.mask_scale * mask + seen
        width = 16 // attention.heads
        for head in range(attention.heads):
            own = slice(head * width, (head + 1) * width)
            queries, keys = attention.query(normed)[0, :, own], attention.key(memory)[0, :, own]
            maps.append((queries @ keys.T / width**0.5 + bias[0, 0]).softmax(dim=-1))
        x = x + reference.attend(attention, normed, memory, bias)
        x = x + reference.feed_forward(layer, layer.feed_forward_norm(x))
    return torch.stack(maps).mean(dim=0)


@pytest.mark.parametrize("tir", ["none", "static", "predicted"])
@pytest.mark.parametrize("present", [None, PRESENT], ids=["all views", "some views"])
def test_word_attention_is_equation_11s(
    make_model: Callable[..., UAR], present: np.ndarray | None, tir: str
) -> None:
    model, studies = make_model(2, tir=tir).double(), make_studies(present)
    found = word_attention(model, studies, 2, "tests")
    assert found.shape == (5, 7, 8)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-5)
    for study, (visual, report, views) in enumerate(each(model, studies)):
        hidden = torch.zeros(8, dtype=torch.bool)
        if views is not None:
            hidden = ~views[0].repeat_interleave(4)
        expected = attention_by_hand(model, visual, report, hidden)
        np.testing.assert_allclose(found[study], expected.numpy(), atol=1e-5)
        assert (found[study][:, hidden.numpy()] == 0).all()
    assert (found.max(axis=2) > 1.2 / 8).any()  # it is not uniform
    again = word_attention(model, studies, 5, "tests")  # no hook of before is left
    np.testing.assert_allclose(again, found, atol=1e-5)


def test_reports_are_chosen_among_the_samples_of_their_study(
    make_model: Callable[..., UAR],
) -> None:
    model, studies = make_model(), make_studies()
    decode = decode_params(choose="samples", samples=4, findings_weight=0.0, batch_size=2)
    shared: dict[str, Any] = {"vocabulary": WORDS, "params": decode, "what": "tests", "seed": 0}
    candidates = sampled_candidates(model, studies, **shared)
    written = write_reports(model, studies, study_ids="abcde", raw_reports=REPORTS, **shared)
    chosen = [WORDS.decode(of_study.best(0.0, 0.5).ids) for of_study in candidates]
    assert chosen == [prediction.generated for prediction in written]
    assert len(set(chosen)) > 1


def test_studies_with_other_reports_keep_their_images_and_views() -> None:
    studies = make_studies(PRESENT)
    changed = with_reports(studies, [3, 1], ["a a", "b"], WORDS, 7)
    assert len(changed) == 2
    [before] = studies.batches(5)
    [after] = changed.batches(5)
    assert torch.equal(after.visual, before.visual[[3, 1]])
    assert after.present is not None and before.present is not None
    assert torch.equal(after.present, before.present[[3, 1]])
    assert [WORDS.decode(row) for row in after.report.tolist()] == ["a a", "b"]
    assert with_reports(make_studies(), [0], ["c"], WORDS, 7).present is None
