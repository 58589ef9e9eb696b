"""One film file as 8-bit pixels: PNG, JPEG or DICOM, told apart by content, not by name."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import png
from PIL import Image, ImageFile, ImageOps

from uar.core.errors import UserError
from uar.data.dicom import (
    DAMAGE,
    coloured,
    kind_of,
    read_dicom,
    read_view,
    refuse_constant,
    refuse_huge,
    stretch_percentiles,
)
from uar.data.jpeg import EARLY, Jpeg

if TYPE_CHECKING:
    from uar.data.study import View

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in Pillow
_PNG, _JPEG, _DICOM = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"DICM"


# Groups 0002 and 0008 in either byte order: how a DICOM file without a preamble begins.
_FIRST_ELEMENTS = {
    pack(f"{order}HH", group, element)
    for order in "<>"
    for group, element in ((2, 0), (2, 1), (2, 2), (8, 0), (8, 1), (8, 5), (8, 8), (8, 18), (8, 22))
}
_OTHERS = {
    b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"%PDF": "PDF",
    b"PK\3\4": "ZIP", b"\x1f\x8b": "gzip", b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
}  # fmt: skip


@dataclass(frozen=True)
class FilmLimits:
    """What one film may cost, in `ingest`, `report` and `serve` alike.

    Attributes:
        file_bytes: size of its file.
        seconds: time to decode it.
        memory: bytes that decoding may take.
    """

    file_bytes: int = 64_000_000
    seconds: float = 30.0
    memory: int = 3_000_000_000


LIMITS = FilmLimits()


@dataclass(frozen=True)
class Film:
    """A decoded film."""

    pixels: np.ndarray  # (H, W) uint8, bone bright
    view: View  # as a DICOM header states it, else unknown
    header_failed: bool = False  # its transforms left one gray value; percentiles are used
    modality: str = ""  # a term of `uar.data.dicom`; "" where no header states one
    body_part: str = ""  # likewise
    coloured: float = 0.0  # share of coloured pixels
    shape: tuple[int, int] | None = None  # (H, W) as decoded, if `pixels` have another size

    @property
    def shorter_side(self) -> int:
        """Length of the shorter side as decoded, in pixels."""
        return min(self.shape or self.pixels.shape)


def read_film(path: Path) -> Film:
    """Decode one PNG, JPEG or DICOM file.

    Raises:
        UserError: the file is absent, cannot be decoded or does not hold exactly one film.
    """
    return decode_film(io.BytesIO(film_bytes(path)), str(path))


def film_bytes(path: Path) -> bytes:
    """The bytes of a film's file, at most one more than `decode_film` accepts.

    Raises:
        UserError: the file is absent or cannot be read.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        with path.open("rb") as stream:  # `read` allocates what it is asked for
            return stream.read(min(path.stat().st_size, LIMITS.file_bytes) + 1)
    except OSError as error:
        raise UserError(f"{str(path)[:200]}: cannot be read ({kind_of(error)})") from None


def stated_view(path: Path) -> View:
    """The view that a DICOM file's header states, read without the pixels; else "unknown"."""
    if not path.is_file():
        return "unknown"
    with path.open("rb") as stream:
        is_dicom = stream.read(132)[128:] == _DICOM
        stream.seek(0)
        return read_view(stream) if is_dicom else "unknown"


def decode_film(stream: BinaryIO, name: str) -> Film:
    """Decode one PNG, JPEG or DICOM file that is already open.

    Args:
        stream: seekable, at its start.
        name: the film's name, for messages.

    Raises:
        UserError: it cannot be decoded or does not hold exactly one film.
    """
    try:
        if stream.seek(0, os.SEEK_END) > LIMITS.file_bytes:
            raise UserError(f"a file of more than {LIMITS.file_bytes:,} bytes")
        stream.seek(0)
        head = stream.read(132)
        stream.seek(0)
        if head[128:] == _DICOM:
            return Film(*read_dicom(stream))
        if head.startswith((_PNG, _JPEG)):
            pixels, share = _read_pillow(stream)
            return Film(pixels, "unknown", coloured=share)
        raise UserError(f"not a PNG, JPEG or DICOM file{_instead(head)}")
    except UserError as reason:
        raise UserError(f"{name}: {reason}") from None


