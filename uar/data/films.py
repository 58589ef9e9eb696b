"""One film file as 8-bit pixels: PNG, JPEG or DICOM, told apart by content, not by name."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import png
from PIL import Image, ImageOps

from uar.core.errors import UserError
from uar.data.dicom import (
    DAMAGE,
    kind_of,
    read_dicom,
    read_view,
    refuse_constant,
    refuse_huge,
    stretch_percentiles,
)

if TYPE_CHECKING:
    from uar.data.study import View

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's
_PNG, _JPEG, _DICOM = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"DICM"


@dataclass(frozen=True)
class Film:
    """A decoded film."""

    pixels: np.ndarray  # (H, W) uint8, bone bright
    view: View  # as a DICOM header states it, else unknown
    header_failed: bool = False  # its transforms left one gray value; percentiles stand in


def read_film(path: Path) -> Film:
    """Decode one PNG, JPEG or DICOM file.

    Raises:
        UserError: the file is absent, cannot be decoded or holds no single film.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as stream:
            return decode_film(stream, str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({kind_of(error)})") from None


def stated_view(path: Path) -> View:
    """The view that a DICOM file's header states, read without the pixels; else "unknown"."""
    if not path.is_file():
        return "unknown"
    with path.open("rb") as stream:
        is_dicom = stream.read(132)[128:] == _DICOM
        stream.seek(0)
        return read_view(stream) if is_dicom else "unknown"


def decode_film(stream: BinaryIO, name: str) -> Film:
    """Decode one PNG, JPEG or DICOM file that is open.

    Args:
        stream: seekable, at its start.
        name: of the film, for messages.

    Raises:
        UserError: it cannot be decoded or holds no single film.
    """
    try:
        head = stream.read(132)
        stream.seek(0)
        if head[128:] == _DICOM:
            return Film(*read_dicom(stream))
        if head.startswith((_PNG, _JPEG)):
            return Film(_read_pillow(stream), "unknown")
        raise UserError("not a PNG, JPEG or DICOM file")
    except UserError as reason:
        raise UserError(f"{name}: {reason}") from None


def squash(pixels: np.ndarray, size: int) -> np.ndarray:
    """A film `(H, W)` uint8 as a packed image, `(size, size)` uint8: each pixel a box's mean."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX))


def _read_pillow(stream: BinaryIO) -> np.ndarray:
    """Turned as EXIF says; colour as luma, transparency ignored, 16 bits by percentiles."""
    try:
        pixels = _stored_gray(stream)
    except UserError:
        raise
    except (*DAMAGE, SyntaxError, Image.DecompressionBombError, png.Error) as error:
        raise UserError(f"cannot be decoded ({kind_of(error)})") from None
    return refuse_constant(pixels) if pixels.dtype == np.uint8 else stretch_percentiles(pixels)


def _stored_gray(stream: BinaryIO) -> np.ndarray:
    """A PNG or JPEG as gray, `(H, W)` uint8 or uint16."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refuse_huge sees to it
        with Image.open(stream, formats=("PNG", "JPEG")) as opened:
            refuse_huge(opened.width, opened.height)
            image: Image.Image = opened
            if opened.format == "PNG" and _bit_depth(stream) == 16:
                # Pillow keeps the high bytes of all but plain gray
                image = _deep_png(stream, opened)
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I"):
                return np.asarray(image).astype(np.uint16)
            return np.asarray(image.convert("L"))


def _bit_depth(stream: BinaryIO) -> int:
    """Bits of a channel, of a PNG file's header; the stream stays where it is."""
    place = stream.tell()
    stream.seek(24)
    depth = stream.read(1)[0]
    stream.seek(place)
    return depth


def _deep_png(stream: BinaryIO, opened: Image.Image) -> Image.Image:
    """A PNG of 16 bits as gray of 16 bits, colour as luma, with the EXIF data of `opened`."""
    if opened.mode.startswith("I"):
        return opened
    exif = opened.getexif()  # Pillow reads on in the same stream
    stream.seek(0)
    width, height, rows, info = png.Reader(file=stream).read()
    values = np.vstack([np.asarray(row, dtype=np.uint16) for row in rows])
    channels = values.reshape(height, width, info["planes"]).astype(np.float64)
    gray = channels[..., 0] if info["greyscale"] else channels[..., :3] @ _LUMA
    image = Image.fromarray(gray.round().astype(np.uint16))
    image.getexif().update(exif)
    return image
