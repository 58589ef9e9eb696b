"""Every equation of the paper against a straightforward implementation, and facts about the model.

The reference functions use a module's weights and nothing else of it: plain loops or the printed
formula, in double precision where a module allows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import reference
from uar.core.config import Params
from uar.core.params_file import parse_params
from uar.core.special_words import BOS, EOS, PAD
from uar.data.batches import Batch
from uar.model.aligner import CrossModalRepresentationAligner, make_basis
from uar.model.attention import MultiHeadAttention
from uar.model.transformer import DecoderLayer, Dropout, Positions
from uar.model.uar import UAR, distinct
from uar.model.unifier import LookUp
from uar.training.losses import language_modeling_loss, mask_loss, triplet_contrastive_loss
from uar.training.objective import Objective

MakeModel = Callable[..., UAR]
MakeVisual = Callable[..., Tensor]

REPORTS = torch.tensor(
    [
        [BOS, 4, 5, 6, EOS, PAD, PAD, PAD],
        [BOS, 7, 4, 7, 8, 9, 10, EOS],
        [BOS, 5, EOS, PAD, PAD, PAD, PAD, PAD],
        [BOS, 4, 5, 6, EOS, PAD, PAD, PAD],
    ]
)
REPORT_IDS = torch.tensor([0, 1, 2, 0])  # the first and the last are the same text
SWITCHES: list[dict[str, Any]] = [
    {},
    {"tir": "predicted"},
    {"lsu": False},
    {"integration": False, "tir": "none"},
]


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    product = torch.einsum("oi,...i->...o", layer.weight, x)
    return product if layer.bias is None else product + layer.bias


def layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + layer.eps).sqrt() * layer.weight + layer.bias


def attention(
    weights: MultiHeadAttention, q: Tensor, kv: Tensor, k_sigma_m: Tensor | None, causal: bool
) -> Tensor:
    """Eq. 7, or Eq. 11 with `k_sigma_m`; of one study, `(T, d)` over `(S, d)`, head by head."""
    width = q.shape[-1] // weights.heads
    queries, keys, values = (
        linear(weights.query, q),
        linear(weights.key, kv),
        linear(weights.value, kv),
    )
    attended = []
    for head in range(weights.heads):
        part = slice(head * width, (head + 1) * width)
        rows = []
        for t in range(len(q)):
            activations = keys[:, part] @ queries[t, part]
            if k_sigma_m is not None:
                activations = activations + k_sigma_m[t]
            activations = activations / math.sqrt(width)
            if causal:
                activations = activations[: t + 1]
            shares = activations.exp() / activations.exp().sum()
            rows.append(shares @ values[: len(shares), part])
        attended.append(torch.stack(rows))
    return linear(weights.output, torch.cat(attended, dim=-1))


def make_aligner(fusion: str = "dual_gate") -> CrossModalRepresentationAligner:
    torch.manual_seed(1)
    aligner = CrossModalRepresentationAligner(
        8, 2, basis="orthogonal", basis_size=20, fusion=fusion
    )  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in aligner.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return aligner.double()


def embeddings() -> Tensor:
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.double)


# ---- the language model's loss


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Eq. 5, over the number of words and end tokens in the batch."""
    terms = [
        logits[b, t].exp().sum().log() - logits[b, t, targets[b, t]]
        for b in range(len(targets))
        for t in range(targets.shape[1])
        if targets[b, t] != PAD
    ]
    return torch.stack(terms).sum() / len(terms)


def test_equation_5_language_modeling_loss() -> None:
    logits = torch.randn(4, 7, 11, generator=torch.Generator().manual_seed(0)) * 3
    targets = REPORTS[:, 1:]
    expected = cross_entropy(logits, targets)
    torch.testing.assert_close(language_modeling_loss(logits, targets), expected)

    padded = logits.clone()
    padded[targets == PAD] = 100 * torch.randn(int((targets == PAD).sum()), 11)
    assert language_modeling_loss(padded, targets) == language_modeling_loss(logits, targets)


# ---- cross-modal representation aligner


