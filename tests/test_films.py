"""PNG and JPEG films as pixels, and files that are no film."""

from __future__ import annotations

import errno
import io
import re
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from tests.conftest import CLASS_NAME, ROOT
from tests.film_files import save, save_dicom
from tests.hostile_films import with_scans, with_size
from uar.core.errors import UserError
from uar.data.dicom import kind_of
from uar.data.films import LIMITS, decode_film, read_film
from uar.data.jpeg import Jpeg

GRAY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def pixels_of(path: Path) -> np.ndarray:
    return read_film(path).pixels


def test_png_8_bit_is_read_as_it_is(tmp_path: Path) -> None:
    film = read_film(save(tmp_path / "film.png", GRAY))
    assert film.pixels.dtype == np.uint8
    np.testing.assert_array_equal(film.pixels, GRAY)
    assert film.view == "unknown"


@pytest.mark.parametrize("name", ["FILM.PNG", "film.jpg", "film.dcm", "film"])
def test_a_file_is_what_it_holds_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "film.png", GRAY).rename(tmp_path / name)
    np.testing.assert_array_equal(pixels_of(path), GRAY)


def test_png_16_bit_is_stretched_over_its_range(tmp_path: Path) -> None:
    pixels = np.array([[1000, 1051], [1102, 1255]], dtype=np.uint16)  # a range of exactly 255
    np.testing.assert_array_equal(
        pixels_of(save(tmp_path / "film.png", pixels)), [[0, 51], [102, 255]]
    )


def write_deep(path: Path, channels: np.ndarray, kind: int) -> Path:
    """A PNG of 16 bits: `channels` (H, W, C) and its colour type (PNG, 11.2.2)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    height, width, _ = channels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize(
    ("kind", "gray", "alpha"),
    [(0, 1, 0), (4, 1, 1), (2, 3, 0), (6, 3, 1)],
    ids=["L", "LA", "RGB", "RGBA"],
)
def test_png_16_bit_of_any_kind_fills_the_range(
    tmp_path: Path, kind: int, gray: int, alpha: int, top: int
) -> None:
    ramp = np.linspace(0, top, 4096).round().astype(np.uint16).reshape(64, 64, 1)
    channels = np.concatenate([ramp] * gray + [np.full_like(ramp, 65535)] * alpha, axis=2)
    film = pixels_of(write_deep(tmp_path / "film.png", channels, kind))
    low, high = np.sort(ramp.ravel())[[20, 4075]]
    expected = (np.clip(ramp[..., 0].astype(float), low, high) - low) / (high - low) * 255
    assert np.abs(film - expected).max() <= 1
    assert len(np.unique(film)) > 200


@pytest.mark.parametrize("outliers", [1, 5, 15])
def test_a_few_bright_pixels_leave_the_rest_its_range(tmp_path: Path, outliers: int) -> None:
    ramp = np.linspace(0, 4095, 4096).astype(np.uint16)
    ramp[:outliers] = 65535
    film = pixels_of(save(tmp_path / "film.png", ramp.reshape(64, 64)))
    assert film.ravel()[2048] in range(126, 130)
    header_less = pixels_of(save_dicom(tmp_path / "film.dcm", ramp.reshape(64, 64)))
    np.testing.assert_array_equal(film, header_less)


def test_png_16_bit_of_one_value_is_a_bad_image(tmp_path: Path) -> None:
    path = save(tmp_path / "film.png", np.full((4, 4), 3000, dtype=np.uint16))
    with pytest.raises(UserError, match="every pixel has the same value"):
        read_film(path)


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "CMYK", "1"])
def test_a_film_of_one_value_is_a_bad_image(tmp_path: Path, mode: str, value: int) -> None:
    pixels = np.full((16, 16), value, dtype=np.uint8)
    suffixes = {"L": ("png", "jpg"), "RGB": ("png", "jpg"), "CMYK": ("jpg",)}.get(mode, ("png",))
    for suffix in suffixes:
        path = save(tmp_path / f"film.{suffix}", pixels, "L" if mode == "1" else mode)
        if mode == "1":
            Image.fromarray(pixels > 127).save(path)
        with pytest.raises(UserError, match="every pixel has the same value"):
            read_film(path)


@pytest.mark.parametrize("kind", [0, 2, 4, 6])
def test_16_bits_of_one_value_are_a_bad_image(tmp_path: Path, kind: int) -> None:
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    path = write_deep(tmp_path / "film.png", np.full((4, 4, channels), 3000, np.uint16), kind)
    with pytest.raises(UserError, match="every pixel has the same value"):
        read_film(path)


def test_two_values_are_a_film(tmp_path: Path) -> None:
    pixels = np.full((16, 16), 7, dtype=np.uint8)
    pixels[3, 3] = 8
    np.testing.assert_array_equal(pixels_of(save(tmp_path / "film.png", pixels)), pixels)


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(5, "no"), OSError(116, "no")])
@pytest.mark.parametrize("at", ["open", "read"])
def test_an_error_of_the_system_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, at: str
) -> None:
    path = save(tmp_path / "film.png", GRAY)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(*((Path, "open", fail) if at == "open" else (Image, "open", fail)))
    with pytest.raises(UserError) as caught:
        read_film(path)
    assert str(caught.value).startswith(f"{path}: cannot be ") and "(no)" in str(caught.value)


@pytest.mark.parametrize("error", [MemoryError(), AssertionError("ours"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", ["film.png", "film.dcm"])
def test_what_is_no_fault_of_the_file_is_no_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, name: str
) -> None:
    path = (save_dicom if name.endswith("dcm") else save)(tmp_path / name, GRAY)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    monkeypatch.setattr("pydicom.dcmread", fail)
    with pytest.raises(type(error)):
        read_film(path)


def test_our_own_mistakes_are_not_the_films(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens after decoding is not caught as damage."""
    monkeypatch.setattr("uar.data.films.refuse_constant", lambda pixels: pixels.nothing)
    monkeypatch.setattr("uar.data.dicom._window", lambda levels, counts, film: levels.nothing)
    for path in (save(tmp_path / "a.png", GRAY), save_dicom(tmp_path / "b.dcm", GRAY)):
        with pytest.raises(AttributeError, match="nothing"):
            read_film(path)


