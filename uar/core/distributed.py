"""One process or many, on Lightning Fabric: how they start and what they exchange.

A stage calls `launch` and then runs the same code whether it was started directly, by torchrun or
by Slurm. Each process ("rank") computes its share of every batch. Loss terms are scaled so that
their mean over the ranks is the whole batch's value, since DDP and FSDP average gradients.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from uar.core.device import resolve_device

if TYPE_CHECKING:  # imported where used: it takes a second that `pipeline --help` can do without
    from lightning_fabric import Fabric

T = TypeVar("T")


def launch(device: str = "cpu", strategy: str = "ddp") -> Fabric:
    """Join the processes that torchrun or Slurm started; run as one process if neither did.

    Args:
        device: as `uar.core.device.resolve_device` takes it; each process gets one such device.
        strategy: for several processes. `ddp`: each holds the model and the optimiser's state.
            `fsdp`: parameters, gradients and the optimiser's state are sharded across them.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import ModelParallelStrategy, Strategy

    local, machines = started_processes()
    chosen: str | Strategy = "auto"
    if local * machines > 1:
        chosen = "ddp"
        if strategy == "fsdp":
            chosen = ModelParallelStrategy(
                _shard, data_parallel_size=local * machines, tensor_parallel_size=1
            )
    fabric = Fabric(
        accelerator=resolve_device(device).type,
        devices=local,
        num_nodes=machines,
        strategy=chosen,
    )
    fabric.launch()
    return fabric


def started_processes() -> tuple[int, int]:
    """The number of processes started on each machine, and the number of machines."""
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if SLURMEnvironment.detect():
        machines = int(os.environ["SLURM_NNODES"])
        return int(os.environ["SLURM_NTASKS"]) // machines, machines
    return 1, 1


def _shard(module: nn.Module, mesh: Any) -> Any:
    """Shard layer by layer, so that no rank ever holds all parameters at once, then the rest."""
    from torch.distributed.fsdp import fully_shard

    for stack in module.modules():
        if isinstance(stack, nn.ModuleList):
            for layer in stack:
                fully_shard(layer, mesh=mesh["data_parallel"])
    return fully_shard(module, mesh=mesh["data_parallel"])


@contextmanager
def whole_parameters(module: nn.Module) -> Iterator[None]:
    """Give each rank whole parameters within the block, even outside `module`'s forward."""
    sharded = sharded_parts(module)
    for part in sharded:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in sharded:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def sharded_parts(module: nn.Module) -> list[Any]:
    """The parts of `module` that FSDP shards; none without it."""
    return [part for part in module.modules() if hasattr(part, "unshard")]


def gather_rows(fabric: Fabric, rows: Tensor) -> Tensor:
    """Gather every rank's `(B, ...)` as `(ranks * B, ...)` in order; gradients flow back to all."""
    if fabric.world_size == 1:
        return rows
    gathered = fabric.all_gather(rows, sync_grads=True)
    assert isinstance(gathered, Tensor)  # as `rows` is
    return gathered.flatten(0, 1)


def gather_in_order(fabric: Fabric, results: list[T]) -> list[T]:
    """Gather all batches' results in order; rank r has those of batches r, r + ranks, ..."""
    ranks = fabric.world_size
    if ranks == 1:
        return results
    parts: list[list[T]] = [[]] * ranks
    torch.distributed.all_gather_object(parts, results)
    return [parts[i % ranks][i // ranks] for i in range(sum(map(len, parts)))]


def full_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """Weights and optimiser state by parameter name, unsharded; empty on all ranks but 0."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_state_dict(model, optimizer, options=options)


def load_full_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, weights: Any, optimizer_state: Any
) -> None:
    """Restore what `full_state` returned; every rank passes all of it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    set_state_dict(
        model,
        optimizer,
        model_state_dict=dict(weights),  # a copy, since it is written to
        optim_state_dict=optimizer_state,
        options=StateDictOptions(full_state_dict=True),
    )
