"""The cached token array against the encoder that makes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uar.dvae import Dvae
from uar.errors import UserError
from uar.files import write_json
from uar.images import random_crops, resize_view
from uar.tokens import TokenCacheInfo, info_as_json, open_tokens, tokenize_images

SIZE, CROP, CROPS, SEED = 24, 16, 2, 11
TRAIN = np.array([True, False, True, True, False, True])


@pytest.fixture(scope="module")
def model() -> Dvae:
    torch.manual_seed(0)
    return Dvae(codebook_size=512, hidden=64).eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE), dtype=np.uint8)


def tokenized(
    model: Dvae, images: np.ndarray, out: Path, **changes: Any
) -> tuple[np.ndarray, TokenCacheInfo]:
    options = {"crops": CROPS, "batch_size": 6, "seed": SEED, "precision": "float32", **changes}
    cpu = torch.device("cpu")
    info = tokenize_images(model, images, TRAIN, crop=CROP, device=cpu, out=out, **options)
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
    generator = torch.Generator().manual_seed(SEED)
    crops = random_crops(torch.from_numpy(images[TRAIN]), CROP, CROPS, generator)
    for view in range(CROPS):
        expected = tokens_of(model, crops[:, view])
        np.testing.assert_array_equal(cache[0][TRAIN, 1 + view], expected)
    assert (cache[0][TRAIN, 1] != cache[0][TRAIN, 0]).any()


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
    write_json(path, info_as_json(info))
    assert TokenCacheInfo.load(path) == info
    assert info == TokenCacheInfo(
        encoder_sha256=model.fingerprint(),
        codebook_size=512,
        image_size=SIZE,
        crop=CROP,
        shape=(6, 3, 4),
        dtype="uint16",
        seed=SEED,
        device="cpu",
        precision="float32",
        torch_version=torch.__version__,
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
    tokens, _ = tokenized(model, images, other, seed=SEED + 1)
    assert first.read_bytes() == again.read_bytes()
    np.testing.assert_array_equal(tokens[:, 0], np.load(first)[:, 0])
    assert (tokens[TRAIN, 1:] != np.load(first)[TRAIN, 1:]).any()


def test_no_crops_leave_one_view(
    model: Dvae, images: np.ndarray, cache: Cache, tmp_path: Path
) -> None:
    tokens, info = tokenized(model, images, tmp_path / "tokens.npy", crops=0)
    assert info.shape == (6, 1, 4)
    np.testing.assert_array_equal(tokens[:, 0], cache[0][:, 0])


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
    with pytest.raises(UserError, match=r"int32 \(6, 3, 4\), its JSON says uint16 \(6, 3, 4\)"):
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
    info.refuse_other_encoder("a" * 64, "models/stage_one.pt")
    with pytest.raises(UserError) as caught:
        info.refuse_other_encoder("b" * 64, "models/stage_one.pt")
    for part in ("encoder aaaaaaaaaaaa,", "models/stage_one.pt expects encoder bbbbbbbbbbbb."):
        assert part in str(caught.value)
