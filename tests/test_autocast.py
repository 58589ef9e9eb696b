"""Low precision ends with the forward pass: the losses are those of float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uar.core.config import Params
from uar.core.distributed import launch
from uar.core.special_words import BOS, EOS
from uar.data.batches import Batch
from uar.model.attention import MultiHeadAttention
from uar.model.uar import UAR, Output, global_image_feature, masked_mean
from uar.training.objective import Objective
from uar.training.stage import TrainingStep

STUDIES, WIDTH, WORDS = 16, 64, 5
REPORT = torch.tensor([[BOS, 4, 5, EOS]]).repeat(STUDIES, 1)


class Given(nn.Module):
    """A model whose global features are given: close to each other, as early in training."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        common = torch.randn(WIDTH, generator=generator)
        own = torch.randn(2, STUDIES, WIDTH, generator=generator) * 0.16
        self.features = nn.Parameter(common + own)

    def forward(self, visual: Tensor, report: Tensor, *_: Tensor | None) -> Output:
        image, text = self.features
        return Output(
            torch.zeros(*report[:, 1:].shape, WORDS + 1),
            image,
            text,
            [],
            torch.zeros(STUDIES, dtype=torch.bool),
        )


def cosines(features: Tensor) -> Tensor:
    image, report = F.normalize(features, dim=-1)
    return image @ report.T


def expected_gradient(features: Tensor, margin: float, smoothness: float) -> Tensor:
    """Of Eq. 10, in float64."""
    leaf = features.detach().double().requires_grad_()
    similarity = cosines(leaf)
    others = similarity.masked_fill(torch.eye(STUDIES, dtype=torch.bool), -torch.inf)
    total = torch.zeros((), dtype=torch.float64)
    for rows, positive in ((others, similarity.diagonal()), (others.T, similarity.diagonal())):
        if not smoothness:
            hard = rows.max(dim=1).values
        else:
            hard = smoothness * ((rows / smoothness).exp().sum(dim=1) / (STUDIES - 1)).log()
        total = total + (margin - positive + hard).clamp_min(0).sum() / STUDIES
    (gradient,) = torch.autograd.grad(total, leaf)
    return gradient


@pytest.mark.parametrize("smoothness", [0.0, 0.05], ids=["hardest", "smooth"])
@pytest.mark.parametrize("seed", range(3))
def test_close_features_have_the_gradient_of_float64(
    tiny_params: Params, seed: int, smoothness: float
) -> None:
    model = Given(seed)
    with torch.no_grad():
        assert 0.9 < cosines(model.features).min() < cosines(model.features).max() < 0.99
    settings = tiny_params.train.model_copy(
        update={
            "lambda1": 0.0,
            "smoothness": smoothness,
        }
    )
    objective = Objective.of_stage(settings, with_mask=False)
    step = TrainingStep(model, objective, fabric=launch(), precision="bfloat16", compiled=False)  # type: ignore[arg-type]
    batch = Batch(torch.zeros(STUDIES, 1, 1, dtype=torch.long), REPORT, torch.arange(STUDIES))
    step(batch)["loss"].backward()
    expected = expected_gradient(model.features, settings.margin, smoothness)
    torch.testing.assert_close(model.features.grad.double(), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("fusion", ["dual_gate", "none", "addition"])
@pytest.mark.parametrize("lsu", [True, False])
def test_global_features_are_of_float32(
    make_model: Callable[..., UAR], make_visual: Callable[..., Tensor], fusion: str, lsu: bool
) -> None:
    model = make_model(fusion=fusion, lsu=lsu)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(make_visual(model, STUDIES), REPORT)
    assert output.logits.dtype == torch.bfloat16  # the pass itself is not
    assert output.image_global.dtype == output.report_global.dtype == torch.float32


def test_means_of_features_are_taken_in_float32() -> None:
    features = torch.randn(4, 300, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    mask = torch.arange(300) < torch.tensor([[1], [7], [299], [300]])
    torch.testing.assert_close(
        global_image_feature(features, None).double(),
        features.double().mean(dim=1),
        rtol=1e-5,
        atol=1e-6,
    )
    means = [row[kept].double().mean(dim=0) for row, kept in zip(features, mask, strict=True)]
    torch.testing.assert_close(
        masked_mean(features, mask).double(), torch.stack(means), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("way", ["plain", "causal", "biased"])
def test_attention_in_bfloat16_is_that_of_float64(way: str, autocast: bool) -> None:
    """To what bfloat16 resolves, gradients too; on a CPU it is written out, not torch's own."""
    attention = MultiHeadAttention(32, 4)
    x, memory = torch.randn(3, 9, 32), torch.randn(3, 9, 32)
    bias = None
    if way == "biased":  # rounded beforehand, or that alone would change sharp attention
        bias = (torch.randn(1, 1, 9, 9) * 30).bfloat16().float()
    exact = copy.deepcopy(attention).double()

    def outcome(module: MultiHeadAttention, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        given = x.to(dtype).requires_grad_()
        kept = module.keys_and_values(memory.to(dtype))
        added = None if bias is None else bias.to(dtype)
        attended = module(given, kept, bias=added, causal=way == "causal")
        attended.double().square().sum().backward()
        assert given.grad is not None
        return attended.double(), given.grad.double()

    expected = outcome(exact, torch.float64)
    if autocast:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = outcome(attention, torch.float32)
    else:
        found = outcome(attention.bfloat16(), torch.bfloat16)
    for near, true in zip(found, expected, strict=True):
        assert (near - true).norm() < 0.03 * true.norm()