def test_jpeg_is_read_to_within_its_loss(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    film = pixels_of(save(tmp_path / "film.jpg", ramp, quality=95))
    assert film.shape == (64, 64)
    assert np.abs(film.astype(int) - ramp).max() <= 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_gray_stored_in_colour_stays_gray(tmp_path: Path, mode: str) -> None:
    np.testing.assert_array_equal(pixels_of(save(tmp_path / "film.png", GRAY, mode)), GRAY)


@pytest.mark.parametrize("mode", [None, "RGBA", "P"])
def test_colours_become_their_luma(tmp_path: Path, mode: str | None) -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    film = pixels_of(save(tmp_path / "film.png", pixels, mode)).astype(float)
    np.testing.assert_allclose(film, np.array([[0.299, 0.587, 0.114]]) * 255, atol=1)


def test_transparency_is_ignored(tmp_path: Path) -> None:
    pixels = np.dstack([GRAY, GRAY, GRAY, np.zeros_like(GRAY)])
    np.testing.assert_array_equal(pixels_of(save(tmp_path / "film.png", pixels)), GRAY)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    pixels = np.repeat(np.array([[30, 220]], dtype=np.uint8), 16, axis=1).repeat(16, axis=0)
    film = pixels_of(save(tmp_path / "film.jpg", pixels, "CMYK", quality=100))
    assert np.abs(film.astype(int) - pixels).max() <= 3


@pytest.mark.parametrize("name", ["film.png", "film.jpg"])
def test_exif_orientation_is_applied(tmp_path: Path, name: str) -> None:
    pixels = np.zeros((16, 32), dtype=np.uint8)
    pixels[:, 16:] = 200  # the right half is bright
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned right by 90 degrees: right becomes bottom
    film = pixels_of(save(tmp_path / name, pixels, exif=exif, **{"quality": 100}))
    assert film.shape == (32, 16)
    assert film[:15].max() < 10 and film[17:].min() > 190


def png_of_size(path: Path, width: int, height: int) -> Path:
    """A PNG whose header promises a size that its few pixels do not fill."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    return path


def cut(path: Path, share: float = 0.6) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
NO_FILM = "not a PNG, JPEG or DICOM file"
BAD: dict[str, tuple[str, Any, str]] = {
    "PNG cut short": ("a.png", lambda p: cut(save(p, NOISE)), "decoded (the file ends early)"),
    "JPEG cut short": ("a.jpg", lambda p: cut(save(p, NOISE)), "decoded (the file ends early)"),
    "PNG header alone": ("a.png", lambda p: cut(save(p, NOISE), 0.01), "the file ends early"),
    "WebP as PNG": ("a.png", lambda p: save(p, NOISE, format="WEBP"), "file, but a WebP file"),
    "GIF as JPEG": ("a.jpg", lambda p: save(p, NOISE, format="GIF"), "but a GIF file"),
    "BMP as PNG": ("a.png", lambda p: save(p, NOISE, format="BMP"), "but a BMP file"),
    "TIFF as PNG": ("a.png", lambda p: save(p, NOISE, format="TIFF"), "but a TIFF file"),
    "PDF as PNG": ("a.png", lambda p: p.write_bytes(b"%PDF-1.4\n" * 20), "but a PDF file"),
    "ZIP as DICOM": ("a.dcm", lambda p: p.write_bytes(b"PK\3\4" + bytes(200)), "but a ZIP file"),
    "JPEG 2000 as PNG": ("a.png", lambda p: save(p, NOISE, format="JPEG2000"), "but a JPEG 2000"),
    "DICOM without preamble": (
        "a.dcm",
        lambda p: p.write_bytes(save_dicom(p, NOISE).read_bytes()[132:]),
        "looks like a DICOM file that lacks its preamble of 128 bytes and DICM",
    ),
    "text as PNG": ("a.png", lambda p: p.write_text("this is a report"), NO_FILM),
    "text as JPEG": ("a.jpg", lambda p: p.write_text("this is a report"), NO_FILM),
    "text as DICOM": ("a.dcm", lambda p: p.write_text("report " * 40), NO_FILM),
    "empty": ("a.png", lambda p: p.write_bytes(b""), NO_FILM),
    "GIF": ("a.png", lambda p: save(p, NOISE, format="GIF"), NO_FILM),
    "absent": ("a.png", lambda p: None, "no such file"),
    "folder": ("a.png", lambda p: p.mkdir(), "no such file"),
    "bomb": ("a.png", lambda p: png_of_size(p, 9000, 9000), "9000 x 9000 pixels, more than 64,"),
    "large bomb": ("a.png", lambda p: png_of_size(p, 60000, 60000), "more than 64,000,000 pixels"),
    "DICOM cut short": (
        "a.dcm",
        lambda p: cut(save_dicom(p, NOISE)),
        "the file ends early, after",
    ),
}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Image.DecompressionBombError("60000 x 60000"), "more than 64,000,000 pixels"),
        (EOFError("Quagga"), "the file ends early"),
        (OSError("image file is truncated (5 bytes not processed)"), "the file ends early"),
        (OSError("broken data stream when reading image file"), "damaged"),
        (UnidentifiedImageError("cannot identify Quagga"), "damaged"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (zlib.error("Error -3 while decompressing data"), "compressed data are damaged"),
        (struct.error("unpack requires a buffer of 4 bytes"), "a value is cut off"),
        (NotImplementedError("Quagga"), "a decoder is missing"),
        (
            RuntimeError("Unable to decode: Quagga"),
            "damaged, or of a kind that no installed decoder reads",
        ),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (SyntaxError("broken PNG file"), "damaged"),
        (ValueError("Quagga"), "damaged"),
        (KeyError("Quagga"), "damaged"),
    ],
)
def test_what_a_decoder_raises_is_said_in_words_of_our_own(error: Exception, said: str) -> None:
    assert kind_of(error) == said


@pytest.mark.parametrize("case", BAD)
def test_unreadable_file_is_named_with_its_reason(tmp_path: Path, case: str) -> None:
    name, make, reason = BAD[case]
    path = tmp_path / name
    make(path)
    with pytest.raises(UserError) as caught:
        read_film(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert not CLASS_NAME.search(str(caught.value))


# ---- what a film may cost, and pictures that end early


def jpeg(margin: int = 0, **options: Any) -> bytes:
    """Blobs of gray, 300 x 300 pixels and a black margin below."""
    coarse = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((300, 300)))
    stream = io.BytesIO()
    Image.fromarray(np.pad(pixels, ((0, margin), (0, 0)))).save(stream, "JPEG", **options)
    return stream.getvalue()


KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "with restarts": {"restart_marker_blocks": 8},
    "progressive": {"progressive": True},
}


def short_of(data: bytes, end: int) -> bytes:
    """A JPEG cut at a byte and closed again."""
    return data[:end] + b"\xff\xd9"


def refused(data: bytes) -> str:
    with pytest.raises(UserError) as caught:
        decode_film(io.BytesIO(data), "x")
    assert not CLASS_NAME.search(str(caught.value))
    return str(caught.value)


SHORT = "x: a JPEG whose data end before its picture does"


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_of_less_data_than_its_picture_is_refused(kind: str) -> None:
    data = jpeg(**KINDS[kind])
    for size in ((320, 320), (300, 600), (600, 300), (3000, 3000)):
        assert refused(with_size(data, *size)) == SHORT
    first = data.index(b"\xff\xda") + 20
    for end in range(first, len(data) - 40, 211):
        assert refused(short_of(data, end)) in (SHORT, "x: cannot be decoded (damaged)")
        assert refused(data[:end]) == "x: cannot be decoded (the file ends early)"


def test_a_progressive_jpeg_cut_between_scans_is_refused() -> None:
    """Its picture has all its pixels, and they are blurred."""
    data = jpeg(progressive=True)
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    tables = [data.rindex(b"\xff\xc4", 0, scan) for scan in scans]
    assert len(scans) == 6
    for end in [*scans[1:], *tables[1:]]:
        assert Image.open(io.BytesIO(short_of(data, end))).convert("L").size == (300, 300)
        assert refused(short_of(data, end)) == SHORT


def test_a_jpeg_short_of_a_colour_is_refused() -> None:
    """Each colour in a scan of its own, and the last one is lacking."""
    pixels = np.repeat(np.asarray(Image.open(io.BytesIO(jpeg())))[..., None], 3, 2)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    components = {data[scan + 5] for scan in scans if data[scan + 4] == 1}
    assert components == {1, 2, 3}
    for scan in scans[1:]:
        assert refused(short_of(data, scan)) == SHORT
    Jpeg.of(data)


@pytest.mark.parametrize("margin", [0, 1, 40, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_jpeg_is_not_whatever_its_margin(kind: str, margin: int) -> None:
    data = jpeg(margin, **KINDS[kind])
    for trailing in (b"", b"\0\0", b"\n", bytes(10_000), data):
        found = decode_film(io.BytesIO(data + trailing), "x").pixels
        np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(data))))


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    assert refused(with_scans(145)) == "x: a JPEG of more than 150 scans"
    decode_film(io.BytesIO(with_scans(144)), "x")


@pytest.mark.parametrize(("dtype", "lacking"), [(np.uint8, 12), (np.uint8, 1), (np.uint16, 12)])
def test_a_png_without_its_end_is_refused(dtype: type, lacking: int) -> None:
    """Though no pixel is lacking: what cut the file off may have cut more."""
    stream = io.BytesIO()
    Image.fromarray(NOISE.astype(dtype) * (np.iinfo(dtype).max // 255)).save(stream, "PNG")
    data = stream.getvalue()
    assert refused(data[:-lacking]) == "x: cannot be decoded (the file ends early)"
    decode_film(io.BytesIO(data + b"more"), "x")


def test_a_file_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", GRAY)
    with path.open("r+b") as file:
        file.truncate(LIMITS.file_bytes)
    read_film(path)
    with path.open("r+b") as file:
        file.truncate(LIMITS.file_bytes + 1)
    with pytest.raises(UserError, match=r"x.png: a file of more than 64,000,000 bytes"):
        read_film(path)
    with pytest.raises(UserError, match="cannot be read .File name too long"):
        read_film(tmp_path / ("x" * 300))


PACKED = """
from dataclasses import replace
from pathlib import Path
from uar.data import packing
packing.LIMITS = replace(packing.LIMITS, seconds={seconds})
task = packing._Task(0, [packing.Slot("x.png", 0)], Path("."), Path("rows"), 0, 16, "")
print(packing._pack(task).faults)
"""


@pytest.mark.parametrize(("seconds", "ended"), [(0.05, -signal.SIGPROF), (60, 0)])
def test_a_film_that_takes_too_long_ends_its_worker(
    tmp_path: Path, seconds: float, ended: int
) -> None:
    """`ingest` then names it: tests/test_ingest.py has a worker that dies."""
    write_deep(tmp_path / "x.png", np.arange(1000 * 1000 * 3).reshape(1000, 1000, 3), kind=2)
    (tmp_path / "rows").write_bytes(bytes(256))
    done = subprocess.run(
        [sys.executable, "-c", PACKED.format(seconds=seconds)],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == ended, done.stderr
