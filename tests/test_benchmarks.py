"""The benchmarks' own arithmetic, and a slow twin that is what it says."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from benchmarks.__main__ import with_table
from benchmarks.common import Comparison, row, time_both
from benchmarks.iu_xray import WORDS, iu_xray_params, make_batch, make_model
from benchmarks.scaling import CELLS
from benchmarks.step import arithmetic
from tests import reference
from uar.core.special_words import BOS, EOS, PAD
from uar.model.uar import UAR


def test_compare_takes_medians_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def work(name: str, durations: list[float]) -> Callable[[], None]:
        def call() -> None:
            calls.append(name)
            clock[0] += durations.pop(0)

        return call

    fast, slow = work("fast", [9.0, 1.0, 2.0, 1.0]), work("slow", [9.0, 4.0, 3.0, 50.0])
    times = time_both(fast, slow, rounds=3, warmup=1)
    assert times == Comparison(fast=1.0, slow=4.0)
    assert times.ratio == 4.0
    assert calls == ["fast", "slow"] * 4


def test_a_row_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    row("decoding", Comparison(0.0123, 2.5), studies=8, same_text="8 of 8")
    expected = "| decoding | 12.3 ms | 2.50 s | 203.25 | studies 8, same text 8 of 8 |\n"
    assert capsys.readouterr().out == expected


def test_a_table_replaces_its_own_alone() -> None:
    text = (
        "a\n<!-- cpu: begin -->\nold\n<!-- cpu: end -->\n<!-- cuda: begin -->\n<!-- cuda: end -->\n"
    )
    once = with_table(text, "cpu", "| new |\n")
    assert once == text.replace("old", "| new |")
    assert with_table(once, "cpu", "| new |\n") == once
    with pytest.raises(SystemExit, match="<!-- mps: begin -->"):
        with_table(text, "mps", "")


@pytest.mark.parametrize("preset", ["iu_xray", "iu_xray_small"])
def test_views_that_grow_can_be_pooled(preset: str) -> None:
    pool = iu_xray_params(preset).model.visual_pool
    assert [cells for cells in CELLS if cells % pool] == []


def test_arithmetic_counts_attention() -> None:
    q, k, v = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    flops = arithmetic(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
    assert flops == 2 * (2 * 5 * 7 * 8) * 2


def test_the_workload_has_the_sizes_of_iu_xray() -> None:
    params = iu_xray_params()
    batch = make_batch(params, 16, torch.device("cpu"))
    assert batch.visual.shape == (16, 2, 196)
    assert batch.report.shape == (16, 61)
    words = ((batch.report != PAD) & (batch.report != BOS) & (batch.report != EOS)).sum(1)
    assert words.float().mean() == pytest.approx(WORDS, abs=1)
    assert ((batch.report == EOS).sum(1) == 1).all()
    model = make_model(params, torch.device("cpu"), d_model=16, heads=2)
    assert (model.sizes.visual_length, model.sizes.max_length) == (392, 60)


def test_the_reference_computes_what_the_preset_has() -> None:
    params = iu_xray_params()
    model = make_model(params, torch.device("cpu"), d_model=16, heads=2).eval()
    batch = make_batch(params, 2, torch.device("cpu"))
    with torch.no_grad():
        output, expected = model(*batch.inputs), reference.forward(model, *batch.inputs[:2])
    torch.testing.assert_close(output.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.image_global, expected.image_global, atol=1e-4, rtol=1e-4)


def test_the_reference_decodes_by_whole_prefixes(
    make_model: Callable[..., UAR],
    make_visual: Callable[..., torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model(2)
    lengths = []
    decode = reference.decode

    def counted(model: UAR, text: torch.Tensor, visual: torch.Tensor) -> object:
        lengths.append((len(text), text.shape[1], len(visual)))
        return decode(model, text, visual)

    monkeypatch.setattr(reference, "decode", counted)
    with torch.no_grad():
        model.head.bias[EOS] = -1e4
    reference.generate(model, make_visual(model, 2), beam_size=3)
    assert lengths == [(2, 1, 2), *((6, t, 6) for t in range(2, 8))]
