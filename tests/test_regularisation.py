"""Label smoothing, R-Drop and the average of weights: by hand, and that each acts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.test_training import Scripted, differ, make_model, make_studies
from tests.test_training import train as train  # the fixture
from uar.core.config import Params
from uar.core.special_words import PAD
from uar.model.uar import UAR
from uar.training.average import WeightAverage
from uar.training.losses import language_modeling_loss, symmetric_divergence
from uar.training.objective import Objective

TARGETS = torch.tensor([[4, 5, 2, PAD], [6, 2, PAD, PAD]])


def logits(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(seed))


# ---- label smoothing


def test_label_smoothing_shares_the_targets_probability_out() -> None:
    """Szegedy et al. 2016, section 7, word by word."""
    given, likely = logits(0), logits(0).log_softmax(-1)
    total = 0.0
    for study, words in enumerate(TARGETS.tolist()):
        for place, word in enumerate(words):
            if word != PAD:
                shared = float(likely[study, place].mean())
                total -= 0.7 * float(likely[study, place, word]) + 0.3 * shared
    found = language_modeling_loss(given, TARGETS, smoothing=0.3)
    assert float(found) == pytest.approx(total / 5, rel=1e-5)


@pytest.mark.parametrize(
    "change", [{"label_smoothing": 0.2}, {"r_drop": 1.0}, {"weight_average": 0.9}]
)
def test_each_changes_what_is_trained(
    tiny_params: Params, train: Callable[..., Any], change: dict[str, float]
) -> None:
    settings = tiny_params.train.model_copy(update={"batch_size": 3})
    plain, other = (
        train(make_model(tiny_params), scratch=name, settings=of)[0].best.weights
        for name, of in (("plain", settings), ("other", settings.model_copy(update=change)))
    )
    assert differ(plain, other)


# ---- R-Drop


def test_the_divergence_is_the_mean_of_both_kl_divergences() -> None:
    """Wu et al. 2021, Eq. 2, word by word; of a study whose passes are not alike, nothing."""
    one, other = logits(1), logits(2)
    p, q = one.softmax(-1), other.softmax(-1)
    kept = torch.tensor([True, False])
    total = 0.0
    for place in range(3):  # of the first study
        for a, b in ((p, q), (q, p)):
            total += float((a[0, place] * (a[0, place] / b[0, place]).log()).sum()) / 2
    found = symmetric_divergence(one, other, TARGETS, counted=kept)
    assert float(found) == pytest.approx(total / 5, rel=1e-5)
    halves = [
        symmetric_divergence(
            one[i : i + 1], other[i : i + 1], TARGETS[i : i + 1], counted=kept[i : i + 1], words=5
        )
        for i in range(2)
    ]
    assert float(sum(halves)) == pytest.approx(float(found), rel=1e-6)
    assert float(symmetric_divergence(one, one, TARGETS, counted=kept)) == 0


def test_r_drop_adds_the_divergence_of_two_passes(tiny_params: Params) -> None:
    without, objective = (
        Objective.of_stage(tiny_params.train.model_copy(update={"r_drop": weight}), with_mask=False)
        for weight in (0.0, 2.0)
    )
    [[batch]] = make_studies().training_batches(8, torch.Generator().manual_seed(0))
    model = make_model(tiny_params, tir="none", dropout=0.0)
    with torch.no_grad():
        _, terms = objective(model.train(), batch)
        plain, _ = without(model, batch)
    assert float(terms["r_drop"]) == pytest.approx(0, abs=1e-6)  # nothing drops
    assert float(terms["loss"]) == pytest.approx(float(plain), rel=1e-5)

    model = make_model(tiny_params, tir="none", dropout=0.3)
    with torch.no_grad():
        loss, terms = objective(model.train(), batch)
    assert terms["r_drop"] > 0
    expected = terms["language_modeling"] + terms["global"] + 2 * terms["r_drop"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_r_drop_does_not_pull_reports_with_and_without_films_together(tiny_params: Params) -> None:
    settings = tiny_params.train.model_copy(update={"r_drop": 1.0})
    objective = Objective.of_stage(settings, with_mask=False)
    [[batch]] = make_studies().training_batches(8, torch.Generator().manual_seed(0))
    model = make_model(tiny_params, tir="none", dropout=0.0, image_dropout=0.5).train()
    nn.init.normal_(model.no_image, std=2.0, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    one, other = (model(batch.visual, batch.report, batch.present).blind for _ in range(2))
    assert not torch.equal(one, other)  # some are hidden in one pass alone
    torch.manual_seed(0)
    with torch.no_grad():
        _, terms = objective(model, batch)
    assert float(terms["r_drop"]) == pytest.approx(0, abs=1e-6)


# ---- the average of weights


def test_the_average_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average, expected = WeightAverage(module, 0.5), 0.0
    for step in range(1, 12):
        with torch.no_grad():
            module.weight.fill_(float(step))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with average.in_place():
        assert float(module.weight.detach()) == pytest.approx(expected)
    assert float(module.weight.detach()) == 11


def test_validation_and_checkpoint_take_the_average_and_training_goes_on_with_its_own(
    tiny_params: Params, train: Callable[..., Any]
) -> None:
    def run(average: float, scratch: str) -> tuple[UAR, Scripted, Any]:
        scores = Scripted(0.1, 0.2, 0.3)
        settings = tiny_params.train.model_copy(update={"batch_size": 3, "weight_average": average})
        model = make_model(tiny_params)
        trained, _ = train(model, scratch=scratch, settings=settings, scores=scores)
        return model, scores, trained

    plain, _, _ = run(0.0, "plain")
    model, scores, trained = run(0.99, "averaged")
    for name, weight in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert differ(scores.weights[-1], model.state_dict())
    for name, weight in scores.weights[-1].items():
        assert torch.equal(trained.best.weights[name], weight), name


def test_room_for_the_average_is_asked_for(
    tiny_params: Params, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("uar.training.stage.require_room", lambda _, needed: asked.append(needed))
    for average in (0.0, 0.9):
        settings = tiny_params.train.model_copy(update={"batch_size": 3, "weight_average": average})
        train(make_model(tiny_params), scratch=str(average), settings=settings)
    weights = sum(w.nbytes for w in make_model(tiny_params).state_dict().values())
    assert asked[1] - asked[0] == 2 * weights
