"""DICOM films as pixels: value transforms, compression, refusals, and no patient data."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGExtended12Bit

from tests import public_films
from tests.conftest import CLASS_NAME, ROOT
from tests.film_files import SYNTAXES, compress, lut, save_dicom
from uar.core.errors import UserError
from uar.data.films import read_film

WIDE = np.array([[0, 100, 400], [1000, 2000, 4095]], dtype=np.uint16)
SIGNED = np.array([[-2000, -100, 0], [300, 1000, 2000]], dtype=np.int16)


def decoded(path: Path) -> np.ndarray:
    film = read_film(path).pixels
    assert film.dtype == np.uint8
    return film.astype(float)


def stretched(values: np.ndarray) -> np.ndarray:
    """The least value to 0, the greatest to 255."""
    values = values.astype(np.float64)
    return (values - values.min()) / (values.max() - values.min()) * 255


def assert_within_one(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found - expected).max() <= 1


# ---- value transforms


@pytest.mark.parametrize("pixels", [WIDE, SIGNED, (WIDE >> 4).astype(np.uint8)])
def test_monochrome2_is_stretched(tmp_path: Path, pixels: np.ndarray) -> None:
    assert_within_one(decoded(save_dicom(tmp_path / "film.dcm", pixels)), stretched(pixels))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "film.dcm", WIDE, PhotometricInterpretation="MONOCHROME1")
    assert_within_one(decoded(path), 255 - stretched(WIDE))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_an_old_overlay_above_the_bits_stored_is_ignored(
    tmp_path: Path, bits: int, kind: type
) -> None:
    pixels = (WIDE >> (13 - min(bits, 13))).astype(kind)
    overlaid = (pixels.view(np.uint16) | np.uint16(1 << 15)).view(kind)
    path = save_dicom(tmp_path / "film.dcm", overlaid, BitsStored=bits, HighBit=bits - 1)
    with pytest.raises(UserError, match=f"need more bits than BitsStored, which is {bits}"):
        read_film(path)
    film = pydicom.dcmread(path)
    film.add_new((0x6002, 0x0100), "US", 16)  # Overlay Bits Allocated: in the pixels' words
    film.add_new((0x6002, 0x0102), "US", 15)  # Overlay Bit Position
    film.save_as(path)
    assert_within_one(decoded(path), stretched(pixels))


@pytest.mark.parametrize("compression", [None, "RLE"])
@pytest.mark.parametrize("bits", [8, 10, 12, 15])
def test_values_above_the_bits_stored_do_not_wrap_round(
    tmp_path: Path, bits: int, compression: str | None
) -> None:
    most = 2**bits - 1
    tags = {"BitsStored": bits, "HighBit": bits - 1}
    for greatest in (most, most + 1, 65535):
        pixels = np.linspace(0, greatest, 6).astype(np.uint16).reshape(2, 3)
        path = save_dicom(tmp_path / "film.dcm", pixels, **tags)
        if compression:
            compress(path, compression)
        if greatest == most:
            assert_within_one(decoded(path), stretched(pixels))
        else:
            with pytest.raises(UserError, match=f"need more bits than BitsStored, which is {bits}"):
                read_film(path)


@pytest.mark.parametrize("bits", [10, 12, 15])
@pytest.mark.parametrize("extended", [True, False])
def test_negative_values_of_fewer_bits(tmp_path: Path, bits: int, extended: bool) -> None:
    """Their sign may be extended over the unused bits, or these be zero."""
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    pixels = np.linspace(least, most, 6).astype(np.int16).reshape(2, 3)
    stored = pixels if extended else pixels & np.int16(2**bits - 1)
    path = save_dicom(tmp_path / "film.dcm", stored, BitsStored=bits, HighBit=bits - 1)
    assert_within_one(decoded(path), stretched(pixels))
    if extended:  # and so one more than the greatest is not the least without its sign
        stored = np.where(pixels == most, np.int16(most + 1), stored)
        path = save_dicom(tmp_path / "film.dcm", stored, BitsStored=bits, HighBit=bits - 1)
        with pytest.raises(UserError, match="need more bits than BitsStored"):
            read_film(path)


def test_seven_of_eight_bits(tmp_path: Path) -> None:
    pixels = np.array([[0, 100, 127]], dtype=np.uint8)
    tags = {"BitsStored": 7, "HighBit": 6}
    path = save_dicom(tmp_path / "film.dcm", pixels, **tags)
    assert_within_one(decoded(path), stretched(pixels))
    path = save_dicom(tmp_path / "film.dcm", pixels + np.uint8(1), **tags)
    with pytest.raises(UserError, match="need more bits than BitsStored, which is 7"):
        read_film(path)


@pytest.mark.parametrize("pixels", [WIDE, SIGNED])
def test_big_endian(tmp_path: Path, pixels: np.ndarray) -> None:
    path = save_dicom(tmp_path / "film.dcm", pixels, WindowCenter=500, WindowWidth=3000)
    plain = decoded(path)
    film = pydicom.dcmread(path)
    turned = pydicom.Dataset()
    turned.update({element.tag: element for element in film})
    turned.file_meta = film.file_meta
    turned.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    turned.PixelData = pixels.byteswap().tobytes()
    turned.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(decoded(path), plain)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_window_clips(tmp_path: Path, photometric: str) -> None:
    path = save_dicom(
        tmp_path / "film.dcm",
        WIDE,
        PhotometricInterpretation=photometric,
        WindowCenter=[600, 2000],  # the first of two windows counts
        WindowWidth=[1001, 4000],
    )
    # PS3.3, C.11.2.1.2.1: linear from c - 0.5 - (w - 1) / 2 to c - 0.5 + (w - 1) / 2.
    low, high = 599.5 - 500, 599.5 + 500
    expected = (np.clip(WIDE, low, high) - low) / (high - low) * 255
    film = decoded(path)
    assert_within_one(film, 255 - expected if photometric == "MONOCHROME1" else expected)
    assert film[1, 1] == film[1, 2]  # both above the window


def test_window_linear_exact(tmp_path: Path) -> None:
    path = save_dicom(
        tmp_path / "film.dcm",
        WIDE,
        WindowCenter=600,
        WindowWidth=1000,
        VOILUTFunction="LINEAR_EXACT",
    )
    assert_within_one(decoded(path), (np.clip(WIDE, 100, 1100) - 100) / 1000 * 255)


def test_window_sigmoid(tmp_path: Path) -> None:
    tags = {"WindowCenter": 1000, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"}
    path = save_dicom(tmp_path / "film.dcm", WIDE, **tags)
    expected = 1 / (1 + np.exp(-4 * (WIDE.astype(float) - 1000) / 1500))  # C.11.2.1.3.1
    assert_within_one(decoded(path), stretched(expected))


@pytest.mark.parametrize("slope", [2, -2])
def test_window_is_in_rescaled_units(tmp_path: Path, slope: int) -> None:
    path = save_dicom(
        tmp_path / "film.dcm",
        WIDE,
        RescaleSlope=slope,
        RescaleIntercept=-1000 if slope > 0 else 3000,
        WindowCenter=200,
        WindowWidth=1601,
    )
    low, high = 199.5 - 800, 199.5 + 800
    rescaled = WIDE * float(slope) + (-1000 if slope > 0 else 3000)
    assert_within_one(decoded(path), stretched(np.clip(rescaled, low, high)))


def test_negative_slope_inverts(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "film.dcm", WIDE, RescaleSlope=-1, RescaleIntercept=4095)
    assert_within_one(decoded(path), 255 - stretched(WIDE))


def test_modality_lut_comes_before_the_window(tmp_path: Path) -> None:
    table = (4095 - np.arange(4096)).astype(np.uint16)
    path = save_dicom(
        tmp_path / "film.dcm",
        WIDE,
        ModalityLUTSequence=[lut(table, 0, 16)],
        WindowCenter=3000.5,
        WindowWidth=2001,
    )
    assert_within_one(decoded(path), stretched(np.clip(4095 - WIDE.astype(int), 2000, 4000)))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_voi_lut_counts_before_a_window(tmp_path: Path, kind: type) -> None:
    """Of 8 bits over 3,000 values from 500 on; values beyond take the ends."""
    table = (np.linspace(0, 1, 3000) ** 2 * 255).astype(kind)
    path = save_dicom(
        tmp_path / "film.dcm",
        WIDE,
        VOILUTSequence=[lut(table, 500, 8)],
        WindowCenter=10,
        WindowWidth=10,
    )
    expected = table[np.clip(WIDE.astype(int) - 500, 0, 2999)]
    assert_within_one(decoded(path), stretched(expected))


@pytest.mark.parametrize("tags", [{}, {"WindowCenter": 50, "WindowWidth": 0}])
def test_without_a_window_percentiles_are_the_window(tmp_path: Path, tags: dict[str, Any]) -> None:
    pixels = np.random.default_rng(0).integers(1000, 2000, (100, 100)).astype(np.uint16)
    pixels[0, :20] = 65535  # burnt-in markers
    pixels[1, :20] = 0
    low, high = np.percentile(pixels, [0.5, 99.5])
    assert low >= 1000 and high < 2000
    expected = stretched(np.clip(pixels, low, high))
    assert_within_one(decoded(save_dicom(tmp_path / "film.dcm", pixels, **tags)), expected)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("pixels", "padding"),
    [(WIDE, (4095, None)), (WIDE, (2000, 4095)), (SIGNED, (-2000, None)), (SIGNED, (-2000, -100))],
)
def test_padding_is_black_and_out_of_the_stretch(
    tmp_path: Path, photometric: str, pixels: np.ndarray, padding: tuple[int, int | None]
) -> None:
    value, limit = padding
    path = save_dicom(tmp_path / "film.dcm", pixels, PhotometricInterpretation=photometric)
    film = pydicom.dcmread(path)
    film.add_new("PixelPaddingValue", "SS" if pixels is SIGNED else "US", value)
    if limit is not None:
        film.add_new("PixelPaddingRangeLimit", "SS" if pixels is SIGNED else "US", limit)
    film.save_as(path)
    padded = (pixels >= value) & (pixels <= (value if limit is None else limit))
    expected = stretched(pixels[~padded])
    shown = decoded(path)
    assert_within_one(shown[~padded], 255 - expected if photometric == "MONOCHROME1" else expected)
    assert (shown[padded] == 0).all()


def test_empty_elements_count_as_absent(tmp_path: Path) -> None:
    tags = {"WindowCenter": "", "WindowWidth": "", "RescaleSlope": "", "RescaleIntercept": ""}
    path = save_dicom(tmp_path / "film.dcm", WIDE, **tags)
    assert_within_one(decoded(path), stretched(WIDE))


def test_one_frame_counts_as_a_film(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "film.dcm", WIDE, NumberOfFrames=1)
    assert_within_one(decoded(path), stretched(WIDE))


def test_colour_becomes_its_luma(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], dtype=np.uint8)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    film = decoded(save_dicom(tmp_path / "film.dcm", pixels, **tags))
    assert_within_one(film, np.array([[0.299 * 255, 0.587 * 255, 0.114 * 255, 90]]))


# ---- headers that leave one gray value of many

RAMP = np.linspace(12000, 30000, 64 * 64).astype(np.uint16).reshape(64, 64)
FLAT = np.full(16, 9, dtype=np.uint16)
USELESS: dict[str, dict[str, Any]] = {
    "window below": {"WindowCenter": 3174, "WindowWidth": 2426},
    "window above": {"WindowCenter": 60000, "WindowWidth": 2000},
    "exact": {"WindowCenter": 3174, "WindowWidth": 2426, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid below": {"WindowCenter": 3174, "WindowWidth": 2426, "VOILUTFunction": "SIGMOID"},
    "sigmoid above": {"WindowCenter": 60000, "WindowWidth": 2426, "VOILUTFunction": "SIGMOID"},
    "sigmoid near": {"WindowCenter": 5000, "WindowWidth": 4000, "VOILUTFunction": "SIGMOID"},
    "two sigmoids": {
        "WindowCenter": [3174, 60000],
        "WindowWidth": [2426, 900],
        "VOILUTFunction": "SIGMOID",
    },
    "sigmoid and slope 0": {
        "RescaleSlope": 0,
        "RescaleIntercept": 5,
        "WindowCenter": 5,
        "WindowWidth": 10,
        "VOILUTFunction": "SIGMOID",
    },
    "two windows": {"WindowCenter": [3174, 100], "WindowWidth": [2426, 50]},
    "slope 0": {"RescaleSlope": 0, "RescaleIntercept": 0},
    "slope 0 and a window": {
        "RescaleSlope": 0,
        "RescaleIntercept": 5,
        "WindowCenter": 5,
        "WindowWidth": 10,
    },
    "intercept": {
        "RescaleSlope": 1,
        "RescaleIntercept": -1000000,
        "WindowCenter": 3174,
        "WindowWidth": 2426,
    },
    "constant VOI LUT": {"VOILUTSequence": [lut(FLAT, 0, 16)]},
    "constant modality LUT": {"ModalityLUTSequence": [lut(FLAT, 0, 16)]},
}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("case", USELESS)
def test_a_useless_header_gives_way_to_percentiles(
    tmp_path: Path, case: str, photometric: str
) -> None:
    tags = {"PhotometricInterpretation": photometric, **USELESS[case]}
    film = read_film(save_dicom(tmp_path / "film.dcm", RAMP, **tags))
    plain = save_dicom(tmp_path / "plain.dcm", RAMP, PhotometricInterpretation=photometric)
    np.testing.assert_array_equal(film.pixels, read_film(plain).pixels)
    assert film.header_failed and not read_film(plain).header_failed
    assert len(np.unique(film.pixels)) == 256


CURVE = (np.linspace(0, 1, 4096) ** 2 * 65535).astype(np.uint16)
DEEP = np.linspace(0, 4000, 900).astype(np.uint16).reshape(30, 30)


def short_lut(entries: int, stated: int, bits: int = 16) -> pydicom.Dataset:
    item = lut(CURVE[:entries], 0, bits)
    item.LUTDescriptor = [stated, 0, bits]
    return item


@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize(
    ("entries", "stated"), [(4095, 4096), (4090, 4096), (4096, 0), (4096, 4096), (4060, 4096)]
)
def test_a_lut_with_few_entries_missing_is_read_as_far_as_it_goes(
    tmp_path: Path, sequence: str, entries: int, stated: int
) -> None:
    tags = {sequence: [short_lut(entries, stated)]}
    if sequence == "ModalityLUTSequence":
        tags |= {"WindowCenter": 32768, "WindowWidth": 65536}
    film = read_film(save_dicom(tmp_path / "film.dcm", DEEP, **tags))
    assert_within_one(film.pixels, stretched(CURVE[DEEP].astype(float)))
    assert not film.header_failed


@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize(("entries", "bits"), [(2048, 16), (2048, 12), (1, 16), (3000, 8)])
def test_a_lut_with_many_entries_missing_gives_way(
    tmp_path: Path, sequence: str, entries: int, bits: int
) -> None:
    tags = {sequence: [short_lut(entries, 4096, bits)]}
    if bits == 8:  # words of 16 bits that hold 8, too few of them
        tags = {sequence: [short_lut(1000, 4096, bits)]}
    film = read_film(save_dicom(tmp_path / "film.dcm", DEEP, **tags))
    assert film.header_failed
    plain = read_film(save_dicom(tmp_path / "plain.dcm", DEEP))
    np.testing.assert_array_equal(film.pixels, plain.pixels)
    window = {"WindowCenter": 1000, "WindowWidth": 500}
    if sequence == "VOILUTSequence":
        film = read_film(save_dicom(tmp_path / "next.dcm", DEEP, **tags, **window))
        alone = read_film(save_dicom(tmp_path / "alone.dcm", DEEP, **window))
        np.testing.assert_array_equal(film.pixels, alone.pixels)
        assert not film.header_failed


@pytest.mark.parametrize("slope", ["1e300", "1e39", "1e30", "1e-3", "1e-12", "1e-30", "1"])
@pytest.mark.parametrize("intercept", ["0", "-1e12", "-1e15", "1e300", "-1e-300"])
def test_extreme_rescale_values_leave_no_black_film(
    tmp_path: Path, slope: str, intercept: str
) -> None:
    tags = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    film = read_film(save_dicom(tmp_path / "film.dcm", DEEP, **tags))
    plain = read_film(save_dicom(tmp_path / "plain.dcm", DEEP))
    assert_within_one(film.pixels, plain.pixels.astype(int))
    values = DEEP.astype(float) * float(slope) + float(intercept)
    swallowed = len(np.unique(values)) < len(np.unique(DEEP))
    assert film.header_failed == (swallowed or not np.isfinite(values).all())


def test_a_blank_lut_item_counts_as_absent(tmp_path: Path) -> None:
    window = {"WindowCenter": 1000, "WindowWidth": 500}
    blank = pydicom.Dataset()
    empty = pydicom.Dataset()
    empty.add_new("LUTDescriptor", "US", None)
    empty.add_new("LUTData", "OW", None)
    expected = read_film(save_dicom(tmp_path / "plain.dcm", DEEP, **window))
    for i, items in enumerate(([blank], [empty], [blank, empty])):
        for sequence in ("VOILUTSequence", "ModalityLUTSequence"):
            path = save_dicom(tmp_path / f"{i}.dcm", DEEP, **{sequence: items}, **window)
            np.testing.assert_array_equal(read_film(path).pixels, expected.pixels)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_useless_first_window_gives_way_to_the_second(
    tmp_path: Path, photometric: str, function: str
) -> None:
    tags = {"PhotometricInterpretation": photometric, "VOILUTFunction": function}
    both = {"WindowCenter": [3174, 20000], "WindowWidth": [2426, 8001], **tags}
    alone = {"WindowCenter": 20000, "WindowWidth": 8001, **tags}
    film = read_film(save_dicom(tmp_path / "both.dcm", RAMP, **both))
    expected = read_film(save_dicom(tmp_path / "alone.dcm", RAMP, **alone))
    np.testing.assert_array_equal(film.pixels, expected.pixels)
    assert not film.header_failed


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_narrow_window_is_the_headers_right(tmp_path: Path, function: str) -> None:
    tags = {"WindowCenter": 20000, "WindowWidth": 40, "VOILUTFunction": function}
    film = read_film(save_dicom(tmp_path / "film.dcm", RAMP, **tags))
    assert not film.header_failed
    assert 2 < len(np.unique(film.pixels)) < 40
    assert (film.pixels == 0).sum() > 1000 and (film.pixels == 255).sum() > 1000


# ---- compression

SMOOTH = (2000 + 1500 * np.sin(np.arange(64) / 9)[:, None] * np.cos(np.arange(48) / 7)).astype(
    np.uint16
)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_transfer_syntax(tmp_path: Path, syntax: str, photometric: str) -> None:
    tags = {"PhotometricInterpretation": photometric}
    pixels = SMOOTH
    if syntax == "JPEG baseline":
        pixels = (SMOOTH >> 4).astype(np.uint8)
    else:
        tags |= {"BitsStored": 12, "HighBit": 11}
    path = save_dicom(tmp_path / "film.dcm", pixels, **tags)
    plain = decoded(path)
    size = path.stat().st_size
    compressed = pydicom.dcmread(compress(path, syntax))
    assert compressed.file_meta.TransferSyntaxUID.is_compressed
    assert path.stat().st_size < size
    loss = 3 if syntax in ("JPEG baseline", "JPEG 2000") else 0
    assert np.abs(decoded(path) - plain).max() <= loss


def test_signed_values_survive_compression(tmp_path: Path) -> None:
    signed = SMOOTH.astype(np.int16) - 2000
    path = save_dicom(tmp_path / "film.dcm", signed)
    plain = decoded(path)
    np.testing.assert_array_equal(decoded(compress(path, "JPEG 2000 lossless")), plain)


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_jpeg_2000_of_any_depth_has_the_pixels_it_was_made_of(
    tmp_path: Path, bits: int, signed: bool
) -> None:
    kind = f"{'i' if signed else 'u'}{1 if bits == 8 else 2}"
    values = np.random.default_rng(bits).integers(0, 2**bits, (64, 48)) - signed * 2 ** (bits - 1)
    path = save_dicom(tmp_path / "x.dcm", values.astype(kind), BitsStored=bits, HighBit=bits - 1)
    plain = decoded(path)
    np.testing.assert_array_equal(decoded(compress(path, "JPEG 2000 lossless")), plain)


# ---- the view


@pytest.mark.parametrize(
    ("position", "view"),
    [
        ("PA", "frontal"),
        ("AP", "frontal"),
        ("LL", "lateral"),
        ("RL", "lateral"),
        ("LATERAL", "lateral"),
        ("LAO", "unknown"),
        ("", "unknown"),
    ],
)
def test_view_is_the_headers(tmp_path: Path, position: str, view: str) -> None:
    assert read_film(save_dicom(tmp_path / "f.dcm", WIDE, ViewPosition=position)).view == view


def test_view_is_unknown_where_the_header_has_none(tmp_path: Path) -> None:
    assert read_film(save_dicom(tmp_path / "f.dcm", WIDE)).view == "unknown"


# ---- refusals

PATIENT = {
    "PatientName": "Quagga^Zebedee",
    "PatientID": "ID-424242",
    "PatientBirthDate": "not-a-date Quagga",  # invalid: a parser would complain and quote it
    "AccessionNumber": "ACC-424242-longer-than-the-sixteen-characters-allowed",
}


def as_syntax(path: Path, uid: str) -> None:
    """Claim another transfer syntax for a compressed file."""
    compress(path, "JPEG lossless")
    film = pydicom.dcmread(path)
    film.file_meta.TransferSyntaxUID = uid
    film.save_as(path, enforce_file_format=False)


def cut_frame(path: Path) -> None:
    compress(path, "JPEG lossless")
    film = pydicom.dcmread(path)
    film.PixelData = film.PixelData[:60] + bytes(40) + film.PixelData[-8:]
    film.save_as(path)


def cut_file(path: Path) -> None:
    compress(path, "JPEG lossless SV1")
    path.write_bytes(path.read_bytes()[:-40])


def with_element(path: Path, keyword: str, vr: str, value: str) -> None:
    """Write an element in another value representation than the standard's."""
    film = pydicom.dcmread(path)
    if keyword in film:
        del film[keyword]
    film.add_new(keyword, vr, value)
    film.save_as(path)


