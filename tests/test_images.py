"""Films of every file kind as pixels, views and crops, the packed array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from uar.errors import UserError
from uar.images import crops_at, drop_studies, pack_images, read_film, read_packed, resize_view

GRAY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def save_dicom(path: Path, pixels: np.ndarray | None, **tags: Any) -> Path:
    """A DICOM file of uint16 or uint8 `pixels`, `tags` set over the defaults."""
    film = pydicom.Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = CTImageStorage
    film.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["film"])
    film.SOPClassUID = CTImageStorage
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID
    if pixels is not None:
        bits = pixels.dtype.itemsize * 8
        film.SamplesPerPixel = 1
        film.PhotometricInterpretation = "MONOCHROME2"
        film.Rows, film.Columns = pixels.shape[:2]
        film.BitsAllocated, film.BitsStored, film.HighBit = bits, bits, bits - 1
        film.PixelRepresentation = 0
        film.PixelData = pixels.tobytes()
    for tag, value in tags.items():
        setattr(film, tag, value)
    film.save_as(path, enforce_file_format=True)
    return path


def stretched(values: np.ndarray) -> np.ndarray:
    """The least value to 0, the greatest to 255."""
    values = values.astype(np.float64)
    return np.rint((values - values.min()) / (values.max() - values.min()) * 255)


def assert_within_one(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.uint8
    assert np.abs(found.astype(float) - expected).max() <= 1


def test_png_8_bit_is_read_as_it_is(tmp_path: Path) -> None:
    film = read_film(save(tmp_path / "film.png", GRAY))
    assert film.dtype == np.uint8
    np.testing.assert_array_equal(film, GRAY)


def test_ending_in_capitals(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_film(save(tmp_path / "FILM.PNG", GRAY)), GRAY)
    wide = save_dicom(tmp_path / "FILM.DCM", GRAY)
    assert_within_one(read_film(wide), stretched(GRAY))


def test_png_16_bit_is_stretched_over_its_range(tmp_path: Path) -> None:
    pixels = np.array([[1000, 1051], [1102, 1255]], dtype=np.uint16)  # a range of exactly 255
    np.testing.assert_array_equal(
        read_film(save(tmp_path / "film.png", pixels)), [[0, 51], [102, 255]]
    )


def test_png_16_bit_of_one_value_is_black(tmp_path: Path) -> None:
    pixels = np.full((4, 4), 3000, dtype=np.uint16)
    np.testing.assert_array_equal(read_film(save(tmp_path / "film.png", pixels)), np.zeros((4, 4)))


def test_jpeg_is_read_to_within_its_loss(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    film = read_film(save(tmp_path / "film.jpg", ramp, quality=95))
    assert film.shape == (64, 64)
    assert np.abs(film.astype(int) - ramp).max() <= 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_gray_stored_in_colour_stays_gray(tmp_path: Path, mode: str) -> None:
    np.testing.assert_array_equal(read_film(save(tmp_path / "film.png", GRAY, mode)), GRAY)


def test_colours_become_their_luma(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    film = read_film(save(tmp_path / "film.png", pixels))
    assert_within_one(film, np.array([[0.299, 0.587, 0.114]]) * 255)


def test_transparency_is_ignored(tmp_path: Path) -> None:
    pixels = np.dstack([GRAY, GRAY, GRAY, np.zeros_like(GRAY)])
    np.testing.assert_array_equal(read_film(save(tmp_path / "film.png", pixels)), GRAY)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    pixels = np.repeat(np.array([[30, 220]], dtype=np.uint8), 16, axis=1).repeat(16, axis=0)
    film = read_film(save(tmp_path / "film.jpg", pixels, "CMYK", quality=100))
    assert np.abs(film.astype(int) - pixels).max() <= 3


WIDE = np.array([[0, 100, 400], [1000, 2000, 4095]], dtype=np.uint16)


def test_monochrome2_is_stretched(tmp_path: Path) -> None:
    assert_within_one(read_film(save_dicom(tmp_path / "film.dcm", WIDE)), stretched(WIDE))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "film.dcm", WIDE, PhotometricInterpretation="MONOCHROME1")
    assert_within_one(read_film(path), 255 - stretched(WIDE))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_window_clips(tmp_path: Path, photometric: str) -> None:
    path = save_dicom(
        tmp_path / "film.dcm",
        WIDE,
        PhotometricInterpretation=photometric,
        WindowCenter=600,
        WindowWidth=1001,
    )
    # DICOM PS3.3, C.11.2.1.2: linear from c - 0.5 - (w - 1) / 2 to c - 0.5 + (w - 1) / 2.
    low, high = 599.5 - 500, 599.5 + 500
    expected = (np.clip(WIDE, low, high) - low) / (high - low) * 255
    film = read_film(path)
    assert_within_one(film, 255 - expected if photometric == "MONOCHROME1" else expected)
    assert film[1, 1] == film[1, 2]  # both above the window


def test_window_is_in_rescaled_units(tmp_path: Path) -> None:
    path = save_dicom(
        tmp_path / "film.dcm",
        WIDE,
        RescaleSlope=2,
        RescaleIntercept=-1000,
        WindowCenter=200,
        WindowWidth=1601,
    )
    low, high = 199.5 - 800, 199.5 + 800
    expected = (np.clip(WIDE * 2.0 - 1000, low, high) - low) / (high - low) * 255
    assert_within_one(read_film(path), expected)


def test_negative_slope_inverts(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "film.dcm", WIDE, RescaleSlope=-1, RescaleIntercept=4095)
    assert_within_one(read_film(path), 255 - stretched(WIDE))


def truncated_png(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    save(path, noise)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def text_file(path: Path) -> Path:
    path.write_text("this is a report, not a film")
    return path


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("film.png", truncated_png),
        ("film.png", text_file),
        ("film.jpg", text_file),
        ("film.dcm", text_file),
        ("film.dcm", lambda path: save_dicom(path, None)),
        ("film.dcm", lambda path: save_dicom(path, WIDE, PixelData=WIDE.tobytes()[:6])),
    ],
    ids=["truncated", "text.png", "text.jpg", "text.dcm", "without pixels", "too few pixels"],
)
def test_unreadable_film_is_named(tmp_path: Path, name: str, make: Any) -> None:
    path = make(tmp_path / name)
    with pytest.raises(UserError) as caught:
        read_film(path)
    assert str(caught.value).startswith(f"{path}: cannot be decoded (")


def test_absent_film_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone.png: no such file"):
        read_film(tmp_path / "gone.png")


def test_colour_dicom_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((4, 5, 3), dtype=np.uint8)
    path = save_dicom(
        tmp_path / "film.dcm",
        pixels,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
    )
    with pytest.raises(UserError, match=r"film.dcm: pixel array of shape \(4, 5, 3\), expected"):
        read_film(path)


def test_multi_frame_dicom_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((2, 4, 5), dtype=np.uint16)
    path = save_dicom(tmp_path / "film.dcm", pixels, Rows=4, Columns=5, NumberOfFrames=2)
    with pytest.raises(UserError, match=r"film.dcm: pixel array of shape \(2, 4, 5\), expected"):
        read_film(path)


def test_packing_averages_blocks_and_reports_bad_rows(tmp_path: Path) -> None:
    blocks = np.kron([[0, 60], [120, 180]], np.ones((4, 8))).astype(np.uint8)
    blocks[::2, ::2] += 4  # a quarter of each block: its mean rises by 1
    paths = [
        save(tmp_path / "a.png", blocks),
        tmp_path / "gone.png",
        save(tmp_path / "c.png", np.full((3, 5), 7, dtype=np.uint8)),
    ]
    bad = pack_images(paths, 2, tmp_path / "packed.npy")
    assert bad == {1: f"{tmp_path / 'gone.png'}: no such file"}
    packed = np.load(tmp_path / "packed.npy")
    assert packed.dtype == np.uint8
    assert packed.tolist() == [[[1, 61], [121, 181]], [[0, 0], [0, 0]], [[7, 7], [7, 7]]]


def test_drop_studies_keeps_the_rows_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "packed.npy"
    rows = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 3, 3), dtype=np.uint8)
    np.save(path, rows)
    drop_studies(path, {0, 3}, images_per_study=2)
    assert np.load(path)[:, 0, 0].tolist() == [2, 3, 4, 5, 8, 9]
    assert np.load(path).dtype == np.uint8
    assert [file.name for file in tmp_path.iterdir()] == ["packed.npy"]


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
