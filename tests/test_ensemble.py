"""Several models as one: at decoding, as teachers of another, and in a bundle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import reference
from tests.bundles import chest, make_bundle, rewritten, sealed
from tests.test_training import make_model as trained_model
from tests.test_training import make_studies
from uar.bundle.bundle import Bundle
from uar.bundle.reporter import Reporter
from uar.core.config import Params
from uar.core.errors import UserError
from uar.core.special_words import BOS, EOS, PAD
from uar.inference.decoding import generate, random_draws, sample
from uar.inference.word_attention import recorded_attention
from uar.model.ensemble import Ensemble, mean_logits, refuse_other_member, together
from uar.model.likelihood import report_cross_entropy
from uar.model.uar import UAR
from uar.training.losses import distillation_loss
from uar.training.objective import Objective

MakeModel = Callable[..., UAR]
MakeVisual = Callable[..., Tensor]
variants = pytest.mark.parametrize(
    "switches",
    [{}, {"lsu": False}, {"findings": True}, {"tir": "predicted", "visual_pool": 2}],
    ids=str,
)


def members(make_model: MakeModel, **switches: Any) -> list[UAR]:
    """Three models whose reports end at different words."""
    models = [make_model(seed, **switches).eval() for seed in (2, 3, 4)]
    with torch.no_grad():
        for number, model in enumerate(models):
            model.head.weight.mul_(2)
            model.head.bias[EOS] += number
            if model.no_image is not None:
                torch.nn.init.normal_(model.no_image, std=2.0)
    return [model.double() for model in models]  # no near tie that a CPU would decide


def films_of(make_visual: MakeVisual, model: UAR, studies: int) -> Tensor:
    """Tokens, or pixels in the model's precision."""
    visual = make_visual(model, studies)
    return visual if model.params.lsu else visual.double()


# ---- decoding


@variants
def test_the_pass_gives_the_mean_of_probabilities(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any]
) -> None:
    models = members(make_model, **switches)
    visual = films_of(make_visual, models[0], 3)
    report = torch.tensor([[BOS, 4, 5, EOS, PAD, PAD, PAD, PAD]] * 3)
    with torch.no_grad():
        output = Ensemble(models)(visual, report)
        each = [model(visual, report) for model in models]
    expected = torch.stack([of.logits.softmax(-1) for of in each]).mean(dim=0)
    torch.testing.assert_close(output.logits.exp(), expected.float())
    assert torch.equal(output.image_global, each[0].image_global)
    if models[0].findings is not None:
        heads = torch.stack([of.finding_logits.sigmoid() for of in each]).mean(dim=0)
        torch.testing.assert_close(output.finding_logits.sigmoid(), heads)


@variants
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_reports_equal_the_references(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any], guidance: float
) -> None:
    models = members(make_model, image_dropout=0.5, **switches)
    visual = films_of(make_visual, models[0], 6)
    ensemble = Ensemble(models)
    written = generate(ensemble, visual, 3, 1.0, guidance=guidance)
    expected = reference.generate(ensemble, visual, 3, 1.0, guidance=guidance)
    assert [of.ids for of in written] == [of.ids for of in expected]
    for found, wanted in zip(written, expected, strict=True):
        assert found.log_probability == pytest.approx(wanted.log_probability, rel=1e-4, abs=1e-3)
    alone = [generate(model, visual, 3, 1.0, guidance=guidance) for model in models]
    assert all([of.ids for of in one] != [of.ids for of in written] for one in alone)