def with_lut(path: Path, sequence: str, keyword: str, value: Any) -> None:
    """Give the film a LUT one of whose elements is other than it should be, or not there."""
    item = lut(np.arange(16, dtype=np.uint16), 0, 16)
    if value is None:
        del item[keyword]
    else:
        item[keyword].value = value
    film = pydicom.dcmread(path)
    setattr(film, sequence, [item])
    film.save_as(path)


FRAMES = np.zeros((2, 4, 5), dtype=np.uint16)
REFUSED: dict[str, tuple[np.ndarray | None, dict[str, Any], Any, str]] = {
    "no pixels": (None, {}, None, "a DICOM file without pixels"),
    "no rows": (WIDE, {"Rows": None}, None, "a DICOM file without Rows"),
    "frames unsaid": (FRAMES, {"Rows": 4, "Columns": 5}, None, "pixels of shape (2, 4, 5)"),
    "no sign": (WIDE, {"PixelRepresentation": None}, None, "a DICOM file without PixelRepresent"),
    "no samples": (WIDE, {"SamplesPerPixel": None}, None, "a DICOM file without SamplesPerPixel"),
    "two functions": (
        WIDE,
        {"VOILUTFunction": ["LINEAR", "SIGMOID"]},
        None,
        "VOILUTFunction is not one of",
    ),
    "odd function": (WIDE, {"VOILUTFunction": "CUBIC"}, None, "VOILUTFunction is not one of"),
    "high bit": (
        WIDE,
        {"BitsStored": 12, "HighBit": 15},
        None,
        "HighBit is 15 with BitsStored 12, expected 11",
    ),
    "bits stored": (
        WIDE,
        {"BitsStored": 17, "HighBit": 16},
        None,
        "BitsStored is 17, expected 1 to BitsAllo",
    ),
    "high bit above": (WIDE, {"BitsStored": 12, "HighBit": 12}, None, "HighBit is 12 with BitsS"),
    "high bit below": (WIDE, {"BitsStored": 12, "HighBit": 10}, None, "HighBit is 10 with BitsS"),
    "no bits stored": (
        WIDE,
        {"BitsStored": 0, "HighBit": 0},
        None,
        "BitsStored is 0, expected 1 to BitsAllo",
    ),
    "two of rows": (WIDE, {"Rows": [2, 3]}, None, "Rows has 2 values, expected one"),
    "two of bits stored": (WIDE, {"BitsStored": [12, 16]}, None, "BitsStored has 2 values"),
    "two photometric": (
        WIDE,
        {"PhotometricInterpretation": ["MONOCHROME1", "MONOCHROME2"]},
        None,
        "PhotometricInterpretation has 2 values",
    ),
    "two slopes": (
        WIDE,
        {"RescaleSlope": [1, 2], "RescaleIntercept": 0},
        None,
        "RescaleSlope has 2 values",
    ),
    "two intercepts": (
        WIDE,
        {"RescaleSlope": 1, "RescaleIntercept": [0, 1]},
        None,
        "RescaleIntercept has 2 values",
    ),
    "two frame counts": (WIDE, {"NumberOfFrames": [1, 1]}, None, "NumberOfFrames has 2 values"),
    "no frames": (WIDE, {"NumberOfFrames": 0}, None, "0 frames, expected one film"),
    "rows of 0": (WIDE, {"Rows": 0}, None, "Rows is 0, expected at least 1"),
    "samples of 0": (WIDE, {"SamplesPerPixel": 0}, None, "SamplesPerPixel is 0"),
    "samples of 2": (WIDE, {"SamplesPerPixel": 2}, None, "pixels cannot be decoded"),
    "two pads": (WIDE, {"PixelPaddingValue": [0, 1]}, None, "PixelPaddingValue has 2 values"),
    "text as rows": (
        WIDE,
        {},
        lambda path: with_element(path, "Rows", "LO", "2"),
        "Rows is not a number",
    ),
    "text as bits": (
        WIDE,
        {},
        lambda path: with_element(path, "BitsStored", "LO", "16"),
        "BitsStored is not a number",
    ),
    "text as window": (
        WIDE,
        {"WindowWidth": 9},
        lambda path: with_element(path, "WindowCenter", "LO", "wide"),
        "WindowCenter is not a number",
    ),
    "text as slope": (
        WIDE,
        {"RescaleIntercept": 0},
        lambda path: with_element(path, "RescaleSlope", "LO", "one"),
        "RescaleSlope is not a number",
    ),
    "VOI LUT without data": (
        WIDE,
        {},
        lambda path: with_lut(path, "VOILUTSequence", "LUTData", None),
        "VOILUTSequence has no LUTData",
    ),
    "VOI LUT without descriptor": (
        WIDE,
        {},
        lambda path: with_lut(path, "VOILUTSequence", "LUTDescriptor", None),
        "VOILUTSequence has no LUTDescriptor",
    ),
    "VOI LUT of no entries": (
        WIDE,
        {},
        lambda path: with_lut(path, "VOILUTSequence", "LUTData", b""),
        "VOILUTSequence has no LUTData",
    ),
    "modality LUT of two numbers": (
        WIDE,
        {},
        lambda path: with_lut(path, "ModalityLUTSequence", "LUTDescriptor", [16, 0]),
        "LUTDescriptor of ModalityLUTSequence is not three numbers",
    ),
    "colour of signed bytes": (
        np.zeros((4, 4, 3), dtype=np.int8),
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
        None,
        "RGB of 8 bits; expected grayscale",
    ),
    "constant colour": (
        np.full((4, 4, 3), 90, dtype=np.uint8),
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
        None,
        "every pixel has the same value",
    ),
    "constant in 8 bits": (np.full((4, 4), 9, np.uint8), {}, None, "every pixel has the same"),
    "constant within padding": (
        np.array([[0, 0, 7], [7, 7, 0]], dtype=np.uint16),
        {"PixelPaddingValue": 0},
        None,
        "every pixel has the same value or is padding",
    ),
    "constant": (WIDE * 0 + 7, {}, None, "every pixel has the same value"),
    "constant under a window": (
        WIDE * 0 + 7,
        {"WindowCenter": 3, "WindowWidth": 5},
        None,
        "every pixel has the same value",
    ),
    "frames": (
        FRAMES,
        {"Rows": 4, "Columns": 5, "NumberOfFrames": 2},
        None,
        "2 frames, expected one film",
    ),
    "palette": (
        WIDE,
        {"PhotometricInterpretation": "PALETTE COLOR"},
        None,
        "PALETTE COLOR of 16 bits; expected grayscale of 8 or 16",
    ),
    "32 bits": (WIDE.astype(np.uint32), {}, None, "MONOCHROME2 of 32 bits"),
    "too few pixels": (
        WIDE,
        {"PixelData": WIDE.tobytes()[:6]},
        None,
        "the file ends early, after 6 of",
    ),
    "huge": (WIDE, {"Rows": 60000, "Columns": 60000}, None, "60000 x 60000 pixels, more than"),
    "all padding": (WIDE * 0, {"PixelPaddingValue": 0}, None, "every pixel is padding"),
    "video": (
        SMOOTH,
        {},
        lambda path: as_syntax(path, "1.2.840.10008.1.2.4.100"),
        "transfer syntax MPEG2 Main Profile / Main Level: no decoder is installed",
    ),
    "private syntax": (
        SMOOTH,
        {},
        lambda path: as_syntax(path, "1.2.3.4.5"),
        "transfer syntax 1.2.3.4.5: no decoder is installed",
    ),
    "broken frame": (SMOOTH, {}, cut_frame, "a JPEG whose data end before its picture does"),
    "frame cut short": (
        SMOOTH,
        {},
        cut_file,
        "the file ends early, within its pixels",
    ),
    "12-bit JPEG": (
        SMOOTH,
        {"BitsStored": 12, "HighBit": 11},
        lambda path: as_syntax(path, JPEGExtended12Bit),
        "12-bit JPEG (JPEG Extended (Process 2 and 4)): no installed decoder reads 12 bits",
    ),
}


