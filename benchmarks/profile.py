"""`python -m benchmarks.profile`: where one training step's time goes, by torch.profiler."""

from __future__ import annotations

from typing import Annotated

import typer
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import machine, synchronize
from benchmarks.iu_xray import iu_xray_params
from benchmarks.step import training_step
from uar.core.device import resolve_device


def main(
    preset: str = "iu_xray_small",
    precision: Annotated[str, typer.Option(help="auto | float32 | bfloat16")] = "auto",
    rows: int = 20,
) -> None:
    """Print the operators of one warm step, the costliest first."""
    device = resolve_device("auto")
    step = training_step(iu_xray_params(preset), device, precision)
    for _ in range(3):
        step()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        step()
        synchronize()
    print(machine(device))
    order = f"self_{device.type}_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=rows, max_name_column_width=70))


if __name__ == "__main__":
    typer.run(main)
