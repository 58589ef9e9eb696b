"""A study without one of the views: its tokens are there, and nothing may depend on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from uar.core.special_words import BOS, EOS, PAD
from uar.inference.decoding import generate, random_draws, sample
from uar.model.uar import UAR

MakeModel = Callable[..., UAR]
MakeVisual = Callable[..., Tensor]

variants = pytest.mark.parametrize(
    "switches",
    [{"tir": "none"}, {"tir": "static"}, {"tir": "predicted"}, {"lsu": False}, {"findings": True}],
    ids=str,
)
REPORTS = torch.tensor([[BOS, 4, 5, 6, EOS, PAD, PAD, PAD], [BOS, 7, 3, 9, 8, 10, 4, EOS]])
PRESENT = torch.tensor([[True, False], [True, True]])
SEED = 2  # a model whose reports differ in words and length


def with_other_second_view(visual: Tensor) -> Tensor:
    """Study 0 with another image in place of its missing view."""
    changed = visual.clone()
    changed[0, 1] = visual[1, 1]
    assert not torch.equal(changed, visual)
    return changed


@variants
def test_a_missing_view_changes_nothing(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any]
) -> None:
    model = make_model(SEED, **switches).double()
    visual = make_visual(model, 2)
    visual = visual if model.params.lsu else visual.double()
    changed = with_other_second_view(visual)
    with torch.no_grad():
        hidden = [model(v, REPORTS, PRESENT) for v in (visual, changed)]
        shown = [model(v, REPORTS) for v in (visual, changed)]
    for one, other in (
        (hidden[0].logits, hidden[1].logits),
        (hidden[0].image_global, hidden[1].image_global),
        (hidden[0].finding_logits, hidden[1].finding_logits),
    ):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(shown[0].logits, shown[1].logits, atol=1e-3)
    if model.findings is not None:
        assert not torch.allclose(shown[0].finding_logits, shown[1].finding_logits, atol=1e-3)
        alone = model.finding_logits(changed, model.tables(), PRESENT)
        torch.testing.assert_close(alone, hidden[0].finding_logits)
    torch.testing.assert_close(hidden[0].logits[1], shown[0].logits[1])  # it has both views


@variants
def test_all_views_present_is_the_plain_pass(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any]
) -> None:
    model = make_model(SEED, **switches)
    visual = make_visual(model, 2)
    everything = torch.ones(2, 2, dtype=torch.bool)
    with torch.no_grad():
        actual, expected = model(visual, REPORTS, everything), model(visual, REPORTS)
    torch.testing.assert_close(actual.logits, expected.logits)
    torch.testing.assert_close(actual.image_global, expected.image_global)


def test_one_view_alone_is_the_mean_of_its_own_tokens(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    model = make_model(SEED)
    visual = make_visual(model, 2)
    with torch.no_grad():
        features = model.features(visual, REPORTS)[0]
        pooled = model(visual, REPORTS, PRESENT).image_global
    torch.testing.assert_close(pooled[0], features[0, :4].mean(0))  # 4 tokens a view
    torch.testing.assert_close(pooled[1], features[1].mean(0))


@variants
@pytest.mark.parametrize("beams", [1, 3])
def test_reports_are_written_without_the_missing_view(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any], beams: int
) -> None:
    """Studies that end early leave the batch and take their missing views along."""
    model = make_model(SEED, **switches)
    visual = make_visual(model, 6)
    present = torch.tensor([[True, i % 2 == 0] for i in range(6)])
    together = generate(model, visual, beams, present=present)
    changed = visual.clone()
    changed[1::2, 1] = visual[::2, 1]
    assert [g.ids for g in generate(model, changed, beams, present=present)] == [
        g.ids for g in together
    ]
    alone = [
        generate(model, visual[i : i + 1], beams, present=present[i : i + 1])[0] for i in range(6)
    ]
    assert [g.ids for g in alone] == [g.ids for g in together]
    for study, hidden in zip(alone, together, strict=True):
        assert study.log_probability == pytest.approx(hidden.log_probability, abs=1e-4)
    shown = [generate(model, v, beams) for v in (visual, changed)]
    assert [g.log_probability for g in shown[0]] != [g.log_probability for g in shown[1]]


def test_tokens_of_a_missing_view_get_no_gradient(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    model = make_model(SEED)
    visual = torch.arange(8).view(1, 2, 4)  # every token another one
    output = model(visual, REPORTS[:1], PRESENT[:1])
    (output.logits.square().sum() + output.image_global.sum()).backward()
    gradient = model.unifier.visual.weight.grad.abs().sum(1)
    assert (gradient[:4] > 0).all()
    assert (gradient[4:8] == 0).all()


@variants
def test_samples_do_not_depend_on_a_missing_view(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any]
) -> None:
    """Nor do they once other studies have left."""
    model = make_model(SEED, **switches).double()
    with torch.no_grad():
        model.head.bias[EOS] += 1.0
    visual = make_visual(model, 6)
    visual = visual if model.params.lsu else visual.double()
    present = torch.tensor([[True, False], [True, True]] * 3)
    draws = random_draws(0, 5, model.sizes.max_length)
    changed = with_other_second_view(visual)
    hidden = [sample(model, v, draws, 1.0, present=present) for v in (visual, changed)]
    texts = [[[one.ids for one in of_study] for of_study in drawn] for drawn in hidden]
    assert texts[0] == texts[1]
    for study in range(6):
        row = slice(study, study + 1)
        [alone] = sample(model, visual[row], draws, 1.0, present=present[row])
        assert [one.ids for one in alone] == texts[0][study]
    shown = [sample(model, v, draws, 1.0) for v in (visual, changed)]
    assert [one.log_probability for one in shown[0][0]] != pytest.approx(
        [one.log_probability for one in shown[1][0]], abs=1e-3
    )