def test_equation_6_adjusted_basis() -> None:
    aligner = make_aligner()
    expected = torch.empty(20, 8, dtype=torch.double)
    for i in range(20):
        for j in range(8):
            gamma = math.sqrt(20) * aligner.gain[i, j]
            expected[i, j] = gamma * aligner.basis[i, j] + aligner.bias[i, j]
    torch.testing.assert_close(aligner.adjusted_basis(), expected)


def test_the_adjusted_basis_starts_with_unit_mean_square() -> None:
    for basis in ("orthogonal", "uniform", "normal"):
        aligner = CrossModalRepresentationAligner(
            64, 8, basis=basis, basis_size=2048, fusion="none"
        )  # type: ignore[arg-type]
        assert aligner.adjusted_basis().square().mean().item() == pytest.approx(1.0, rel=0.02)


def represented(aligner: CrossModalRepresentationAligner, e: Tensor) -> Tensor:
    """Eq. 7: F~ of `(B, N, d)` embeddings."""
    adjusted = math.sqrt(20) * aligner.gain * aligner.basis + aligner.bias
    return torch.stack([attention(aligner.attention, row, adjusted, None, False) for row in e])


def test_equation_7_attention_over_the_basis() -> None:
    aligner, e = make_aligner(fusion="none"), embeddings()
    torch.testing.assert_close(aligner(e), represented(aligner, e))


