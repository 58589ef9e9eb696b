"""Tensors and what is said of them in one file: safetensors, with JSON under one metadata key.

The same content is the same bytes: names are sorted, JSON is written one way, and nothing in the
file depends on how the tensors came to be. Nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from uar.core.errors import UserError
from uar.core.files import atomic_write, existing

_KEY = "uar"


def write_weights(path: Path, kind: str, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and JSON.

    Args:
        kind: what the file is, which `read_weights` asks for.
        about: anything that JSON holds.
    """
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in sorted(tensors.items())}
    header = {"kind": kind, "digest": digest_of(whole), "about": about}
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    with atomic_write(path) as temporary:
        save_file(whole, temporary, metadata={_KEY: text})


def read_weights(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON of a file that `write_weights` wrote.

    Raises:
        UserError: the file is absent, cut or of another kind, a byte of it has changed, or a value
            is not finite.
    """
    existing(path)
    try:
        with safe_open(path, "pt") as opened:
            header = json.loads((opened.metadata() or {})[_KEY])
            tensors = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
        found, digest, about = header["kind"], header["digest"], header["about"]
        if not isinstance(about, dict):
            raise TypeError("its JSON is no object")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is no {kind} of this project, or not a whole one "
            f"({type(error).__name__}: {error}). {_REMEDY}"
        ) from None
    if found != kind:
        raise UserError(f"{path} is a {found}, expected a {kind}. {_REMEDY}")
    if digest_of(tensors) != digest:
        raise UserError(f"{path} is damaged: its weights are not those written. {_REMEDY}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds values that are not finite. {_REMEDY}")
    return tensors, about


_REMEDY = "`dvc repro` makes it anew; `dvc pull` fetches it."


def digest_of(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in hex."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
