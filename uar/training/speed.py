"""How fast a stage trains: FLOPs per study, and their share of what the device can do."""

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
    """FLOPs of matrix products and convolutions per study, forward and backward.

    Counted from shapes alone (torch's `meta` device): nothing is computed and no random number is
    drawn. CRA is counted over the whole codebook where a batch has more tokens than codes.

    Args:
        model: not yet wrapped; it is not changed.
        batch: B studies.
    """
    shapes = torch.device("meta")
    twin = copy.deepcopy(model).to(shapes).train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = twin(*batch.to(shapes).inputs)
        total = output.logits.sum()
        if output.finding_logits is not None:
            total = total + output.finding_logits.sum()
        total.backward()
    return counter.get_total_flops() / len(batch.report)


class Speed:
    """Throughput and memory use of training on this machine.

    Args:
        model: not yet wrapped.
        batch: one of the training split, to count FLOPs on.
        passes: forward passes per step; R-Drop, for example, takes two.
        device: that of this process.
        precision: of the forward pass.
        processes: number that train together.
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
        """Record the steps of an epoch over `studies`, begun at `began` (`time.monotonic()`)."""
        self.rate = studies / (time.monotonic() - began)

    def values(self, seconds: float) -> dict[str, float]:
        """Speed and memory use of the last epoch, which took `seconds` with its validation.

        Returns:
            `seconds`; after training, `studies_per_second` of all processes and `share_of_peak`,
            their FLOP/s divided by those of a large matrix product on this machine; and peak
            memory so far, `host_memory` and `gpu_memory`, in GB.
        """
        values = {"seconds": seconds}
        if self.rate:
            values["studies_per_second"] = self.rate
            values["share_of_peak"] = self.rate * self.flops / self.peak
        peaks = memory_peaks(self.device)
        return values | {f"{name}_memory": peak for name, peak in peaks.items()}


def in_a_line(values: dict[str, float]) -> str:
    """Format `Speed.values` for the log."""
    shown = []
    if "studies_per_second" in values:
        shown.append(
            f"{values['studies_per_second']:.1f} studies/s, {values['share_of_peak']:.0%} of the "
            "measured peak"
        )
    shown.append(f"{values['seconds']:.0f} s with validation")
    shown.append(f"{values['host_memory']:.1f} GB of host memory")
    if "gpu_memory" in values:
        shown.append(f"{values['gpu_memory']:.1f} GB of GPU memory")
    return ", ".join(shown)
