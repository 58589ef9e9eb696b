"""torch's CPU kernels that no setting makes alike on every CPU, by numpy: `arithmetic: portable`.

Matrix products: MKL's only branch that is the same on every CPU is its SSE2 one, at half the speed
of OpenBLAS' for Haswell, which is the same too. Square roots: MKL's vector library takes AVX-512
whatever it is told, and rounds otherwise there; IEEE 754's rounding is one. `x ** 0.5` goes the
same way and cannot be replaced alone: write `x.sqrt()`, and a power that may be 0.5 as a tensor.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

_replaced: list[torch.library.Library] = []  # they hold as long as this does


def replace_kernels() -> None:
    """Replace them in this process, below autograd; once is enough."""
    if _replaced:
        return
    _replaced.append(library := torch.library.Library("aten", "IMPL"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        for kernel, names in {
            product: ("mm", "bmm"),
            product_and_sum: ("addmm", "baddbmm"),
            square_root: ("sqrt",),
        }.items():
            for name in names:
                library.impl(name, kernel, "CPU", allow_override=True)


def product(a: Tensor, b: Tensor) -> Tensor:
    """`(..., M, K)` times `(..., K, N)`; of 16-bit numbers summed in float32.

    The result lies in torch's memory, aligned to 64 bytes: MKL, which may read it next, promises
    the same bits of such memory alone.
    """
    left, right = _rows(a), _rows(b)
    result = a.new_empty(*left.shape[:-1], right.shape[-1], dtype=_wide(a.dtype))
    np.matmul(left, right, out=_array(result))
    return result.to(a.dtype)


def product_and_sum(
    bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """`alpha a b + beta bias`, bias broadcast; with beta 0 it is not read, as in torch."""
    result = product(a, b)
    if alpha != 1:
        result *= alpha
    return result.add_(bias, alpha=beta) if beta else result


def square_root(x: Tensor) -> Tensor:
    """Of each number, rounded to the nearest."""
    if not x.dtype.is_floating_point:
        x = x.to(torch.get_default_dtype())
    result = torch.empty(x.shape, dtype=_wide(x.dtype))
    with np.errstate(invalid="ignore"):  # NaN, as in torch
        np.sqrt(_array(x), out=_array(result))
    return result.to(x.dtype)


def _rows(matrices: Tensor) -> np.ndarray:
    """As numpy sees them; a copy where neither rows nor columns are in one piece."""
    return _array(matrices if 1 in matrices.stride()[-2:] else matrices.contiguous())


def _array(x: Tensor) -> np.ndarray:
    """The same memory; `Tensor.numpy` would forbid FSDP to free it afterwards."""
    return np.from_dlpack(x.to(_wide(x.dtype)).detach())


def _wide(kind: torch.dtype) -> torch.dtype:
    """numpy has no bfloat16, and multiplies float16 slowly."""
    return torch.float32 if kind in (torch.bfloat16, torch.float16) else kind