def gate(layer: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    """Eq. 8."""
    w_1, w_2 = layer.weight[:, :8].T, layer.weight[:, 8:].T
    return 1 / (1 + torch.exp(-(x @ w_1 + y @ w_2)))


def test_equations_8_and_9_dual_gate() -> None:
    aligner, e = make_aligner(), embeddings()
    f = represented(aligner, e)
    assert aligner.gate is not None
    g_i, g_f = gate(aligner.gate.input_gate, e, f), gate(aligner.gate.forget_gate, e, f)
    assert (g_i - g_f).abs().max() > 0.1
    torch.testing.assert_close(aligner(e), g_i * torch.tanh(e + f) + g_f * e + f)


def test_gates_without_weights_are_half_open() -> None:
    """F~ stands outside the gates of Eq. 9, so it comes through whole."""
    aligner, e = make_aligner(), embeddings()
    assert aligner.gate is not None
    with torch.no_grad():
        for parameter in aligner.gate.parameters():
            parameter.zero_()
    f = represented(aligner, e)
    torch.testing.assert_close(aligner(e), torch.tanh(e + f) / 2 + e / 2 + f)


def test_addition_fusion() -> None:
    aligner, e = make_aligner(fusion="addition"), embeddings()
    torch.testing.assert_close(aligner(e), e + represented(aligner, e))


def test_orthogonal_basis_has_orthonormal_columns() -> None:
    basis = make_basis("orthogonal", 2048, 64)
    torch.testing.assert_close(basis.T @ basis, torch.eye(64), atol=1e-5, rtol=0)


def test_other_bases_have_the_same_mean_square() -> None:
    torch.manual_seed(0)
    bases = {kind: make_basis(kind, 2048, 64) for kind in ("orthogonal", "uniform", "normal")}
    for basis in bases.values():
        assert basis.square().mean() == pytest.approx(1 / 2048, rel=0.02)
    bound = math.sqrt(3 / 2048)
    assert bases["uniform"].abs().max() <= bound
    beyond = (bases["normal"].abs() > bound).double().mean()  # P(|x| > sqrt 3) of a normal
    assert beyond == pytest.approx(math.erfc(math.sqrt(1.5)), rel=0.05)
    deviation = bases["uniform"].T @ bases["uniform"] - torch.eye(64)
    assert deviation.abs().max() > 1e-2


def test_the_basis_is_fixed_and_its_gain_and_bias_learn() -> None:
    aligner = make_aligner()
    assert "basis" in dict(aligner.named_buffers())
    assert "basis" not in dict(aligner.named_parameters())
    before = aligner.basis.clone()
    aligner(embeddings()).square().sum().backward()
    for parameter in (aligner.gain, aligner.bias):
        assert parameter.shape == aligner.basis.shape
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 1e-6
    assert aligner.basis.grad is None
    torch.optim.AdamW(aligner.parameters(), lr=0.1).step()
    assert torch.equal(aligner.basis, before)


# ---- triplet loss


def triplet(image: Tensor, report: Tensor, report_ids: Tensor, margin: float) -> Tensor:
    """Eq. 10, averaged over the batch."""

    def cosine(i: int, j: int) -> float:
        a, b = image[i].detach().double(), report[j].detach().double()
        return float((a * b).sum() / (a.norm() * b.norm()))

    total, count = 0.0, len(image)
    for anchor in range(count):
        others = [j for j in range(count) if report_ids[j] != report_ids[anchor]]
        if others:
            positive = cosine(anchor, anchor)
            hard_report = max(cosine(anchor, j) for j in others)
            hard_image = max(cosine(j, anchor) for j in others)
            total += max(0.0, margin - positive + hard_report)
            total += max(0.0, margin - positive + hard_image)
    return torch.tensor(total / count)


@pytest.mark.parametrize(
    "ids", [[0, 1, 2, 3, 4, 5], [0, 1, 0, 0, 2, 1], [3, 3, 3, 3, 3, 3]], ids=str
)
@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_equation_10_triplet_loss(ids: list[int], margin: float) -> None:
    generator = torch.Generator().manual_seed(5)
    image, report = torch.randn(2, 6, 8, generator=generator)
    report_ids = torch.tensor(ids)
    expected = triplet(image, report, report_ids, margin)
    assert (expected == 0) == (len(set(ids)) == 1)
    actual = triplet_contrastive_loss(image, report, report_ids, margin=margin)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_the_negatives_are_hardest_in_either_direction() -> None:
    """By hand: cosines of image i (row) and report j (column), of which 0 and 1 share a text."""
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    report = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 2.0]])
    near, half = 1 / math.sqrt(1.01), math.sqrt(0.5)
    cosines = [[1, near, 0], [0, 0.1 * near, 1], [half, 1.1 * near * half, half]]
    margin = 0.5
    terms = [
        margin - 1 + cosines[0][2],  # image 0: report 2, as report 1 says the same
        margin - 1 + cosines[2][0],  # report 0: image 2
        margin - cosines[1][1] + cosines[1][2],
        margin - cosines[1][1] + cosines[2][1],
        margin - cosines[2][2] + cosines[2][1],  # report 1 is nearer than report 0
        margin - cosines[2][2] + cosines[1][2],
    ]
    expected = sum(max(0.0, term) for term in terms) / 3
    actual = triplet_contrastive_loss(image, report, torch.tensor([0, 0, 1]), margin=margin)
    assert actual.item() == pytest.approx(expected, abs=1e-6)