def _instead(head: bytes) -> str:
    """A clause that says what a file that begins with `head` is; "" if that is not known."""
    if len(head) >= 8 and head[:4] in _FIRST_ELEMENTS:
        return (
            ", but it looks like a DICOM file that lacks its preamble of 128 bytes and DICM; add "
            "them, for example with dcmconv"
        )
    known = (name for start, name in _OTHERS.items() if head.startswith(start))
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ", but a WebP file"
    name = next(known, None)
    return f", but a {name} file" if name else ""


def squash(pixels: np.ndarray, size: int) -> np.ndarray:
    """Squash a film `(H, W)` uint8 to a packed image, `(size, size)` uint8, of box means."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX))


def standardised(films: np.ndarray) -> np.ndarray:
    """Films `(N, H, W)` of any dtype as rows of mean 0 and deviation 1, `(N, H W)` float64."""
    flat = films.reshape(len(films), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(flat.std(axis=1, keepdims=True), 1e-6)


def _read_pillow(stream: BinaryIO) -> tuple[np.ndarray, float]:
    """Read a film turned as EXIF says: colour as luma, no transparency, 16 bits by percentiles.

    Also return the share of coloured pixels.
    """
    try:
        pixels, share = _stored_gray(stream.read())
    except UserError:
        raise
    except (*DAMAGE, SyntaxError, Image.DecompressionBombError, png.Error) as error:
        raise UserError(f"cannot be decoded ({kind_of(error)})") from None
    if pixels.dtype == np.uint8:
        return refuse_constant(pixels), share
    return stretch_percentiles(pixels), share


def _stored_gray(data: bytes) -> tuple[np.ndarray, float]:
    """A PNG or JPEG as gray, `(H, W)` uint8 or uint16, and the share of coloured pixels."""
    jpeg = None
    if data.startswith(_PNG):
        _refuse_cut_png(data)
    else:
        jpeg = Jpeg.of(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refuse_huge handles it
        with _open(data) as opened:
            refuse_huge(opened.width, opened.height)
            if jpeg is not None:
                _refuse_short(jpeg, opened)
            image: Image.Image = opened
            gray = opened.mode.startswith(("1", "L", "I"))
            share = 0.0 if gray else coloured(np.asarray(opened.convert("RGB")))
            if jpeg is None and data[_BIT_DEPTH] == 16:
                # Pillow keeps only the high bytes, except for plain gray
                image = _deep_png(data, opened)
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I"):
                return np.asarray(image).astype(np.uint16), share
            return np.asarray(image.convert("L")), share


def _open(data: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))


def _refuse_cut_png(data: bytes) -> None:
    """Raise UserError for a PNG without its last chunk, even if no pixel is missing."""
    at = len(_PNG)
    while (kind := data[at + 4 : at + 8]) and kind != b"IEND":
        at += 12 + int.from_bytes(data[at : at + 4], "big")  # length, kind and checksum
    if at + 12 > len(data):
        raise UserError(f"cannot be decoded ({EARLY})")


def _refuse_short(jpeg: Jpeg, opened: Image.Image) -> None:
    """Raise UserError for a JPEG whose data end before its picture does."""
    pixels = np.asarray(opened)
    last = pixels[(opened.height - 1) // 8 * 8 :, (opened.width - 1) // 8 * 8 :]
    made_up = (last == last[0, 0]).all()  # libjpeg fills in blocks of one value
    if made_up or opened.info.get("progressive"):
        jpeg.refuse_short(pixels, lambda longer: np.asarray(_open(longer)))


_BIT_DEPTH = 24  # offset of the bits per channel in a PNG's header


def _deep_png(data: bytes, opened: Image.Image) -> Image.Image:
    """A 16-bit PNG as 16-bit gray, colour as luma, with the EXIF data of `opened`."""
    if opened.mode.startswith("I"):
        return opened
    exif = opened.getexif()
    width, height, rows, info = png.Reader(bytes=data).read()
    gray = np.empty((height, width), np.uint16)
    for line, row in zip(gray, rows, strict=True):  # row by row, as floats take much memory
        channels = np.asarray(row, dtype=np.float64).reshape(width, info["planes"])
        line[:] = (channels[:, 0] if info["greyscale"] else channels[:, :3] @ _LUMA).round()
    image = Image.fromarray(gray)
    image.getexif().update(exif)
    return image