def test_samples_have_the_probabilities_of_the_pass(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    models = members(make_model)
    visual = films_of(make_visual, models[0], 4)
    ensemble = Ensemble(models)
    length = ensemble.sizes.max_length
    drawn = sample(ensemble, visual, random_draws(0, 5, length), 1.0)
    for study, of_study in enumerate(drawn):
        for one in of_study:
            ids = [BOS, *one.ids, EOS][: length + 1]
            report = torch.tensor([ids + [PAD] * (length + 1 - len(ids))])
            with torch.no_grad():
                nats = report_cross_entropy(ensemble(visual[[study]], report).logits, report[:, 1:])
            assert one.log_probability == pytest.approx(-float(nats), abs=1e-4)


def test_a_model_twice_writes_as_it_does_alone(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    model = members(make_model)[0]
    visual = films_of(make_visual, model, 5)
    assert together([model]) is model
    twice, alone = (generate(of, visual, 3, 1.0) for of in (together([model, model]), model))
    assert [of.ids for of in twice] == [of.ids for of in alone]


def test_the_mean_likelihood_is_no_worse_than_the_members_mean(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    models = members(make_model)
    visual = films_of(make_visual, models[0], 6)
    report = torch.tensor([[BOS, 4, 5, 6, 7, EOS, PAD, PAD]] * 6)
    with torch.no_grad():
        whole = report_cross_entropy(Ensemble(models)(visual, report).logits, report[:, 1:])
        each = [report_cross_entropy(of(visual, report).logits, report[:, 1:]) for of in models]
    assert (whole <= torch.stack(each).mean(dim=0) + 1e-4).all()  # Jensen's inequality


def test_attention_is_recorded_of_every_member(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    models = members(make_model)
    visual, report = films_of(make_visual, models[0], 2), torch.tensor([[BOS, 4, EOS]] * 2)
    recorded = []
    with torch.no_grad():
        for model in (Ensemble(models), *models):
            with recorded_attention(model) as layers:
                model(visual, report)
            recorded.append(torch.stack(layers))
    torch.testing.assert_close(recorded[0], torch.cat(recorded[1:]))


def test_mean_logits_of_sure_heads_stay_finite() -> None:
    sure = torch.tensor([30.0, -30.0])
    found = mean_logits([sure, sure.flip(0)])
    torch.testing.assert_close(found, torch.zeros(2))
    assert mean_logits([sure, sure]).isfinite().all()


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        ({"lsu": False}, "codebook|visual_length|model.lsu"),
        ({"findings": True}, "model.findings True.*has False"),
        ({"image_dropout": 0.1}, "model.image_dropout above 0 True"),
        ({"visual_pool": 2}, "model.visual_pool 2"),
    ],
)
def test_models_that_cannot_write_together_are_refused(
    make_model: MakeModel, switches: dict[str, Any], said: str
) -> None:
    first = make_model()
    refuse_other_member(first, make_model(seed=1, dropout=0.5, tir="none"), "other")
    with pytest.raises(UserError, match=f"^b.safetensors is a model with .*({said})"):
        refuse_other_member(first, make_model(**switches), "b.safetensors")


# ---- teachers


def test_the_divergence_from_teachers_counts_words_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, taught = (torch.randn(3, 4, 6, generator=generator) for _ in range(2))
    taught = taught.log_softmax(-1)
    targets = torch.tensor([[4, EOS, PAD, PAD], [4, 5, 4, EOS], [5, EOS, PAD, PAD]])
    counted = torch.tensor([True, False, True])
    total = 0.0
    for study, word in [(0, 0), (0, 1), (2, 0), (2, 1)]:
        p, q = taught[study, word].exp().tolist(), logits[study, word].softmax(-1).tolist()
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    found = distillation_loss(logits, taught, targets, counted=counted)
    assert float(found) == pytest.approx(total / 8, rel=1e-5)  # of 8 words and end tokens
    of_share = distillation_loss(logits, taught, targets, counted=counted, words=16)
    assert float(of_share) == pytest.approx(total / 16, rel=1e-5)
    assert float(distillation_loss(taught, taught, targets, counted=counted)) == pytest.approx(0)


def test_what_teachers_teach_is_added_to_the_loss(tiny_params: Params) -> None:
    settings = tiny_params.train.model_copy(update={"teacher_weight": 3.0})
    objective = Objective.of_stage(settings, with_mask=False)
    model = trained_model(tiny_params, tir="none", image_dropout=0.5).train()
    [batch] = make_studies().batches(100)
    with torch.no_grad():
        taught = trained_model(tiny_params, seed=1, tir="none").eval()(*batch.inputs).logits
        taught = taught.log_softmax(-1)
        torch.manual_seed(0)
        _, terms = objective(model, batch, taught=taught)
        torch.manual_seed(0)
        output = model(*batch.inputs)
    assert output.blind.any()
    assert not output.blind.all()
    expected = distillation_loss(
        output.logits, taught, batch.report[:, 1:], counted=~output.blind, words=batch.words
    )
    torch.testing.assert_close(terms["teachers"], expected)
    whole = terms["language_modeling"] + terms["global"] + 3 * terms["teachers"]
    torch.testing.assert_close(terms["loss"], whole)


# ---- bundles


@pytest.fixture
def several(tiny_raw: dict[str, Any]) -> Bundle:
    """A bundle with two other members."""
    first = make_bundle(tiny_raw)
    words = first.vocabulary.fingerprint()
    generator = torch.Generator().manual_seed(5)

    def changed(by: float) -> Any:
        weights = {
            name: weight + by * torch.randn(weight.shape, generator=generator)
            if name.startswith("head.")
            else weight
            for name, weight in first.checkpoint.weights.items()
        }
        return replace(first.checkpoint, weights=weights, vocabulary_sha256=words)

    return replace(first, members=[changed(0.3), changed(0.5)])


def test_a_bundle_writes_with_all_its_members(several: Bundle, tmp_path: Path) -> None:
    several.save(tmp_path / "model.uar")
    loaded = Bundle.load(tmp_path / "model.uar")
    for found, expected in zip(loaded.members, several.members, strict=True):
        assert found.vocabulary_sha256 == expected.vocabulary_sha256
        assert all(torch.equal(found.weights[n], w) for n, w in expected.weights.items())
    reporter = Reporter(loaded, "cpu")
    films = [chest(0), chest(0, 1)]
    report = reporter.report(films, force=True)
    models = [of.build().eval() for of in (several.checkpoint, *several.members)]
    visual = reporter.prepare(films).visual[None]
    decode = several.decode
    [expected] = generate(Ensemble(models), visual, decode.beam_size, decode.length_penalty)
    assert report.text.split() or expected.ids
    assert report.log_probability == pytest.approx(expected.log_probability, abs=1e-4)
    alone = Reporter(replace(several, members=()), "cpu").report(films, force=True)
    assert report.log_probability != pytest.approx(alone.log_probability, abs=1e-3)


def test_a_member_of_another_run_is_refused(several: Bundle) -> None:
    first, second = several.members
    for change, said in [
        ({"encoder_sha256": "f" * 64}, "member 2 reads tokens of encoder ffffffffffff"),
        ({"vocabulary_sha256": "e" * 64}, "member 2 was trained with vocabulary eeeeeeeeeeee"),
    ]:
        with pytest.raises(UserError, match=said):
            replace(several, members=[first, replace(second, **change)])


def test_members_are_numbered_without_gaps(several: Bundle, tmp_path: Path) -> None:
    several.save(tmp_path / "model.uar")

    def renumber(parts: dict[str, bytes]) -> None:
        parts["member_3.safetensors"] = parts.pop("member_1.safetensors")
        sealed(parts)

    with pytest.raises(UserError, match="its parts are"):
        Bundle.load(rewritten(tmp_path / "model.uar", renumber))
