"""Weights in one canonical form, and everything that is refused in its place."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from uar.core.errors import UserError
from uar.core.weights import read_weights, write_weights
from uar.model.checkpoint import Checkpoint
from uar.model.uar import UAR

ABOUT = {"epoch": 3, "scores": {"CIDEr": 0.1, "BLEU-4": 1e-17}, "words": ["ä", "b"], "none": None}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "b.weight": torch.randn(3, 4, generator=generator),
        "a.weight": torch.randn(4, 3, generator=generator).T,  # not contiguous
        "step": torch.tensor(5.0),
        "ids": torch.arange(4),
    }


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_weights(tmp_path / "x", "checkpoint", tensors(), ABOUT)
    read, about = read_weights(tmp_path / "x", "checkpoint")
    assert about == ABOUT
    assert list(read) == sorted(tensors())
    for name, tensor in tensors().items():
        assert torch.equal(read[name], tensor)


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the order, the strides or the history of what is written."""
    write_weights(tmp_path / "one", "checkpoint", tensors(), ABOUT)
    other = {name: t.contiguous().clone() for name, t in reversed(tensors().items())}
    write_weights(tmp_path / "two", "checkpoint", other, dict(reversed(ABOUT.items())))
    read, about = read_weights(tmp_path / "one", "checkpoint")
    write_weights(tmp_path / "three", "checkpoint", read, about)
    first = (tmp_path / "one").read_bytes()
    assert first == (tmp_path / "two").read_bytes() == (tmp_path / "three").read_bytes()
    other["step"] += 1
    write_weights(tmp_path / "two", "checkpoint", other, ABOUT)
    assert first != (tmp_path / "two").read_bytes()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        flip,
        lambda path: path.write_bytes(pickle.dumps({"weights": 1})),
        lambda path: torch.save({"weights": torch.ones(2)}, path),
        lambda path: save_file({"a": torch.ones(2)}, path),
        lambda path: save_file({"a": torch.ones(2)}, path, {"uar": "no JSON"}),
        lambda path: save_file({"a": torch.ones(2)}, path, {"uar": "[" * 100_000}),
        lambda path: save_file({"a": torch.ones(2)}, path, {"uar": "[1]"}),
        lambda path: save_file({"a": torch.ones(2)}, path, {"uar": '{"kind": "checkpoint"}'}),
        lambda path: write_weights(path, "resume file", tensors(), ABOUT),
        lambda path: write_weights(path, "checkpoint", {"a": torch.tensor([torch.nan])}, {}),
        lambda path: write_weights(path, "checkpoint", {"a": torch.tensor([-torch.inf])}, {}),
        lambda path: path.unlink(),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "x.safetensors"
    write_weights(path, "checkpoint", tensors(), ABOUT)
    damage(path)
    with pytest.raises(UserError, match=r"x\.safetensors.*dvc (repro|pull)"):
        read_weights(path, "checkpoint")


def saved(model: UAR, path: Path, **changes: object) -> Checkpoint:
    weights = {name: w for name, w in model.state_dict().items() if name not in changes}
    Checkpoint.of(model, weights, encoder_sha256=None, epoch=1, validation={}).save(path)
    return Checkpoint.load(path)


def test_a_checkpoint_short_of_weights_is_refused(
    make_model: Callable[..., UAR], tmp_path: Path
) -> None:
    """Its refiner's too: only a refiner that the checkpoint's model does not have may be new."""
    model = make_model(tir="static")
    for name in model.state_dict():
        checkpoint = saved(model, tmp_path / "x", **{name: None})
        with pytest.raises(UserError, match="do not fit"):
            checkpoint.build()
    plain = make_model(tir="none")
    built = saved(plain, tmp_path / "x").build(tir="static")
    assert all(layer.refiner is not None for layer in built.decoder.layers)


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"model": 1, "sizes": {}, "encoder_sha256": None, "epoch": 0, "validation": {}},
        {"model": {}, "sizes": [], "encoder_sha256": None, "epoch": 0, "validation": {}},
        {"unknown": 1},
    ],
)
def test_a_checkpoint_of_another_description_is_refused(tmp_path: Path, about: dict) -> None:
    write_weights(tmp_path / "x", "checkpoint", {"a": torch.ones(1)}, about)
    with pytest.raises(UserError):
        Checkpoint.load(tmp_path / "x").build()


def test_a_checkpoint_of_another_version_says_so(
    make_model: Callable[..., UAR], tmp_path: Path
) -> None:
    checkpoint = saved(make_model(), tmp_path / "x")
    model = {k: v for k, v in checkpoint.model.items() if k != "visual_pool"} | {"resnet": 1}
    with pytest.raises(UserError, match="not valid in this version") as caught:
        replace(checkpoint, model=model).build()
    assert "visual_pool: Field required" in str(caught.value)
    assert "resnet: Extra inputs" in str(caught.value)
