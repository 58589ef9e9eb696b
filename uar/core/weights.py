"""Tensors and their description in one file: safetensors, with JSON under one metadata key.

The same content gives the same bytes: names are sorted, JSON has one form, and nothing depends on
how the tensors were computed. The file contains no code.

`unpickle` reads weights that others publish as torch's pickles, without running code from them.
"""

from __future__ import annotations

import hashlib
import json
import math
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
from torch import Tensor, nn

from uar.core.errors import UserError, plainly
from uar.core.files import atomic_write, existing

_KEY = "uar"


def write_weights(path: Path, kind: str, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and JSON.

    Args:
        kind: what kind of file it is; `read_weights` is told which one to expect.
        about: JSON values.
    """
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in sorted(tensors.items())}
    header = {"kind": kind, "digest": digest_of(whole), "about": about}
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    with atomic_write(path) as temporary:
        save_file(whole, temporary, {_KEY: text})


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors, with text as metadata, in the plain format that other programs read too."""
    with atomic_write(path) as temporary:
        save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, temporary, metadata)


def read_weights(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and JSON of a file that `write_weights` wrote.

    Raises:
        UserError: the file is absent, truncated or of another kind, a byte of it has changed, or a
            value is not finite.
    """
    existing(path)
    try:
        tensors, metadata = read_safetensors(path)
        header = json.loads(metadata[_KEY])
        found, digest, about = header["kind"], header["digest"], header["about"]
        if not isinstance(about, dict):
            raise ValueError("its JSON is not an object")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if getattr(error, "errno", None):
            raise
        raise UserError(
            f"{path} is not a complete {kind} of this project ({plainly(error)}). {_REMEDY}"
        ) from None
    if found != kind:
        raise UserError(f"{path}: found {found}, expected {kind}. {_REMEDY}")
    if digest_of(tensors) != digest:
        raise UserError(f"{path} is damaged: its weights have changed. {_REMEDY}")
    refuse_absurd(path, tensors)
    return tensors, about


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors, sorted by name, and the metadata of a safetensors file.

    Raises:
        SafetensorError: it is another file, or has a longer header or more tensors than any that
            this project writes.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if length > _MOST_HEADER:
        raise SafetensorError(f"a header of {length:,} bytes, more than {_MOST_HEADER:,}")
    with safe_open(path, "pt") as opened:
        names = sorted(opened.keys())
        if len(names) > _MOST_TENSORS:
            raise SafetensorError(f"{len(names):,} tensors, more than {_MOST_TENSORS:,}")
        return {name: opened.get_tensor(name) for name in names}, dict(opened.metadata() or {})


def fill_module(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Fill a module on `meta`, which has only shapes, with weights, which must fit.

    Raises:
        RuntimeError: a name is absent or unknown, or a shape differs.
    """
    wanted = module.state_dict()
    of_type = {n: w.to(wanted[n].dtype, copy=True) for n, w in weights.items()
               if n in wanted and w.shape == wanted[n].shape}  # fmt: skip
    module.load_state_dict({**weights, **of_type}, assign=True)


def refuse_absurd(source: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for weights that no training yields: empty, not finite, huge, or all zero.

    Args:
        source: where the weights come from, for the message.
    """
    for name, tensor in tensors.items():
        if not tensor.numel():
            raise UserError(f"{source}: {name} is empty, {tuple(tensor.shape)}. {_REMEDY}")
        if not tensor.is_floating_point():
            continue
        if tensor.dtype not in _FLOATS:
            raise UserError(f"{source}: {name} has the type {tensor.dtype}. {_REMEDY}")
        least, most = (float(end) for end in tensor.aminmax())
        if not (math.isfinite(least) and math.isfinite(most)):
            raise UserError(f"{source}: {name} holds values that are not finite. {_REMEDY}")
        if max(-least, most) > _VAST:
            raise UserError(
                f"{source}: {name} holds values up to {max(-least, most):.2g}, which no training "
                f"reaches. {_REMEDY}"
            )
    matrices = [tensor for tensor in tensors.values() if tensor.dim() > 1]
    if matrices and not any(tensor.any() for tensor in matrices):
        raise UserError(f"{source}: every weight is zero. {_REMEDY}")


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_HEADER = 16_000_000  # bytes; an index of MIMIC-CXR's training studies needs 13 million
_MOST_TENSORS = 100_000
_VAST = 1e10  # variances of a network's features of 16-bit pixels stay below this
_REMEDY = "`dvc repro` makes it again; `dvc pull` fetches it."


def digest_of(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in hex."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def unpickle(path: Path, classes: Mapping[str, type] | None = None) -> Any:
    """Load what torch saved in `path` onto the CPU, without running anything in the file.

    Args:
        path: a file that `torch.save` wrote.
        classes: what may be built in addition to tensors and containers, by the name that it has in
            the pickle.

    Raises:
        UnpicklingError: the file is a program (`refuse_programs`), a pickle of anything else, or
            not a whole file of torch's; the message is for the user, without torch's own advice.
    """
    refuse_programs(path)
    allowed = [(kind, name) for name, kind in (classes or {}).items()]
    try:
        with (
            torch.serialization.safe_globals(allowed),  # type: ignore[arg-type]
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # about a pickle's protocol
            return torch.load(path, "cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        named = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        reason = (
            f"a pickle of something else: {named[1]} has no place among weights"
            if named
            else (
                "a pickle of something else"
                if isinstance(error, pickle.UnpicklingError)
                else "not a complete file of weights"
            )
        )
        raise pickle.UnpicklingError(reason) from None


def refuse_programs(path: Path) -> None:
    """Raise UnpicklingError for a file that torch would run, or unpack onto the disk, to load it.

    A TorchScript archive is a program, which `torch.load` hands on to `torch.jit.load` whatever it
    was told about pickles; a tar archive is the format of torch before 0.4, unpacked as a whole.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                parts = name.split("/")
                if parts[-1] == "constants.pkl" or "code" in parts[:-1]:
                    raise pickle.UnpicklingError("a TorchScript archive, which is a program")
    if tarfile.is_tarfile(path):
        raise pickle.UnpicklingError("a tar archive")
