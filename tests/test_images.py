"""Views of packed images: the whole image and crops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from uar.images import random_crops, resize_view


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


def crop_positions(image: torch.Tensor, crop: torch.Tensor) -> list[int]:
    """Indices of the sub-windows of `image` that equal `crop`."""
    side = crop.shape[-1]
    windows = F.unfold(image[None, None].float() / 255, side)[0].T  # (positions, side * side)
    return (windows == crop.flatten()).all(1).nonzero().flatten().tolist()


def test_random_crops_are_sub_windows(images: torch.Tensor) -> None:
    crops = random_crops(images, 16, 40, torch.Generator().manual_seed(1))
    assert crops.shape == (5, 40, 16, 16) and crops.dtype == torch.float32
    found = [[crop_positions(images[i], crop) for crop in crops[i]] for i in range(5)]
    assert all(len(positions) == 1 for row in found for positions in row)
    # All 25 positions are drawn, and images do not share their draws.
    assert {positions[0] for row in found for positions in row} == set(range(25))
    assert found[0] != found[1]


def test_random_crops_follow_the_seed(images: torch.Tensor) -> None:
    first, again, other = (
        random_crops(images, 16, 3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_crop_of_the_whole_image(images: torch.Tensor) -> None:
    crops = random_crops(images, 20, 2, torch.Generator().manual_seed(0))
    assert torch.equal(crops, (images.float() / 255)[:, None].expand(-1, 2, -1, -1))
