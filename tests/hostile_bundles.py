"""Bundles made to do harm: to memory, to time, or to whoever believes a report.

All but the damaged ones have the right hashes, since their maker writes the manifest, too.
`python -m tests.faults --measure` prints what opening each of them costs.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load, save

from tests.bundles import make_bundle
from tests.conftest import ROOT, TINY, override
from tests.costs import Cost, cost_of
from uar.bundle.bundle import Bundle
from uar.bundle.reporter import Reporter
from uar.core.errors import UserError
from uar.core.weights import read_weights, write_weights

Parts = dict[str, bytes]
Change = Callable[[Parts], None]
BOMB = 200_000_000  # bytes, unpacked from a few hundred thousand


def whole_parts() -> Parts:
    """The parts of a bundle that opens."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for key, value in TINY.items():
        override(raw, key, value)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.uar"
        make_bundle(raw, index=True).save(path)
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def in_manifest(*keys: str, value: Any) -> Change:
    """A change of the value under a key of the manifest."""

    def change(parts: Parts) -> None:
        manifest = json.loads(parts["manifest.json"])
        place = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        parts["manifest.json"] = json.dumps(manifest).encode()

    return change


def in_file(
    part: str, kind: str, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]
) -> Change:
    """A change of the weights or the description in a part, whose digest is made to fit."""

    def rewrite(parts: Parts) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / part
            path.write_bytes(parts[part])
            tensors, about = read_weights(path, kind)
            change(tensors, about)
            write_weights(path, kind, tensors, about)
            parts[part] = path.read_bytes()

    return rewrite


