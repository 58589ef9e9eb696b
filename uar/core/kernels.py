"""numpy in place of those of torch's CPU kernels that differ by CPU: `arithmetic: portable`.

Matrix products: the only branch of MKL that is the same on every CPU is its SSE2 one, at half the
speed of OpenBLAS's Haswell kernels, which are also the same everywhere. Square roots: MKL's vector
library uses AVX-512 whatever it is told, and rounds differently there; IEEE 754 allows only one
result. `x ** 0.5` takes the same path and cannot be replaced on its own: write `x.sqrt()`, and
write a power that may be 0.5 as a tensor.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

_replaced: list[torch.library.Library] = []  # the replacements last as long as this list


def replace_kernels() -> None:
    """Replace the kernels in this process, below autograd; later calls do nothing."""
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
    """Multiply `(..., M, K)` by `(..., K, N)`; 16-bit numbers are summed in float32.

    The result is in memory that torch allocates, aligned to 64 bytes: MKL, which may read it next,
    promises the same bits only for such memory.
    """
    left, right = _rows(a), _rows(b)
    result = a.new_empty(*left.shape[:-1], right.shape[-1], dtype=_wide(a.dtype))
    np.matmul(left, right, out=_array(result))
    return result.to(a.dtype)


def product_and_sum(
    bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """`alpha a b + beta bias`; bias is broadcast and, as in torch, not read if beta is 0."""
    result = product(a, b)
    if alpha != 1:
        result *= alpha
    return result.add_(bias, alpha=beta) if beta else result


def square_root(x: Tensor) -> Tensor:
    """The square root of each number, rounded to the nearest."""
    if not x.dtype.is_floating_point:
        x = x.to(torch.get_default_dtype())
    result = torch.empty(x.shape, dtype=_wide(x.dtype))
    with np.errstate(invalid="ignore"):  # NaN, as in torch
        np.sqrt(_array(x), out=_array(result))
    return result.to(x.dtype)


def _rows(matrices: Tensor) -> np.ndarray:
    """The matrices as numpy arrays; copied where neither rows nor columns are contiguous."""
    return _array(matrices if 1 in matrices.stride()[-2:] else matrices.contiguous())


def _array(x: Tensor) -> np.ndarray:
    """The tensor's memory as an array; `Tensor.numpy` would keep FSDP from freeing it later."""
    return np.from_dlpack(x.to(_wide(x.dtype)).detach())


def _wide(kind: torch.dtype) -> torch.dtype:
    """The type to compute in: numpy has no bfloat16, and multiplies float16 slowly."""
    return torch.float32 if kind in (torch.bfloat16, torch.float16) else kind