def test_global_features_are_means_over_visual_tokens_and_over_words(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    model = make_model()
    visual = make_visual(model, 4)
    output = model(visual, REPORTS)
    for study, report in enumerate(REPORTS.tolist()):
        words = torch.tensor([word for word in report if word not in (PAD, BOS, EOS)])
        expected = reference.text_features(model, words.unsqueeze(0))[0].mean(dim=0)
        torch.testing.assert_close(output.report_global[study], expected)
        expected = reference.image_features(model, visual[study : study + 1])[0].mean(dim=0)
        torch.testing.assert_close(output.image_global[study], expected)


# ---- text-to-image refiner


def decoder_layer(model: UAR) -> DecoderLayer:
    return model.decoder.layers[0].double()


@pytest.mark.parametrize("tir", ["static", "predicted"])
def test_equation_11_text_to_image_attention(make_model: MakeModel, tir: str) -> None:
    layer = decoder_layer(make_model(tir=tir, tir_scale=50.0))
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(2, 6, 16, generator=generator, dtype=torch.double)
    visual = torch.randn(2, 8, 16, generator=generator, dtype=torch.double)
    with torch.no_grad():
        for parameter in layer.refiner.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    actual, sigma = layer(text, visual)
    assert sigma.shape == (1 if tir == "static" else 2, 6, 8)
    assert sigma.max() - sigma.min() > 0.2

    for study in range(2):
        x = text[study]
        normed = layer_norm(layer.self_norm, x)
        x = x + attention(layer.self_attention, normed, normed, None, causal=True)
        normed = layer_norm(layer.visual_norm, x)
        if tir == "static":
            m = layer.refiner.mask[:6]
        else:
            visual_part = linear(layer.refiner.visual, visual[study])
            m = linear(layer.refiner.text, normed) @ visual_part.T / math.sqrt(16)
        k_sigma_m = 50.0 / (1 + torch.exp(-m))
        x = x + attention(layer.visual_attention, normed, visual[study], k_sigma_m, causal=False)
        first, _, _, second = layer.feed_forward
        x = x + linear(second, linear(first, layer_norm(layer.feed_forward_norm, x)).clamp_min(0))
        torch.testing.assert_close(actual[study], x)


@pytest.mark.parametrize("tir", ["static", "predicted"])
def test_an_untrained_mask_changes_nothing(
    make_model: MakeModel, make_visual: MakeVisual, tir: str
) -> None:
    without = make_model(tir="none")
    fresh = make_model(tir=tir)
    refiners = {
        name: torch.zeros_like(value)
        for name, value in fresh.state_dict().items()
        if ".refiner.mask" in name or ".refiner.text" in name
    }
    assert refiners
    fresh.load_state_dict({**fresh.state_dict(), **without.state_dict(), **refiners})
    visual = make_visual(without, 4)
    expected = without(visual, REPORTS)
    actual = fresh(visual, REPORTS)
    assert expected.masks == []
    assert all(torch.equal(mask, torch.full_like(mask, 0.5)) for mask in actual.masks)
    torch.testing.assert_close(actual.logits, expected.logits, atol=1e-5, rtol=1e-5)


def test_a_new_model_starts_with_an_open_mask(make_model: MakeModel) -> None:
    for tir in ("static", "predicted"):
        params = make_model(tir=tir).params
        layer = DecoderLayer(params, max_length=7, visual_length=8)
        _, sigma = layer(torch.randn(2, 7, 16), torch.randn(2, 8, 16))
        assert torch.equal(sigma, torch.full_like(sigma, 0.5))


def masked(masks: list[Tensor], targets: Tensor, reduction: str) -> Tensor:
    """Eq. 12, averaged over decoder layers and studies."""
    per_study = []
    for mask in masks:
        for b in range(len(targets)):
            sigma = mask[b if len(mask) > 1 else 0]
            terms = [
                1 - sigma[i, j]
                for i in range(targets.shape[1])
                for j in range(sigma.shape[1])
                if targets[b, i] != PAD
            ]
            total = torch.stack(terms).sum()
            per_study.append(total / len(terms) if reduction == "mean" else total)
    return torch.stack(per_study).mean()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("studies", [1, 4], ids=["static", "predicted"])
def test_equation_12_mask_loss(reduction: str, studies: int) -> None:
    generator = torch.Generator().manual_seed(4)
    masks = [torch.rand(studies, 7, 8, generator=generator) for _ in range(2)]
    targets = REPORTS[:, 1:]
    expected = masked(masks, targets, reduction)
    torch.testing.assert_close(mask_loss(masks, targets, reduction=reduction), expected)  # type: ignore[arg-type]


# ---- overall objective


def make_params(raw: dict[str, Any], **train: Any) -> Params:
    raw["train"] |= {"lambda1": 0.7, "lambda2": 0.3, "lambda3": 0.05, **train}
    return parse_params(raw, "test")


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("lambda2", [0.3, 0.0])
@pytest.mark.parametrize("stage", ["one", "two"])
def test_equation_13_objective(
    make_model: MakeModel,
    make_visual: MakeVisual,
    tiny_raw: dict[str, Any],
    stage: str,
    lambda2: float,
    reduction: str,
) -> None:
    train = make_params(tiny_raw, lambda2=lambda2, mask_reduction=reduction, margin=0.4).train
    model = make_model(tir="static" if stage == "two" else "none")
    batch = Batch(make_visual(model, 4), REPORTS, REPORT_IDS)
    output, targets = model(*batch.inputs), REPORTS[:, 1:]
    loss, terms = Objective.of_stage(train, with_mask=stage == "two").of_output(output, batch)
    contrast = triplet(output.image_global, output.report_global, REPORT_IDS, 0.4)
    assert contrast > 0.1
    expected = 0.7 * cross_entropy(output.logits, targets)
    expected = expected + lambda2 * contrast
    if stage == "two":
        expected = expected + 0.05 * masked(output.masks, targets, reduction)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["language_modeling"], cross_entropy(output.logits, targets))
    torch.testing.assert_close(terms["global"], contrast)
    if stage == "two":
        torch.testing.assert_close(terms["mask_sum"], masked(output.masks, targets, "sum"))
        torch.testing.assert_close(terms["mask_mean"], masked(output.masks, targets, "mean"))
    else:
        assert "mask_sum" not in terms


