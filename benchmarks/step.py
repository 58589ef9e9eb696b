"""`python -m benchmarks.step`: one training step, as in training and the straightforward way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import machine, row, time_both
from benchmarks.iu_xray import iu_xray_params, make_batch, make_model
from tests import reference
from uar.core.config import Params
from uar.core.device import autocast, measured_peak, resolve_device
from uar.training.objective import Objective
from uar.training.optimizer import make_optimizer

PRECISIONS = ("float32", "bfloat16")


def training_step(params: Params, device: torch.device, precision: str) -> Callable[[], None]:
    """A whole step of stage two as `uar.training.stage` takes it, on one random batch."""
    model = make_model(params, device)
    batch = make_batch(params, params.train.batch_size, device)
    objective = Objective.of_stage(params.train, with_mask=True)
    optimizer = make_optimizer(model, params.train, params.train.stage_two.learning_rate)

    def step() -> None:
        with autocast(device, precision):
            output = model(*batch.inputs)
        loss, _ = objective.of_output(output, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), params.train.gradient_clip)
        optimizer.step()

    return step


def reference_step(params: Params, device: torch.device) -> Callable[[], None]:
    """The same step in float32 with `tests.reference` and with AdamW parameter by parameter."""
    model = make_model(params, device)
    batch = make_batch(params, params.train.batch_size, device)
    objective = Objective.of_stage(params.train, with_mask=True)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=params.train.stage_two.learning_rate,
        betas=params.train.betas,
        foreach=False,
        fused=False,
    )

    def step() -> None:
        optimizer.zero_grad()
        reference.loss(model, batch, objective).backward()
        nn.utils.clip_grad_norm_(model.parameters(), params.train.gradient_clip, foreach=False)
        optimizer.step()

    return step


def arithmetic(step: Callable[[], None]) -> int:
    """FLOPs of a step's matrix products, including those of attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def main() -> None:
    """Measure `iu_xray_small` on a CPU, or the paper's size on a GPU."""
    device = resolve_device("auto")
    params = iu_xray_params("iu_xray" if device.type == "cuda" else "iu_xray_small")
    print(machine(device))
    slow = reference_step(params, device)
    for precision in PRECISIONS:
        fast = training_step(params, device, precision)
        flops, peak = arithmetic(fast), measured_peak(device, precision, rounds=10)
        times = time_both(fast, slow)
        row(
            f"training step, {precision}, reference float32",
            times,
            gflop=f"{flops / 1e9:.0f}",
            gflop_per_second=f"{flops / times.fast / 1e9:.0f}",
            share_of_peak=f"{flops / times.fast / peak:.0%} of {peak / 1e9:.0f}",
            studies_per_second=f"{params.train.batch_size / times.fast:.0f}",
        )


if __name__ == "__main__":
    main()
