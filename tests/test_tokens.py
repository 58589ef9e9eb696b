"""The cached token array against the encoder that makes it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uar.core.distributed import launch
from uar.core.errors import UserError
from uar.core.files import write_json
from uar.core.provenance import Scratch
from uar.core.unfinished import UnfinishedArray
from uar.data.views import Views, crops_at, resize_view
from uar.tokens.cache import (
    PackedImages,
    TokenCacheInfo,
    TokenEncoding,
    open_tokens,
    tokenize_images,
)
from uar.tokens.dvae import Dvae

SIZE, CROP, CROPS, SEED = 24, 16, 2, 11
VIEWS = Views(kind="crops", crops=CROPS, crop=CROP, size=SIZE, stride=8, seed=SEED)
TRAIN = np.array([True, False, True, True, False, True])


@pytest.fixture(scope="module")
def model() -> Dvae:
    torch.manual_seed(0)
    return Dvae(codebook_size=512, hidden=64).eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE), dtype=np.uint8)


def tokenized(
    model: Dvae,
    images: np.ndarray,
    out: Path,
    views: Views = VIEWS,
    batch_size: int = 6,
    precision: str = "float32",
) -> tuple[np.ndarray, TokenCacheInfo]:
    packed = out.parent / "images.npy"
    np.save(packed, images)
    scratch = Scratch(out.parent / "scratch", {})
    encoder = TokenEncoding(launch("cpu"), model, batch_size=batch_size, precision=precision)
    info = tokenize_images(encoder, PackedImages(packed, TRAIN, views), out, scratch)
    shutil.rmtree(scratch.folder)
    return np.load(out), info


@pytest.fixture(scope="module")
def cache(
    model: Dvae, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> tuple[np.ndarray, TokenCacheInfo]:
    return tokenized(model, images, tmp_path_factory.mktemp("tokens") / "tokens.npy")


Cache = tuple[np.ndarray, TokenCacheInfo]


def tokens_of(model: Dvae, pixels: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model.tokenize(pixels).numpy()


def test_view_0_is_the_whole_image(model: Dvae, images: np.ndarray, cache: Cache) -> None:
    expected = tokens_of(model, resize_view(torch.from_numpy(images), CROP))
    assert expected.shape == (6, 4)  # 16 / 8 squared
    assert len(np.unique(expected)) > 2  # the comparison is of more than one token
    np.testing.assert_array_equal(cache[0][:, 0], expected)


def test_crop_views_are_the_seeded_crops(model: Dvae, images: np.ndarray, cache: Cache) -> None:
    rows = np.flatnonzero(TRAIN)
    corners = VIEWS.corners(rows)
    crops = crops_at(torch.from_numpy(images[rows]), corners, CROP).float() / 255
    for view in range(CROPS):
        expected = tokens_of(model, crops[:, view])
        np.testing.assert_array_equal(cache[0][TRAIN, 1 + view], expected)
    assert (cache[0][TRAIN, 1] != cache[0][TRAIN, 0]).any()


def test_crops_are_drawn_by_seed_and_row_alone() -> None:
    rows = np.arange(400)
    corners = VIEWS.corners(rows)
    assert torch.equal(VIEWS.corners(rows[::-1][:7]), corners.flip(0)[:7])
    assert not torch.equal(replace(VIEWS, seed=SEED + 1).corners(rows), corners)
    assert len(corners.flatten(0, 1).unique(dim=0)) == 9**2  # every place, 0..8 both ways


def test_other_splits_are_never_cropped(cache: Cache) -> None:
    tokens = cache[0][~TRAIN]
    for view in range(1, 1 + CROPS):
        np.testing.assert_array_equal(tokens[:, view], tokens[:, 0])


def test_array_and_json_agree(model: Dvae, cache: Cache, tmp_path: Path) -> None:
    tokens, info = cache
    assert tokens.dtype == np.uint16
    assert tokens.shape == info.shape == (6, 1 + CROPS, 4)
    assert tokens.max() < 512
    path = tmp_path / "tokens.json"
    info.save(path)
    assert TokenCacheInfo.load(path) == info
    assert info == TokenCacheInfo(
        encoder_sha256=model.fingerprint(),
        codebook_size=512,
        image_size=SIZE,
        crop=CROP,
        shape=(6, 3, 4),
        dtype="uint16",
        views="crops",
        seed=SEED,
        device="cpu",
        precision="float32",
        torch_version=torch.__version__.split("+")[0],
        float32_agreement=1.0,
        pixel_crop_agreement=None,
    )


def test_batch_size_does_not_change_view_0(
    model: Dvae, images: np.ndarray, cache: Cache, tmp_path: Path
) -> None:
    tokens, _ = tokenized(model, images, tmp_path / "tokens.npy", batch_size=4)
    np.testing.assert_array_equal(tokens[:, 0], cache[0][:, 0])


def test_same_seed_same_bytes_and_another_seed_other_crops(
    model: Dvae, images: np.ndarray, tmp_path: Path
) -> None:
    first, again, other = (tmp_path / name for name in ("first.npy", "again.npy", "other.npy"))
    tokenized(model, images, first)
    tokenized(model, images, again)
    tokens, _ = tokenized(model, images, other, replace(VIEWS, seed=SEED + 1))
    assert first.read_bytes() == again.read_bytes()
    np.testing.assert_array_equal(tokens[:, 0], np.load(first)[:, 0])
    assert (tokens[TRAIN, 1:] != np.load(first)[TRAIN, 1:]).any()


def test_no_crops_leave_one_view(
    model: Dvae, images: np.ndarray, cache: Cache, tmp_path: Path
) -> None:
    tokens, info = tokenized(model, images, tmp_path / "tokens.npy", replace(VIEWS, crops=0))
    assert info.shape == (6, 1, 4)
    np.testing.assert_array_equal(tokens[:, 0], cache[0][:, 0])


def test_grid_views_are_windows_of_the_whole_images_tokens(
    model: Dvae, images: np.ndarray, cache: Cache, tmp_path: Path
) -> None:
    """24 pixels are 3 x 3 tokens: four windows of 2 x 2, and all four are asked for."""
    views = Views(kind="grid", crops=4, crop=CROP, size=SIZE, stride=8, seed=SEED)
    tokens, info = tokenized(model, images, tmp_path / "tokens.npy", views)
    np.testing.assert_array_equal(tokens[:, 0], cache[0][:, 0])
    np.testing.assert_array_equal(tokens[~TRAIN, 1:], tokens[~TRAIN, :1].repeat(4, axis=1))
    grids = tokens_of(model, torch.from_numpy(images).float() / 255).reshape(-1, 3, 3)
    for row in np.flatnonzero(TRAIN):
        windows = [grids[row, t : t + 2, le : le + 2].ravel() for t in (0, 1) for le in (0, 1)]
        assert sorted(map(tuple, windows)) == sorted(map(tuple, tokens[row, 1:].tolist()))

    agreement, corners = [], views.corners(np.arange(6))
    crops = crops_at(torch.from_numpy(images), corners, CROP).float() / 255
    windows = crops_at(torch.from_numpy(grids), corners // 8, 2).flatten(2).numpy()
    for row in range(6):
        agreement.append((tokens_of(model, crops[row]) == windows[row]).mean())
    assert info.pixel_crop_agreement == pytest.approx(np.mean(agreement))
    assert "of the grid's the same from crops of pixels" in info.agreement


def test_bfloat16_says_how_many_tokens_it_changes(
    model: Dvae, images: np.ndarray, cache: Cache, tmp_path: Path
) -> None:
    _, info = tokenized(model, images, tmp_path / "tokens.npy", precision="bfloat16")
    assert 0.3 < info.float32_agreement <= 1.0
    assert info.agreement == f"{info.float32_agreement:.2%} of them the same in float32"


class Killed(Exception):
    """Stands for the process's end."""