def deflated(path: Path, padding: int = 0) -> Path:
    """A film in the deflated syntax, followed by an element of so many zeros."""
    film = pydicom.dcmread(save_dicom(path, WIDE))
    film.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    if padding:
        film.add_new((0xFFFC, 0xFFFC), "OB", bytes(padding))  # trailing padding
    film.save_as(path, enforce_file_format=True)
    return path


def test_a_deflated_film_is_read(tmp_path: Path) -> None:
    plain = read_film(save_dicom(tmp_path / "plain.dcm", WIDE)).pixels
    for padding in (0, 10_000_000):
        path = deflated(tmp_path / "film.dcm", padding)
        np.testing.assert_array_equal(read_film(path).pixels, plain)


def test_a_deflated_bomb_is_refused_before_it_fills_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deflated(tmp_path / "film.dcm", 300_000_000)
    assert path.stat().st_size < 1_000_000
    monkeypatch.setattr(pydicom, "dcmread", lambda *_, **__: pytest.fail("it is read whole"))
    tracemalloc.start()
    with pytest.raises(UserError, match="a deflated file of more than 256,000,000 bytes"):
        read_film(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore")  # of pydicom, in writing what is wrong by intent
@pytest.mark.parametrize("case", REFUSED)
def test_refusals_have_a_reason_and_name_no_patient(
    tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pixels, tags, change, reason = REFUSED[case]
    path = save_dicom(tmp_path / "film.dcm", pixels, **PATIENT, **tags)
    if change is not None:
        change(path)
    assert b"Quagga" in path.read_bytes()
    capfd.readouterr()
    caplog.clear()
    with pytest.raises(UserError) as caught:
        read_film(path)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert not CLASS_NAME.search(str(caught.value))
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    said = str(caught.value) + "".join(capfd.readouterr()) + caplog.text
    assert not any(word in said for word in ("Quagga", "424242"))


@pytest.mark.filterwarnings("ignore")
def test_reading_a_film_warns_of_no_patient(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save_dicom(tmp_path / "film.dcm", WIDE, **PATIENT, ViewPosition="PA")
    recwarn.clear()
    capfd.readouterr()
    film = read_film(path)
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")
    assert not any(word in repr(film) for word in ("Quagga", "424242"))


@pytest.mark.parametrize("syntax", ["JPEG baseline", "JPEG lossless", "JPEG lossless SV1"])
def test_a_jpeg_frame_of_less_data_than_its_picture_is_refused(tmp_path: Path, syntax: str) -> None:
    """Pillow and, if it goes far enough, GDCM fill up what lacks."""
    path = compress(save_dicom(tmp_path / "x.dcm", (SMOOTH // 16).astype(np.uint8)), syntax)
    film = pydicom.dcmread(path)
    frame = get_frame(film.PixelData, 0, number_of_frames=1).rstrip(b"\0")
    read_film(path)
    for share in (0.5, 0.8, 0.95):
        film.PixelData = encapsulate([frame[: int(len(frame) * share)] + b"\xff\xd9"])
        film.save_as(path)
        with pytest.raises(UserError, match="x.dcm: (a JPEG whose data end|pixels cannot be dec)"):
            read_film(path)


def test_what_becomes_of_pydicoms_own_files() -> None:
    """Each is read or refused in a sentence; docs/data.md has the table of the pinned release."""
    shown = public_films.table()
    assert "| read |" in shown
    assert not CLASS_NAME.search(shown) and "Error" not in shown
    pinned = f"pydicom=={pydicom.__version__}\n" in (ROOT / "constraints.txt").read_text()
    assert not pinned or shown in (ROOT / "docs" / "data.md").read_text()
