"""Views of packed images: the whole image and crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from uar.data.views import crops_at, read_packed, resize_view


@pytest.fixture
def images() -> torch.Tensor:
    """`(5, 20, 20)` uint8, every pixel of an image different from its neighbours."""
    return torch.randint(256, (5, 20, 20), generator=torch.Generator().manual_seed(0)).byte()


def test_resize_view_shrinks_the_whole_image(images: torch.Tensor) -> None:
    view = resize_view(images, 16)
    assert view.shape == (5, 16, 16) and view.dtype == torch.float32
    assert view.min() >= 0 and view.max() <= 1
    assert torch.equal(resize_view(images, 20), images.float() / 255)
    flat = torch.full((1, 20, 20), 51, dtype=torch.uint8)
    torch.testing.assert_close(resize_view(flat, 16), torch.full((1, 16, 16), 0.2))


def test_resize_view_is_antialiased() -> None:
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(16).expand(1, 32, 32)
    inner = resize_view(stripes, 8)[:, :, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), atol=0.02, rtol=0)


def test_crops_are_sub_windows(images: torch.Tensor) -> None:
    corners = torch.randint(5, (5, 40, 2), generator=torch.Generator().manual_seed(1))
    crops = crops_at(images, corners, 16)
    assert crops.shape == (5, 40, 16, 16) and crops.dtype == torch.uint8
    for image in range(5):
        for crop in range(40):
            top, left = corners[image, crop].tolist()
            window = images[image, top : top + 16, left : left + 16]
            assert torch.equal(crops[image, crop], window)


def test_crop_of_the_whole_image(images: torch.Tensor) -> None:
    crops = crops_at(images, torch.zeros(5, 2, 2, dtype=torch.int64), 20)
    assert torch.equal(crops, images[:, None].expand(-1, 2, -1, -1))


def test_packed_rows_are_read_without_a_mapping(images: torch.Tensor, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", images.numpy())
    rows = read_packed(tmp_path / "images.npy", np.array([3, 0]))
    assert torch.equal(rows, images[[3, 0]])
    assert not isinstance(rows.numpy().base, np.memmap)
