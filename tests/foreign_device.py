"""A device other than the CPU, for tests: tensors claim to be there, but the CPU computes them.

Within `foreign_device`, a tensor made on or moved to `DEVICE` is a `Foreign` one. An operator that
gets one together with a CPU tensor raises an error, as on a GPU; a scalar `()` may be on the CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_NAME = "elsewhere"
_setup_privateuseone_for_python_backend(_NAME)

aten = torch.ops.aten
DEVICE = torch.device(_NAME, 0)
_MOVES = {aten._to_copy.default, aten.copy_.default}
# What returns only when the device has caught up: values, and shapes that depend on values.
_WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten._unique2.default,
    aten.masked_select.default,
}


class Foreign(Tensor):
    """A tensor on `DEVICE`; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Foreign:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def tolist(self) -> Any:
        """Go by way of the CPU, as for a tensor on a GPU."""
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"Foreign({self.held})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    foreign = any(isinstance(tensor, Foreign) for tensor in tensors)
    native = [tuple(t.shape) for t in tensors if not isinstance(t, Foreign) and t.ndim]
    if foreign and native and func not in _MOVES:
        raise RuntimeError(f"{func}: tensors of {DEVICE} and one of the CPU, {native}")
    wanted = kwargs.get("device")
    lands = foreign if wanted is None else torch.device(wanted).type == DEVICE.type
    if func is aten.copy_.default:
        lands = isinstance(args[0], Foreign)
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}

    def inside(leaf: Any) -> Any:
        return leaf.held if isinstance(leaf, Foreign) else leaf

    result = func(*tree_map(inside, args), **tree_map(inside, kwargs))
    if not lands:
        return result
    own = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, Foreign)}

    def outside(leaf: Any) -> Any:
        if id(leaf) in own:  # an in-place operator returns its argument
            return own[id(leaf)]
        return Foreign(leaf) if isinstance(leaf, Tensor) else leaf

    return tree_map(outside, result)


def _enter(mode: Any) -> None:
    mode.instead = torch.no_grad()
    mode.instead.__enter__()


# `inference_mode` does not support views of such tensors.
_NO_GRAD = {"__enter__": _enter, "__exit__": lambda mode, *error: mode.instead.__exit__(*error)}


class _Device(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        back = (
            func is aten._to_copy.default and torch.device(kwargs.get("device") or DEVICE) != DEVICE
        )
        if isinstance(first, Foreign) and (func in _WAITS or back):
            self.waits[str(func)] += 1
        return _run(func, args, kwargs)


@contextmanager
def foreign_device() -> Iterator[Counter[str]]:
    """Provide the device in this context, and yield a count of the waits for it, by operator."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    device = _Device()
    try:
        with device, mock.patch.multiple(torch.inference_mode, **_NO_GRAD):
            yield device.waits
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