def test_the_mask_loss_counts_in_stage_two_alone(tiny_raw: dict[str, Any]) -> None:
    train = make_params(tiny_raw).train
    one, two = (Objective.of_stage(train, with_mask) for with_mask in (False, True))
    assert (one.lambda3, two.lambda3) == (0.0, 0.05)


# ---- whole model


def test_positions_and_words_start_with_unit_variance() -> None:
    """Vaswani et al. 2017, 3.4, scale words by sqrt(d); positions that weigh less are not read."""
    torch.manual_seed(0)
    positions, words = Positions(200, 256), LookUp(200, 256)
    with torch.no_grad():
        torch.testing.assert_close(positions(3, 9), positions.table[3:9] * 16)
        torch.testing.assert_close(words(torch.arange(3, 9)), words.weight[3:9] * 16)
        for values in (positions(0, 200), words.all()):
            assert float(values.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("compiling", [False, True], ids=["distinct", "static"])
@pytest.mark.parametrize("switches", [*SWITCHES, {"fusion": "addition"}], ids=str)
def test_features_equal_those_of_every_token(
    make_model: MakeModel,
    make_visual: MakeVisual,
    monkeypatch: pytest.MonkeyPatch,
    switches: dict[str, Any],
    compiling: bool,
) -> None:
    """Values and gradients, with the shapes of eager mode and with those of a compiled model."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    model = make_model(**switches).double()
    visual, words = make_visual(model, 4), REPORTS[:, :-1]
    visual = visual if model.params.lsu else visual.double()
    used = [p for n, p in model.named_parameters() if n.startswith(("unifier", "text_", "aligner"))]

    def gradients(image: Tensor, text: Tensor) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        total = sum(
            (features * torch.randn(features.shape, generator=generator).double()).sum()
            for features in (image, text)
        )
        return list(torch.autograd.grad(total, used))

    actual = model.features(visual, words)
    dense = reference.image_features(model, visual), reference.text_features(model, words)
    torch.testing.assert_close(actual, dense, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients(*actual), gradients(*dense), atol=1e-5, rtol=0)
    for few in (words[:1, :3], visual[:1]):  # fewer than the table has rows
        if few.dtype == torch.long:
            table = model.text_table if few.ndim == 2 else model.unifier.visual
            rows, index = distinct(table, few)
            torch.testing.assert_close(rows[index], table(few))
    tables = model.tables()
    torch.testing.assert_close(tables.words[words], dense[1], atol=1e-5, rtol=0)
    if model.params.lsu:
        torch.testing.assert_close(tables.image[visual.flatten(1)], dense[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_loss_and_gradients_equal_the_reference(
    make_model: MakeModel, make_visual: MakeVisual, tiny_raw: dict[str, Any], switches: dict
) -> None:
    model = make_model(**switches).double()
    visual = make_visual(model, 4)
    batch = Batch(visual if model.params.lsu else visual.double(), REPORTS, REPORT_IDS)
    objective = Objective.of_stage(make_params(tiny_raw, margin=0.4).train, with_mask=True)
    actual, expected = (
        objective(model, batch)[0],
        reference.loss(model, batch, objective),
    )
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=1e-5)
    used = [p for p in model.parameters() if p.requires_grad]
    gradients = [torch.autograd.grad(loss, used) for loss in (actual, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_zeroes_a_share_and_scales_the_rest(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    dropout, x = Dropout(0.1), torch.ones(1001, 999, dtype=dtype, requires_grad=True)
    dropped = dropout(x)
    share = (dropped == 0).double().mean().item()
    assert share == pytest.approx(0.1, abs=5 * math.sqrt(0.09 / x.numel()))  # five deviations
    assert dropped[dropped != 0].double().unique().tolist() == pytest.approx([1 / 0.9], rel=4e-3)
    neighbours = ((dropped[:, 1:] == 0) & (dropped[:, :-1] == 0)).double().mean().item()
    assert neighbours == pytest.approx(0.01, abs=5e-4)  # the four values of a word are apart
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    assert torch.equal(gradient, dropped)


def test_dropout_follows_the_seed_and_rests_in_evaluation() -> None:
    dropout, x = Dropout(0.1), torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_permuting_a_batch_permutes_its_outputs(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any]
) -> None:
    model = make_model(**switches)
    visual, order = make_visual(model, 4), torch.tensor([2, 0, 3, 1])
    output, permuted = model(visual, REPORTS), model(visual[order], REPORTS[order])
    for name in ("logits", "image_global", "report_global"):
        expected = getattr(output, name)[order]
        torch.testing.assert_close(getattr(permuted, name), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_logits_do_not_see_later_words(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any]
) -> None:
    model = make_model(**switches)
    visual = make_visual(model, 4)
    logits = model(visual, REPORTS).logits
    for t in (1, 3, 6):
        changed = REPORTS.clone()
        changed[:, t] = 3  # no report has <unk>
        other = model(visual, changed).logits
        torch.testing.assert_close(other[:, :t], logits[:, :t], atol=1e-5, rtol=1e-5)
        assert ((other[:, t] - logits[:, t]).abs().amax(dim=-1) > 1e-3).all()


def test_what_follows_the_end_token_does_not_matter(
    make_model: MakeModel, make_visual: MakeVisual
) -> None:
    model = make_model()
    visual = make_visual(model, 4)
    padding = (REPORTS == PAD).nonzero()
    changed = REPORTS.clone()
    changed[padding[:, 0], padding[:, 1]] = 9
    real = REPORTS[:, 1:] != PAD  # positions that predict a word or the end token
    logits, other = model(visual, REPORTS).logits, model(visual, changed).logits
    torch.testing.assert_close(other[real], logits[real], atol=1e-5, rtol=1e-5)
    assert (other[~real] - logits[~real]).abs().max() > 1e-3


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_image_of_a_study_is_read(
    make_model: MakeModel, make_visual: MakeVisual, switches: dict[str, Any]
) -> None:
    model = make_model(**switches)
    visual, others = make_visual(model, 4), make_visual(model, 4, seed=1)
    logits = model(visual, REPORTS).logits
    for image in range(2):
        changed = visual.clone()
        changed[0, image] = others[0, image]
        other = model(changed, REPORTS).logits
        assert (other[0] - logits[0]).abs().max() > 1e-4
        torch.testing.assert_close(other[1:], logits[1:], atol=1e-4, rtol=1e-4)


@torch._dynamo.config.patch(error_on_recompile=True)
def test_a_compiled_model_keeps_its_shapes(make_model: MakeModel, make_visual: MakeVisual) -> None:
    """One graph for batches with other distinct ids, and the eager model's outputs."""
    torch._dynamo.reset()
    model = make_model()
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    for seed, reports in enumerate((REPORTS, REPORTS.roll(1, 0).clamp_max(6))):
        visual = make_visual(model, 4, seed)
        actual, expected = compiled(visual, reports), model(visual, reports)
        torch.testing.assert_close(actual.logits, expected.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(actual.image_global, expected.image_global)
        torch.testing.assert_close(actual.report_global, expected.report_global)
