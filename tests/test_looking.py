"""What makes a decoder look: dropout of words and features, pooled tokens, negatives, findings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from uar.core.errors import UserError
from uar.core.params_file import parse_params
from uar.core.special_words import BOS, EOS, PAD, UNK
from uar.data.batches import Studies, TokenSource
from uar.data.text import Vocabulary
from uar.evaluation.detection import mean_auc, micro_f1
from uar.inference.decoding import generate
from uar.model.uar import UAR
from uar.training.losses import findings_loss, triplet_contrastive_loss
from uar.training.thresholds import best_thresholds

MakeModel = Callable[..., UAR]
REPORT = torch.tensor([[BOS, 4, 5, 6, EOS, PAD, PAD, PAD], [BOS, 7, 8, 9, 10, 4, 5, EOS]])
VISUAL = torch.arange(16).view(2, 2, 4) % 12


# ---- dropout of the decoder's words and of Eq. 10's tokens


def test_word_dropout_hides_its_share_of_words_from_the_decoder_alone(
    make_model: MakeModel,
) -> None:
    model = make_model(dropout=0.0, word_dropout=0.25)
    inputs = REPORT[:, :-1].repeat(2000, 1)
    words = (inputs != PAD) & (inputs != BOS) & (inputs != EOS)
    torch.manual_seed(0)
    shown = model._hide(inputs, words)
    assert torch.equal(shown[~words], inputs[~words])
    changed = shown != inputs
    assert (shown[changed] == UNK).all()
    assert changed[words].float().mean() == pytest.approx(0.25, abs=0.01)

    plain = model(VISUAL, REPORT)
    model.train()
    hidden = model(VISUAL, REPORT)
    torch.testing.assert_close(hidden.report_global, plain.report_global)  # Eq. 10 sees all words
    assert not torch.allclose(hidden.logits, plain.logits)
    torch.testing.assert_close(hidden.logits[:, 0], plain.logits[:, 0])  # the start is no word


def test_feature_dropout_averages_some_tokens_in_training_alone(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(dropout=0.0, feature_dropout=0.2)
    exact = model(VISUAL, REPORT)
    image, _ = model.features(VISUAL, REPORT[:, :-1])
    torch.testing.assert_close(exact.image_global, image.mean(dim=1))

    assert model._kept(image) is None
    model.train()
    share = model._kept(torch.zeros(100, 200, 1)).float().mean()
    assert float(share) == pytest.approx(0.8, abs=0.02)  # of 20,000
    kept = {8: torch.arange(16).view(2, 8) % 3 == 0, 7: torch.tensor([[False, True] + [False] * 5])}
    monkeypatch.setattr(model, "_kept", lambda features: kept[features.shape[1]])
    output = model(VISUAL, REPORT)
    for study in range(2):
        chosen = image[study][kept[8][study]]
        torch.testing.assert_close(output.image_global[study], chosen.mean(dim=0))
    _, text = model.features(VISUAL, REPORT[:, :-1])
    torch.testing.assert_close(output.report_global, text[:, 1])  # the first word alone
    torch.testing.assert_close(output.logits, exact.logits)  # the decoder gets every token
    assert not torch.allclose(output.report_global, exact.report_global)


def test_image_dropout_hides_the_films_of_its_share_of_reports_in_training_alone(
    make_model: MakeModel,
) -> None:
    plain = make_model(dropout=0.0, findings=True)
    model = make_model(dropout=0.0, findings=True, image_dropout=0.25)
    model.load_state_dict(plain.state_dict() | {"no_image": torch.randn(16)})
    true = torch.ones(2, model.sizes.findings)
    torch.testing.assert_close(model(VISUAL, REPORT).logits, plain(VISUAL, REPORT).logits)

    visual, report = VISUAL[:1].repeat(2000, 1, 1), REPORT[1:].repeat(2000, 1)
    seen = plain.train()(VISUAL[:1], REPORT[1:], findings=true[:1]).logits
    unseen = model.decoder(
        model.features(VISUAL[:1], REPORT[1:, :-1])[1], model.no_image.expand(1, 8, -1)
    )[0]
    torch.manual_seed(0)
    logits = model.train()(visual, report, findings=true[:1].expand(2000, -1)).logits
    blind = torch.isclose(logits, model.head(unseen), atol=1e-5).flatten(1).all(dim=1)
    assert float(blind.float().mean()) == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(logits[~blind], seen.expand(int((~blind).sum()), -1, -1))


def test_guidance_needs_a_model_that_learnt_without_films(tiny_raw: dict[str, Any]) -> None:
    tiny_raw["decode"]["guidance"] = 1.0
    with pytest.raises(UserError, match=r"decode\.guidance 1 needs.*model\.image_dropout"):
        parse_params(tiny_raw, "params.yaml")
    tiny_raw["model"]["image_dropout"] = 0.1
    assert parse_params(tiny_raw, "params.yaml").decode.guidance == 1.0


# ---- pooled tokens


def test_the_encoder_sees_the_mean_of_each_square_of_tokens(make_model: MakeModel) -> None:
    model = make_model(visual_pool=2)
    assert model.encoder.positions.table.shape[0] == 2
    assert model.decoder.layers[0].refiner.mask.shape == (7, 2)
    image = torch.randn(3, 8, 16)
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model._encode(image, 2, None)
    torch.testing.assert_close(seen[0], image.view(3, 2, 4, 16).mean(dim=2))


def test_squares_are_neighbours_on_the_film(make_model: MakeModel) -> None:
    model = make_model()
    model.pool = 2
    cells = torch.arange(32.0).view(1, 32, 1).repeat(1, 1, 16)  # two films of 4 x 4
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model._encode(cells, 2, torch.tensor([[True, False]]))
    corner = (0 + 1 + 4 + 5) / 4
    first = [corner, corner + 2, corner + 8, corner + 10]
    expected = torch.tensor([*first, *(value + 16 for value in first)])
    torch.testing.assert_close(seen[0][0, :, 0], expected)


@pytest.mark.parametrize("switches", [{"visual_pool": 2}, {"findings": True}], ids=str)
@pytest.mark.parametrize("beams", [1, 3])
def test_cached_decoding_is_the_forward_pass(
    make_model: MakeModel, switches: dict[str, Any], beams: int
) -> None:
    model = make_model(2, **switches)
    with torch.no_grad():
        expected = model(VISUAL, REPORT).logits
        tables = model.tables()
        cache = model.start(VISUAL, beams, tables)
        for position in range(7):
            words = REPORT[:, position].unsqueeze(1).expand(-1, beams)
            logits = model.step(words, tables, cache)
            for beam in range(beams):
                torch.testing.assert_close(
                    logits[:, beam], expected[:, position], atol=1e-4, rtol=1e-4
                )


def test_a_study_keeps_its_prompt_when_others_leave_the_batch(make_model: MakeModel) -> None:
    model = make_model(2, findings=True)
    visual = torch.randint(0, 12, (6, 2, 4), generator=torch.Generator().manual_seed(1))
    model.findings.thresholds.copy_(
        model.finding_logits(visual, model.tables()).sigmoid().median(dim=0).values
    )
    together = generate(model, visual, beam_size=2)
    assert len({len(report.ids) for report in together}) > 1  # they do leave at different times
    for study, report in enumerate(together):
        assert generate(model, visual[study : study + 1], beam_size=2)[0].ids == report.ids


def test_a_pool_that_does_not_divide_a_view_is_refused(tiny_raw: dict[str, Any]) -> None:
    tiny_raw["model"]["visual_pool"] = 2  # 24 pixels: 3 tokens along a side
    with pytest.raises(UserError, match=r"visual_pool 2 does not divide the 3 tokens"):
        parse_params(tiny_raw, "tiny")


# ---- Eq. 10's negatives


@pytest.mark.parametrize("smoothness", [0.05, 0.5])
def test_smooth_negatives_by_the_definition(smoothness: float) -> None:
    generator = torch.Generator().manual_seed(0)
    image, report = (torch.randn(4, 6, generator=generator) for _ in range(2))
    ids, margin = [0, 1, 1, -1], 0.2

    def cosine(i: int, r: int) -> float:
        return float(torch.cosine_similarity(image[i], report[r], dim=0))

    def smooth(cosines: list[float]) -> float:
        return smoothness * math.log(
            sum(math.exp(value / smoothness) for value in cosines) / len(cosines)
        )

    total = 0.0
    for anchor in range(3):  # the last row is no study
        others = [j for j in range(3) if ids[j] != ids[anchor]]
        for negatives in (
            [cosine(anchor, other) for other in others],
            [cosine(other, anchor) for other in others],
        ):
            total += max(0.0, margin - cosine(anchor, anchor) + smooth(negatives))
    actual = triplet_contrastive_loss(
        image, report, torch.tensor(ids), margin=margin, studies=3, smoothness=smoothness
    )
    assert float(actual) == pytest.approx(total / 3, rel=1e-5)


def test_smooth_negatives_lie_between_the_mean_and_the_hardest() -> None:
    generator = torch.Generator().manual_seed(1)
    image, report = (torch.randn(8, 6, generator=generator) for _ in range(2))
    ids = torch.arange(8)
    hardest = triplet_contrastive_loss(image, report, ids, margin=2.5)
    near, far = (
        triplet_contrastive_loss(image, report, ids, margin=2.5, smoothness=tau)
        for tau in (1e-4, 1e4)
    )
    cosines = torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(report).T
    mean = cosines.masked_fill(torch.eye(8, dtype=torch.bool), 0).sum() / 56
    assert near == pytest.approx(float(hardest), abs=1e-2)
    assert float(far) == pytest.approx(2 * float(2.5 - cosines.diagonal().mean() + mean), abs=1e-2)
    assert far < hardest


def test_an_anchor_without_negatives_adds_nothing() -> None:
    image = torch.eye(2, 3, requires_grad=True)
    loss = triplet_contrastive_loss(
        image, torch.eye(2, 3), torch.tensor([5, 5]), margin=0.2, smoothness=0.05
    )
    loss.backward()
    assert float(loss.detach()) == 0
    assert image.grad is not None
    assert not image.grad.isnan().any()


# ---- findings


def test_training_prompts_with_true_findings_and_writing_with_those_found(
    make_model: MakeModel,
) -> None:
    model = make_model(findings=True, dropout=0.0)
    model.findings.dropout.p = 0.0
    none, every = torch.zeros(2, 3), torch.ones(2, 3)
    model.findings.thresholds.fill_(1.01)  # nothing is ever found
    written = model(VISUAL, REPORT, findings=every).logits  # evaluation does not look at the truth
    model.train()
    torch.testing.assert_close(model(VISUAL, REPORT, findings=none).logits, written)
    assert not torch.allclose(model(VISUAL, REPORT, findings=every).logits, written)
    model.eval()
    model.findings.thresholds.fill_(-0.01)  # everything is
    seen = model(VISUAL, REPORT).logits
    model.train()
    torch.testing.assert_close(model(VISUAL, REPORT, findings=every).logits, seen)


def test_a_prompt_is_the_sum_of_each_findings_vector(make_model: MakeModel) -> None:
    head = make_model(findings=True).findings
    prompt = head.prompt(torch.tensor([[1.0, 0.0, 1.0]]))
    expected = (head.present[0] + head.absent[1] + head.present[2]) / 3**0.5
    torch.testing.assert_close(prompt, expected.view(1, 1, -1))


def test_findings_loss_by_the_definition() -> None:
    logits = torch.tensor([[0.5, -1.0], [2.0, 0.0], [9.0, 9.0]])
    true = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    weights, real = torch.tensor([3.0, 2.0]), torch.tensor([True, True, False])
    p = logits.sigmoid()
    expected = -(3 * p[0, 0].log() + (1 - p[0, 1]).log() + (1 - p[1, 0]).log() + 2 * p[1, 1].log())
    actual = findings_loss(logits, true, weights=weights, real=real, studies=2)
    assert float(actual) == pytest.approx(float(expected) / 4, rel=1e-5)


def test_mean_auc_leaves_rare_findings_out() -> None:
    scores, true = np.array([0.1, 0.4, 0.35, 0.8, 0.4]), np.array([0, 0, 1, 1, 1], bool)
    # pairs: .35 > .1, .35 < .4, .8 > both, .4 > .1 and = .4
    both = np.stack([scores, -scores], axis=1)
    rare = np.stack([true, np.arange(5) == 0], axis=1)
    assert mean_auc(both, rare, at_least=2) == pytest.approx(4.5 / 6)
    assert mean_auc(both, rare, at_least=1) == pytest.approx((4.5 / 6 + 1) / 2)
    assert math.isnan(mean_auc(both, rare, at_least=4))


def test_thresholds_reach_the_best_micro_f1() -> None:
    generator = np.random.default_rng(0)
    true = generator.random((200, 2)) < (0.3, 0.1)
    sure = np.where(true[:, 0], 0.9, 0.2) + generator.random(200) * 0.05
    blind = generator.random(200) * 0.1
    scores = np.stack([sure, blind], axis=1)
    thresholds, f1 = best_thresholds(scores, true)
    found = scores > thresholds
    assert f1 == micro_f1(found, true)
    assert f1 >= max(micro_f1(scores > cut, true) for cut in np.linspace(0, 1.01, 50))
    assert (found[:, 0] == true[:, 0]).mean() > 0.95
    assert found[:, 1].mean() < 0.2  # a finding that cannot be seen is seldom claimed


# ---- what training draws


def make_studies(**settings: Any) -> Studies:
    reports = [f"word{i}" for i in range(10)]
    tokens = TokenSource(np.zeros((10, 4, 2), np.uint16))
    return Studies(
        tokens,
        np.arange(10)[:, None],
        reports,
        vocabulary=Vocabulary.build(reports, 1),
        max_length=3,
        **settings,
    )


def test_studies_with_findings_are_drawn_as_often_as_asked() -> None:
    studies = make_studies(weights=np.array([3.0] * 2 + [1.0] * 8))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([studies._order(generator) for _ in range(400)])
    share = (drawn < 2).float().mean()
    assert float(share) == pytest.approx(6 / 14, abs=0.02)
    assert sorted(make_studies()._order(generator).tolist()) == list(range(10))


def test_batches_carry_their_studies_findings() -> None:
    findings = np.eye(10, 3, dtype=bool)
    studies = make_studies(findings=findings)
    for [batch] in studies.training_batches(4, torch.Generator().manual_seed(0)):
        real = batch.report_ids.numpy() >= 0
        rows = batch.report_ids.numpy()[real]  # texts are in order of the studies
        assert np.array_equal(batch.findings.numpy()[real], findings[rows])
    assert make_studies().findings is None


@pytest.mark.parametrize(("whole", "first"), [(False, 1), (True, 0)])
def test_training_draws_the_whole_view_if_asked(whole: bool, first: int) -> None:
    source = TokenSource(np.zeros((5, 4, 2), np.uint16), draw_whole=whole)
    drawn = source.draw((3000,), torch.Generator().manual_seed(0))
    shares = drawn.bincount(minlength=4) / 3000
    assert shares[first:] == pytest.approx([1 / (4 - first)] * (4 - first), abs=0.03)
    assert drawn.min() == first