def in_model(*keys: str, value: Any) -> Change:
    """A change of a value in the checkpoint's description."""

    def change(_: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
        place = about
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return in_file("model.safetensors", "checkpoint", change)


def weights(change: Callable[[torch.Tensor], torch.Tensor], name: str = "") -> Change:
    """A change, by a function, of every float tensor of the model whose name contains `name`."""

    def rewrite(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        for key, tensor in tensors.items():
            if tensor.is_floating_point() and name in key:
                tensors[key] = change(tensor)

    return in_file("model.safetensors", "checkpoint", rewrite)


def in_tokenizer(part: str, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """A change of a tensor in one half of the tokenizer."""

    def rewrite(parts: Parts) -> None:
        tensors = load(parts[part])
        tensors[name] = change(tensors[name])
        parts[part] = save(tensors)

    return rewrite


def text(part: str, content: bytes) -> Change:
    """A change of the whole content of a part."""
    return lambda parts: parts.update({part: content})


def of_index(key: str, value: Any) -> Change:
    """A change of a value in the description of the index."""

    def change(_: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
        about[key] = value

    return in_file("index.safetensors", "index", change)


def nan_index(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
    tensors["features"][0, 0] = torch.nan


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def many_tensors(parts: Parts) -> None:
    """Make the model a header of millions of bytes without any bytes of weights."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"{i}": empty for i in range(300_000)}).encode()
    parts["model.safetensors"] = len(header).to_bytes(8, "little") + header


HUGE = 10**9
CHANGES: dict[str, Change] = {
    **{
        f"{key} {value!r:.20}": in_manifest("preprocessing", key, value=value)
        for key, values in {
            "image_size": (100_000, 10**30, -1, 0, 40.5, "40", None),
            "crop": (4096, 31, 0, 10**30), "views": (1, 3, -1), "precision": ("float8",),
            "missing_view": (["error"],), "cleaner": (5,),
        }.items()
        for value in values
    },
    **{
        f"{key} {value!r:.20}": in_manifest("decode", key, value=value)
        for key, values in {
            "beam_size": (2000, 0, 10**30, 2.5), "length_penalty": (1e308, -1, float("nan")),
            "guidance": (0.5, 1e9, float("inf")), "batch_size": (10**12, 0),
            "choose": ("samples", "greedy", 5), "samples": (10**12, 1),
            "temperature": (0, float("inf")), "findings_weight": (1e9, -1),
            "findings_threshold": (2, float("nan")),
        }.items()
        for value in values
    },
    **{
        f"manifest: {key} {value!r:.20}": in_manifest(key, value=value)
        for key, values in {
            "provenance": (5, [], None, "iu", {"dataset": 5}, {}), "parts": (5, [], {"a": 5}),
            "preprocessing": (5, None, {}), "decode": (5, {}), "more": (1,), "format": ("2", 2.5),
            "seed": (-1, 10**30, "0"),
        }.items()
        for value in values
    },
    **{
        f"model.{key} {value!r:.20}": in_model("model", key, value=value)
        for key, values in {
            "encoder_layers": (HUGE, 0, 3), "decoder_layers": (HUGE, 64),
            "d_model": (64_000, 2**62), "d_ff": (10**6, 10**30), "heads": (0, 7, HUGE),
            "basis_size": (10**6, HUGE), "visual_pool": (64, HUGE),
            "tir_scale": (1e308, float("nan")),
            "lsu": (False, "no"), "image_dropout": (0.5, 2),
            "extractor": ({"network": "resnet", "weights": "none", "depths": [HUGE] * 4,
                           "fine_tune": True}, 5),
        }.items()
        for value in values
    },
    **{
        f"sizes.{key} {value!r:.20}": in_model("sizes", key, value=value)
        for key in ("vocabulary", "codebook", "visual_length", "max_length", "findings", "more")
        for value in (HUGE, 2**62, 10**30, -1, 0.5, "9", None, 1)
        if (key, value) not in {("findings", 1), ("findings", HUGE), ("findings", 2**62)}
    },
    "sizes: a list": in_model("sizes", value=[1]),
    "model: a number": in_model("model", value=5),
    "epoch -1": in_model("epoch", value=-1),
    "validation of text": in_model("validation", value={"CIDEr": "good"}),
    "encoder of a number": in_model("encoder_sha256", value=5),
    "more about the model": in_model("more", value=5),
    "weights zero": weights(torch.zeros_like),
    "weights times 1e30": weights(lambda w: w * 1e30),
    "weights NaN": weights(lambda w: w * torch.nan),
    "one weight infinite": weights(lambda w: w / 0, "head.bias"),
    "weights of none": weights(lambda w: w[:0]),
    "weights in eight bits": weights(lambda w: w.to(torch.float8_e4m3fn)),
    "a matrix as a vector": weights(lambda w: w.flatten(), "head.weight"),
    "a header of millions of tensors": many_tensors,
    "a header longer than the file": text("model.safetensors", (2**40).to_bytes(8, "little")),
    "a header of 50 MB": text(
        "model.safetensors", (50_000_000).to_bytes(8, "little") + b" " * 50_000_000
    ),
    "codes without bytes": in_tokenizer(
        "encoder.safetensors", "blocks.output.conv.w", lambda w: torch.empty(2**40, 0, 1, 1)
    ),
    "codes thin and many": in_tokenizer(
        "encoder.safetensors", "blocks.output.conv.w", lambda w: torch.ones(10**5, 1, 1, 1)
    ),
    "channels thin and many": in_tokenizer(
        "encoder.safetensors", "blocks.input.w", lambda w: torch.ones(10**5, 1, 1, 1)
    ),
    "the tokenizer NaN": in_tokenizer(
        "encoder.safetensors", "blocks.input.w", lambda w: w * torch.nan
    ),
    "the tokenizer times 1e30": in_tokenizer(
        "encoder.safetensors", "blocks.input.w", lambda w: w * 1e30
    ),
    **{
        f"vocabulary {content[:20]!r}": text("vocabulary.json", content)
        for content in (
            b"5", b"[]", b"null", b'{"words": 5}', b'{"words": [1, 2]}', b'{"words": null}',
            b'{"words": ["a", "a", ".", "b", "c", "d", "e", "f", "g"]}',
            b'{"words": ["\\ud800", "a", ".", "b", "c", "d", "e", "f", "g"]}',
            b'{"words": ["a b", "a", ".", "b", "c", "d", "e", "f", "g"]}',
            b'{"words": ["<pad>", "a", ".", "b", "c", "d", "e", "f", "g"]}',
            b'{"words": [%s]}' % (b"1" * 10_000), deep(100_000), b"\xff\xfe",
        )
    },
    **{
        f"manifest {content[:20]!r}": text("manifest.json", content)
        for content in (b"5", b"[]", b"null", b"{}", deep(100_000), b"\xff\xfe", b"1" * 10_000)
    },
    "a card that is no UTF-8": text("card.md", b"\xff\xfe\xfd"),
    "a card of 9 MB": text("card.md", b"x" * 9_000_000),
    "an index of numbers": of_index("study_ids", list(range(6))),
    "an index with other reports": of_index("reports", list(range(6))),
    "an index short of reports": of_index("reports", ["a"]),
    "an index of NaN": in_file("index.safetensors", "index", nan_index),
    "an index of another model": of_index("model_sha256", 5),
}  # fmt: skip


def sealed(parts: Parts) -> bytes:
    """A bundle of these parts, whose manifest has their hashes if it still names any."""
    try:
        manifest = json.loads(parts["manifest.json"])
        if isinstance(manifest["parts"], dict) and "a" not in manifest["parts"]:
            manifest["parts"] = {
                name: hashlib.sha256(data).hexdigest()
                for name, data in parts.items()
                if name != "manifest.json"
            }
            parts = parts | {"manifest.json": json.dumps(manifest).encode()}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return archived(parts)


def archived(
    parts: Parts, deflated: str | None = None, zeros: int = 0, twice: str | None = None
) -> bytes:
    """A ZIP archive of parts; one may be there twice, or be deflated with millions of zeros."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")
        for name, data in parts.items():
            info = zipfile.ZipInfo(name)
            if name == deflated:
                info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as part:
                part.write(data)
                for _ in range(zeros // 10**6 if name == deflated else 0):
                    part.write(bytes(10**6))
            if name == twice:
                archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def one_over_another(parts: Parts) -> bytes:
    """An archive in which the index's entry points to the model's bytes."""
    content = bytearray(archived(parts))
    places: dict[bytes, int] = {}
    at = content.find(b"PK\1\2")
    while at >= 0:
        length = int.from_bytes(content[at + 28 : at + 30], "little")
        places[bytes(content[at + 46 : at + 46 + length])] = at
        at = content.find(b"PK\1\2", at + 46)
    card, model = places[b"index.safetensors"], places[b"model.safetensors"]
    for start, size in ((16, 12), (42, 4)):  # CRC and sizes, offset
        content[card + start : card + start + size] = content[model + start : model + start + size]
    return bytes(content)


def hostile_bundles(zeros: int = BOMB) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the name of each bundle, and what makes its bytes.

    Args:
        zeros: bytes that a deflated part unpacks to.
    """
    whole = whole_parts()
    for part in ("card.md", "manifest.json", "vocabulary.json", "model.safetensors"):
        yield f"{part}, deflated", partial(archived, whole, part, zeros)
    yield "a part twice", partial(archived, whole, twice="card.md")
    yield "a part over another", partial(one_over_another, whole)
    for name, change in CHANGES.items():
        yield name, partial(_changed, whole, change)


def _changed(whole: Parts, change: Change) -> bytes:
    parts = dict(whole)
    change(parts)
    return sealed(parts)


def opened(path: Path) -> str:
    """Open a bundle and return how that ended."""
    try:
        Reporter(Bundle.load(path), "cpu")
    except UserError as error:
        return "refused" if str(path) in str(error) else f"refused without its name: {error}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    return "accepted"


def cost_of_opening(path: Path) -> Cost:
    """How opening a bundle in another process ended, its CPU seconds and bytes of memory."""
    return cost_of(partial(opened, path))
