"""Hashes of what each library computes under `arithmetic: portable`, and the recorded hashes.

Every piece uses one library, so that one that differs is known by name; the last piece is a small
training, which uses them all. `python -m pipeline.tools.checksum` prints the hashes, in a process
of its own, since libraries read their settings when they are loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from uar.core.arithmetic import set_up

if TYPE_CHECKING:
    import numpy as np

# For the versions in constraints.txt; `make portable` checks that every CPU computes the same.
RECORDED = {
    "libm": "0d3c13b870d6",
    "numpy": "41da7010eadc",
    "OpenBLAS": "3cd3b6f797f3",
    "Pillow": "4ece4c8d692a",
    "torch": "84efc54f22d4",
    "MKL": "dc136c23b50a",
    "oneDNN": "ddef36b650c9",
    "a training": "29b0d1ed2585",
}


def differing() -> list[str]:
    """Libraries whose results here differ from those recorded, in the order of `RECORDED`.

    Raises:
        subprocess.CalledProcessError: the computation fails.
    """
    command = [sys.executable, "-m", "pipeline.tools.checksum"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return [name for name, digest in RECORDED.items() if found[name] != digest]


def checksums() -> dict[str, str]:
    """Library -> hash; call it after `set_up`, before numpy and torch are used otherwise."""
    return {name: _digest(piece()) for name, piece in PIECES.items()}


def _digest(arrays: Iterable[np.ndarray]) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(array.tobytes())
    return total.hexdigest()[:12]


def _normal(*shape: int) -> np.ndarray:
    import numpy as np

    return np.random.default_rng(0).standard_normal(shape)


def _libm() -> Iterable[np.ndarray]:
    import numpy as np

    functions = (math.exp, math.log, math.sin, math.tanh, math.sqrt, math.lgamma)
    yield np.array([f(x / 7) for f in functions for x in range(1, 200)])


def _numpy() -> Iterable[np.ndarray]:
    import numpy as np

    x = _normal(90, 101)
    for y in (x, x.astype(np.float32)):
        yield from (np.exp(y), np.log(np.abs(y)), np.sin(y), np.tanh(y), np.abs(y) ** 1.7)
        yield from (np.sqrt(np.abs(y)), y.sum(0), y.mean(1), y.std(1), np.cumsum(y))


def _openblas() -> Iterable[np.ndarray]:
    import numpy as np

    x = _normal(130, 700)
    for y in (x, x.astype(np.float32)):
        yield from (y @ y[:33].T, y @ y[0], *np.linalg.svd(y[:40, :30]), np.linalg.inv(y[:30, :30]))


def _pillow() -> Iterable[np.ndarray]:
    import numpy as np
    from PIL import Image

    gray = Image.fromarray((np.abs(_normal(150, 160)) * 60).clip(0, 255).astype(np.uint8))
    for side in (64, 200):
        yield np.asarray(gray.resize((side, side), Image.Resampling.LANCZOS))
        yield np.asarray(gray.resize((side, side), Image.Resampling.BILINEAR))


def _torch() -> Iterable[np.ndarray]:
    import torch
    from torch.nn import functional as F

    torch.manual_seed(0)
    x = torch.randn(90, 128)
    yield from (
        y.numpy() for y in (x.exp(), x.abs().log(), x.tanh(), x.erf(), x.sigmoid(), x.sin())
    )
    yield from (y.numpy() for y in (F.gelu(x), x.softmax(1), x.log_softmax(1), x.logsumexp(1)))
    yield from (y.numpy() for y in (F.layer_norm(x, (128,)), x.std(0), x.norm(dim=1), x.cumsum(0)))
    yield from (y.numpy() for y in (x.abs().sqrt(), torch.rand(99), F.gumbel_softmax(x), x @ x.T))


def _mkl() -> Iterable[np.ndarray]:
    import torch
    from torch.nn import functional as F

    torch.manual_seed(0)
    x = torch.randn(2, 4, 30, 16)
    yield F.scaled_dot_product_attention(x, x, x).numpy()
    for part in (*torch.linalg.qr(x[0, 0]), *torch.linalg.svd(x[0, 0])):
        yield part.numpy()


def _onednn() -> Iterable[np.ndarray]:
    import torch
    from torch.nn import functional as F

    torch.manual_seed(0)
    for size, stride in ((1, 1), (3, 1), (3, 2)):
        images = torch.randn(2, 16, 20, 20, requires_grad=True)
        kernels = torch.randn(40, 16, size, size, requires_grad=True)
        out = F.conv2d(images, kernels, stride=stride, padding=size // 2)
        out.square().mean().backward()
        assert images.grad is not None and kernels.grad is not None
        yield from (out.detach().numpy(), images.grad.numpy(), kernels.grad.numpy())


def _training() -> Iterable[np.ndarray]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    for _ in range(4):
        x = torch.randn(3, 20, 32)
        optimizer.zero_grad()
        (layer(x) - x.roll(1, 1)).square().mean().backward()
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
    yield from (parameter.detach().numpy() for parameter in layer.parameters())


PIECES: dict[str, Callable[[], Iterable[np.ndarray]]] = {
    "libm": _libm,
    "numpy": _numpy,
    "OpenBLAS": _openblas,
    "Pillow": _pillow,
    "torch": _torch,
    "MKL": _mkl,
    "oneDNN": _onednn,
    "a training": _training,
}


if __name__ == "__main__":
    set_up(os.environ, "portable", 1)
    import torch  # noqa: F401  # its kernels are replaced once it is here

    if reason := set_up(os.environ, "portable", 1):
        sys.exit(reason)
    print(json.dumps(checksums()))
