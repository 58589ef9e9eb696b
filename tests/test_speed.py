"""What is said of a work's speed: counted FLOPs, the device's peak, and how long it will take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from uar.core import progress
from uar.core.special_words import BOS
from uar.data.batches import Batch
from uar.model.uar import UAR
from uar.training.speed import flops_per_study, in_a_line


@pytest.mark.parametrize(
    "switches", [{}, {"findings": True, "visual_pool": 2}, {"lsu": False}], ids=str
)
def test_flops_are_counted_without_computing(
    make_model: Callable[..., UAR],
    make_visual: Callable[..., torch.Tensor],
    switches: dict[str, Any],
) -> None:
    """As torch counts the passes themselves; without CRA, whose cost depends on the ids."""
    model = make_model(integration=False, **switches).train()
    report = torch.full((4, model.sizes.max_length + 1), BOS)
    batch = Batch(make_visual(model, 4), report, torch.arange(4))
    drawn = torch.get_rng_state()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    counted = flops_per_study(model, batch)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = model(*batch.inputs)
        total = output.logits.sum()
        if output.finding_logits is not None:
            total = total + output.finding_logits.sum()
        total.backward()
    assert counted * 4 == counter.get_total_flops() > 1e5


def test_a_long_work_is_forecast_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    caplog.set_level("INFO", logger="uar")
    for total in (40, 6):
        with progress.progress_bar("films", total) as bar:
            for _ in range(6):
                clock[0] += 4.0
                bar.update()
    # said after 12 s, of 40 films; 6 of them are done in less than a minute
    assert caplog.messages == ["films: about 3 minutes on this machine"]


def test_a_part_moves_the_forecast_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    caplog.set_level("INFO", logger="uar")
    whole = progress.Forecast("two epochs", 2 * 100)
    for shown in (True, False):
        with progress.progress_bar("epoch", 100, forecast=whole, shown=shown) as bar:
            for _ in range(10):
                clock[0] += 50.0
                bar.update(10)
    assert caplog.messages == ["two epochs: about 17 minutes on this machine"]
    assert whole.done == 100  # a rank that shows nothing says nothing


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59.6, "60 seconds"), (150, "2 minutes"), (5400, "90 minutes"), (12600, "3.5 hours")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert progress.in_words(seconds) == words


def test_a_line_of_speed() -> None:
    values = {"seconds": 61.4, "studies_per_second": 20.04, "share_of_peak": 0.31}
    assert in_a_line({**values, "host_memory": 1.26, "gpu_memory": 4.0}) == (
        "20.0 studies/s, 31% of the measured peak, 61 s with validation, 1.3 GB of host memory, "
        "4.0 GB of GPU memory"
    )
    assert in_a_line({"seconds": 2.0, "host_memory": 1.0}) == (
        "2 s with validation, 1.0 GB of host memory"
    )
