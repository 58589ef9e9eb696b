"""Tensors and what is said of them in one file: safetensors, with JSON under one metadata key.

The same content is the same bytes: names are sorted, JSON is written one way, and nothing in the
file depends on how the tensors came to be. Nothing in it is code.

Weights that others publish as torch's pickles are read by `unpickle`, which runs nothing of them.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
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


def unpickle(path: Path, classes: Mapping[str, type] | None = None) -> Any:
    """What torch has saved in `path`, on the CPU. Nothing in the file is run.

    Args:
        path: a file of `torch.save`.
        classes: by the name that the pickle has of each, what is built under it; beside tensors
            and containers, which need no name here.

    Raises:
        UnpicklingError: the file is a program (`refuse_programs`), a pickle of anything else, or
            no whole file of torch's; the message is for the user, without torch's own advice.
    """
    refuse_programs(path)
    allowed = [(kind, name) for name, kind in (classes or {}).items()]
    try:
        with (
            torch.serialization.safe_globals(allowed),  # type: ignore[arg-type]
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of a pickle's protocol
            return torch.load(path, "cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        named = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        reason = (
            f"a pickle of something else, {named[1]} is no part of weights"
            if named
            else (
                "a pickle of something else"
                if isinstance(error, pickle.UnpicklingError)
                else f"no whole file of weights, {type(error).__name__}"
            )
        )
        raise pickle.UnpicklingError(reason) from None


def refuse_programs(path: Path) -> None:
    """Raise UnpicklingError for what torch would run, or unpack onto the disk, to load it.

    A TorchScript archive is a program, which `torch.load` hands on to `torch.jit.load` whatever it
    was told about pickles; a tar archive is the form of torch before 0.4, unpacked as a whole.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                parts = name.split("/")
                if parts[-1] == "constants.pkl" or "code" in parts[:-1]:
                    raise pickle.UnpicklingError("a TorchScript archive, which is a program")
    if tarfile.is_tarfile(path):
        raise pickle.UnpicklingError("a tar archive")
