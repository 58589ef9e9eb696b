"""Which device to compute on, and how precisely."""

from __future__ import annotations

import os
import random
import sys
import time
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from uar.core.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Return the device of this name; `auto` is CUDA, else MPS, else CPU.

    Raises:
        UserError: no such device is known, or torch finds none on this machine.
    """
    found = [kind for kind, there in _KINDS.items() if there()]
    if name == "auto":
        return torch.device(found[0])
    if name not in _KINDS:
        raise UserError(f"device {name!r} is unknown; expected auto, {', '.join(_KINDS)}.")
    if name not in found:
        raise UserError(
            f"device {name}: torch {torch.__version__} finds none on this machine, only "
            f"{', '.join(found)}. Use that or auto."
        )
    return torch.device(name)


_KINDS = {
    "cuda": lambda: torch.cuda.is_available(),
    "mps": lambda: torch.backends.mps.is_available(),
    "cpu": lambda: True,
}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context for a forward pass; `auto` is bfloat16 on CUDA and float32 elsewhere."""
    if precision == "bfloat16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Turn autocast off on a device that has it."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def seed_everything(seed: int) -> None:
    """Seed every generator that weights, dropout and sampling draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def make_deterministic(wanted: bool) -> None:
    """Set whether the same seed gives the same bits on the same device, at some cost on a GPU."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by CUDA >= 10.2
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid


def split_for_convolution(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Split `(N, ...)` as convolutional networks run fastest: in pairs on a CPU, else not at all.

    The activations of two images fit into a core's cache; in larger batches each image takes two to
    six times as long.
    """
    return images.split(2 if images.device.type == "cpu" else max(1, len(images)))


def describe(device: torch.device) -> str:
    """The device in words, for records."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def memory_peaks(device: torch.device) -> dict[str, float]:
    """The peak memory of this process so far, in GB: on the `host` and, with CUDA, on the `gpu`."""
    import resource  # not on Windows, where nothing trains

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    peaks = {"host": most * (1 if sys.platform == "darwin" else 1024) / 1e9}
    if device.type == "cuda":
        peaks["gpu"] = torch.cuda.max_memory_allocated(device) / 1e9
    return peaks


def measured_peak(device: torch.device, precision: str, rounds: int = 3) -> float:
    """Measure the FLOP/s of a large matrix product, the best of `rounds`.

    Args:
        precision: as `autocast` takes it.
    """
    n = 8192 if device.type == "cuda" else 1024
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, n, generator=generator).to(device)

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    least = float("inf")
    with torch.no_grad(), autocast(device, precision):
        a @ a
        for _ in range(rounds):
            synchronize()
            started = time.perf_counter()
            a @ a
            synchronize()
            least = min(least, time.perf_counter() - started)
    return 2 * n**3 / least
