"""What a training step computes, as one module for DDP or FSDP to wrap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from uar.core.device import autocast
from uar.model.uar import UAR

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Step(nn.Module):
    """A model with what subclasses need to compute the terms of a loss in `forward`.

    Args:
        model: UAR.
        fabric: the processes that train together.
        precision: of the forward pass, see `uar.core.device.autocast`.
        compiled: pass the model through `torch.compile`; shapes must then never change.
    """

    def __init__(self, model: UAR, *, fabric: Fabric, precision: str, compiled: bool) -> None:
        super().__init__()
        self.model = model
        self.autocast = lambda: autocast(fabric.device, precision)
        self.run = torch.compile(model.forward) if compiled else model.forward
        # The basis is fixed, and every process draws the same one: DDP need not send it each step.
        fixed = [name for name, _ in self.named_buffers() if name.endswith("aligner.basis")]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, fixed)
