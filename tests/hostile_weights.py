"""Weight files that would do harm if they were loaded without care."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

VICTIM = b"a user's own file"


class Bomb:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def torch_script(path: Path, victim: Path) -> None:
    """Save a scripted module that overwrites `victim`, which must exist, when it is loaded."""

    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.zeros(1)
            self.path = str(victim)
            self.size = victim.stat().st_size

        @torch.jit.export
        def __getstate__(self) -> tuple[torch.Tensor, str, int]:
            return self.w, self.path, self.size

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, str, int]) -> None:
            self.training = False
            self.path = state[1]
            self.size = state[2]
            self.w = torch.from_file(state[1], True, state[2], dtype=torch.uint8).fill_(88)

        def forward(self) -> torch.Tensor:
            return self.w

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Overwrites()), path)


def saved(content: Any, zipped: bool) -> bytes:
    """The bytes of `content` saved by torch.save."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def tar(bomb: Bomb) -> bytes:
    """The format of torch before 0.4: three pickles in a tar archive; one more path leads out."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle", "../storages"):
            data = pickle.dumps(bomb, protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def nested(inner: bytes, name: str = "archive/data.pkl") -> bytes:
    """A ZIP archive with another archive where the pickle should be."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, inner)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def patch_writer(target: Path, named: tuple[str, str]) -> bytes:
    """A module saved by old torch that makes torch write `target`.patch, if it may set attributes.

    torch compares a pickled module's source with that of the class here, and writes a patch
    under the class's name if its attribute `dump_patches` is true.

    Args:
        named: module and name of the object whose attributes the pickle sets.
    """

    def text(value: str) -> bytes:
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()

    attributes = text("dump_patches") + b"\x88" + text("__name__") + text(str(target))
    thing = b"c" + named[0].encode() + b"\n" + named[1].encode() + b"\n"
    built = thing + b"(N}(" + attributes + b"utb"
    module = b"\x80\x02(" + text("module") + built + text("x.py") + text("other = 1") + b"tQ."
    head = [MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True}]
    return b"".join(pickle.dumps(part, protocol=2) for part in head) + module + pickle.dumps([])


def weight_files(folder: Path) -> dict[str, tuple[bytes, Callable[[], bool]]]:
    """Files by name: the bytes of each, and a function that says whether it has done its harm.

    Args:
        folder: where they would do it.
    """
    trace, victim, patch = folder / "it-ran", folder / "victim", folder / "patched"
    bomb = Bomb(trace)
    victim.write_bytes(VICTIM)
    script = folder / "script.pt"
    torch_script(script, victim)
    scripted = script.read_bytes()
    script.unlink()

    def ran() -> bool:
        return trace.exists() or (folder / "storages").exists()

    def overwritten() -> bool:
        return victim.read_bytes() != VICTIM

    def patched() -> bool:
        return patch.with_suffix(".patch").exists()

    return {
        "TorchScript": (scripted, overwritten),
        "TorchScript in a ZIP": (nested(scripted), overwritten),
        "TorchScript behind other bytes": (b"PK\3\4" + scripted, overwritten),
        "torch.save": (saved(bomb, True), ran),
        "torch.save in a state": (saved({"x": torch.ones(1), "y": bomb}, True), ran),
        "torch.save of a ZIP in a ZIP": (nested(saved(bomb, True)), ran),
        "a tar in a ZIP": (nested(tar(bomb)), ran),
        "legacy": (saved(bomb, False), ran),
        "legacy in a state": (saved({"x": torch.ones(1), "y": bomb}, False), ran),
        "legacy tar": (tar(bomb), ran),
        "pickle": (pickle.dumps(bomb), ran),
        "a patch by a function": (
            patch_writer(patch, ("torch._utils", "_rebuild_tensor_v2")), patched,
        ),
        "a patch by a class": (patch_writer(patch, ("torch.nn.modules.conv", "Conv2d")), patched),
    }  # fmt: skip
