"""How fast a stage trains: counted FLOPs of a study, and their share of what the device can do."""

from __future__ import annotations

import copy
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from uar.core.device import measured_peak, memory_peaks
from uar.data.batches import Batch
from uar.model.uar import UAR


def flops_per_study(model: UAR, batch: Batch) -> float:
    """FLOPs of matrix products and convolutions, forward and backward, that a study costs.

    Counted on shapes alone (torch's `meta` device), so that nothing is computed or drawn. CRA there
    takes all ids where a batch has more tokens than the codebook has.

    Args:
        model: in training mode, not yet wrapped; it stays as it is.
        batch: B studies.
    """
    shapes = torch.device("meta")
    twin = copy.deepcopy(model).to(shapes).train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = twin(*batch.to(shapes).inputs)
        total = output.logits.sum()
        if output.findings is not None:
            total = total + output.findings.sum()
        total.backward()
    return counter.get_total_flops() / len(batch.report)


class Speed:
    """What an epoch's training takes on this machine.

    Args:
        model: not yet wrapped.
        batch: of the training split, to count FLOPs on.
        passes: forward passes of a step, as R-Drop takes two.
        device: of this process.
        precision: of the forward pass.
        processes: that train together.
    """

    def __init__(
        self,
        model: UAR,
        batch: Batch,
        passes: int,
        device: torch.device,
        precision: str,
        processes: int,
    ) -> None:
        self.device = device
        self.flops = passes * flops_per_study(model, batch)
        self.peak = processes * measured_peak(device, precision)
        self.rate = 0.0

    def trained(self, studies: int, began: float) -> None:
        """An epoch's steps of `studies`, begun at `time.monotonic()` `began`, are done."""
        self.rate = studies / (time.monotonic() - began)

    def values(self, seconds: float) -> dict[str, float]:
        """Of the last epoch, which took `seconds` with its validation.

        Returns:
            `seconds`; `studies_per_second` of all processes and `share_of_peak`, their FLOP/s by
            those of a large matrix product on this machine, if it trained; and the most memory so
            far, `host_memory` and `gpu_memory`, GB.
        """
        values = {"seconds": seconds}
        if self.rate:
            values["studies_per_second"] = self.rate
            values["share_of_peak"] = self.rate * self.flops / self.peak
        peaks = memory_peaks(self.device)
        return values | {f"{name}_memory": peak for name, peak in peaks.items()}


def in_a_line(values: dict[str, float]) -> str:
    """`Speed.values` for the log."""
    shown = []
    if "studies_per_second" in values:
        shown.append(
            f"{values['studies_per_second']:.1f} studies/s, {values['share_of_peak']:.0%} of the "
            "measured peak"
        )
    shown.append(f"{values['seconds']:.0f} s with validation")
    shown.append(f"{values['host_memory']:.1f} GB of host memory")
    if "gpu_memory" in values:
        shown.append(f"{values['gpu_memory']:.1f} GB of the GPU's")
    return ", ".join(shown)