def test_killed_work_goes_on_with_the_same_tokens(
    model: Dvae, images: np.ndarray, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = UnfinishedArray.write, []

    def dying(self: UnfinishedArray, number: int, tokens: np.ndarray) -> None:
        if len(written) == 2:
            raise Killed
        written.append(number)
        write(self, number, tokens)

    monkeypatch.setattr(UnfinishedArray, "write", dying)
    out = tmp_path / "tokens.npy"
    with pytest.raises(Killed):
        tokenized(model, images, out, batch_size=3)  # one image of three views
    assert not out.exists()

    def counting(self: UnfinishedArray, number: int, tokens: np.ndarray) -> None:
        written.append(number)
        write(self, number, tokens)

    monkeypatch.setattr(UnfinishedArray, "write", counting)
    tokens, _ = tokenized(model, images, out, batch_size=3)
    assert written == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(tokens, cache[0])


def test_a_kill_while_agreements_are_measured_loses_nothing(
    model: Dvae, images: np.ndarray, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*arguments: Any) -> None:
        raise Killed

    out = tmp_path / "tokens.npy"
    with monkeypatch.context() as patch:
        patch.setattr("uar.tokens.cache._agreements", dying)
        with pytest.raises(Killed):
            tokenized(model, images, out)
    assert not out.exists()
    monkeypatch.setattr(UnfinishedArray, "write", dying)  # nothing is encoded again
    tokens, info = tokenized(model, images, out)
    np.testing.assert_array_equal(tokens, cache[0])
    assert info == cache[1]


def test_open_tokens_gives_the_array(cache: Cache, tmp_path: Path) -> None:
    tokens, info = cache
    np.save(tmp_path / "tokens.npy", tokens)
    opened = open_tokens(tmp_path / "tokens.npy", info)
    assert isinstance(opened, np.memmap)
    np.testing.assert_array_equal(opened, tokens)


def test_open_tokens_refuses_another_shape_or_dtype(cache: Cache, tmp_path: Path) -> None:
    tokens, info = cache
    path = tmp_path / "tokens.npy"
    np.save(path, tokens[:5])
    with pytest.raises(UserError) as caught:
        open_tokens(path, info)
    for part in (str(path), "uint16 (5, 3, 4)", "uint16 (6, 3, 4)", "re-run tokenize"):
        assert part in str(caught.value)
    np.save(path, tokens.astype(np.int32))
    with pytest.raises(UserError, match=r"int32 \(6, 3, 4\), but its JSON says uint16 \(6, 3, 4\)"):
        open_tokens(path, info)


def test_absent_tokens_are_named(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokens.npy is missing.*dvc pull"):
        open_tokens(tmp_path / "tokens.npy", cache[1])


@pytest.mark.parametrize("content", [{}, {"shape": [1, 2, 3]}, {"shape": 5}, [1]])
def test_json_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "tokens.json"
    write_json(path, content)
    with pytest.raises(UserError, match="tokens.json does not describe a token cache"):
        TokenCacheInfo.load(path)


def test_another_encoder_is_refused(cache: Cache) -> None:
    info = replace(cache[1], encoder_sha256="a" * 64)
    info.refuse_other_encoder("a" * 64, "models/stage_one.safetensors")
    with pytest.raises(UserError) as caught:
        info.refuse_other_encoder("b" * 64, "models/stage_one.safetensors")
    for part in (
        "encoder aaaaaaaaaaaa,",
        "models/stage_one.safetensors expects encoder bbbbbbbbbbbb.",
    ):
        assert part in str(caught.value)
