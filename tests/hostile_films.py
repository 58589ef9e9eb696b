"""Films that cost a decoder minutes or gigabytes, or that lack what they seem to have.

python -m tests.hostile_films     # seconds and memory of decoding each
"""

from __future__ import annotations

import io
import re
import resource
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit

from tests.costs import Cost, cost_of
from tests.film_files import dicom
from uar.core.errors import UserError
from uar.data.isolation import FilmDecoder

SIDE = 8000  # pixels: 64 million, the most that a film may have
END = b"\xff\xd9"  # of a JPEG


def jpeg(**options: object) -> bytes:
    """A JPEG of 300 x 300 pixels of smooth gray."""
    coarse = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((300, 300)).save(stream, "JPEG", **options)
    return stream.getvalue()


def with_size(data: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its header."""
    frame = re.search(rb"\xff[\xc0\xc2]\x00\x0b\x08", data)
    assert frame is not None
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return data[: frame.end()] + size + data[frame.end() + 4 :]


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose first scan is repeated `count` times."""
    data = jpeg(progressive=True)
    first = data.index(b"\xff\xda")
    scan = data[first : data.index(b"\xff\xc4", first)]
    return data[:first] + count * scan + data[first:]


def cut_between_scans() -> bytes:
    """A progressive JPEG with only its first two scans."""
    data = jpeg(progressive=True)
    third = [found.start() for found in re.finditer(b"\xff\xda", data)][2]
    return data[:third] + END


def png(width: int, height: int, bits: int, colour: int, pixels: bytes, text: bytes = b"") -> bytes:
    """A PNG of deflated `pixels`, and of deflated `text`, if any, in a text chunk."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        ending = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + ending

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    said = chunk(b"zTXt", b"Comment\0\0" + text) if text else b""
    body = chunk(b"IHDR", header) + said + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def deflated(pieces: Iterator[bytes]) -> bytes:
    """Compress, in zlib's format, data that is never in memory as a whole."""
    press = zlib.compressobj(1)
    return b"".join([*map(press.compress, pieces), press.flush()])


def deep_colour_png() -> bytes:
    """A PNG of 16 bits and three colours, each row predicted by Paeth's filter, the slowest."""
    row = b"\4" + bytes(6 * SIDE)
    rows = (row if y else b"\4" + bytes(6 * SIDE - 1) + b"\1" for y in range(SIDE))
    return png(SIDE, SIDE, 16, 2, deflated(rows))


def text_bomb() -> bytes:
    """A small PNG with a gigabyte of text."""
    pixels = zlib.compress(b"\0ab\0cd")
    return png(2, 2, 8, 0, pixels, deflated(bytes(10**6) for _ in range(1000)))


def file_of(film: Dataset) -> bytes:
    """The bytes of a DICOM film's file."""
    stream = io.BytesIO()
    film.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def dicom_of(frame: bytes, side: int) -> bytes:
    """A DICOM file of one JPEG frame."""
    film = dicom(np.zeros((8, 8), np.uint8))
    film.Rows = film.Columns = side
    film.PixelData = encapsulate([frame])
    film["PixelData"].is_undefined_length = True
    film.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return file_of(film)


def dicom_bomb() -> bytes:
    """A deflated DICOM file of a gigabyte of zeros."""
    film = dicom(np.zeros((8, 8), np.uint8))
    film.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = file_of(film)
    start = 144 + int.from_bytes(whole[140:144], "little")
    press = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    zeros = (bytes(10**6) for _ in range(1000))
    return whole[:start] + b"".join([*map(press.compress, zeros), press.flush()])


FILMS: dict[str, Callable[[], bytes]] = {
    "progressive JPEG of 3,000 scans": partial(with_scans, 3000),
    "progressive JPEG cut between scans, closed again": cut_between_scans,
    "JPEG cut in the middle, closed again": lambda: jpeg()[:4000] + END,
    "JPEG cut in the middle": lambda: jpeg()[:4000],
    f"JPEG of 300 x 300, header of {SIDE} x {SIDE}": lambda: with_size(jpeg(), SIDE, SIDE),
    "JPEG, header of 60,000 x 60,000": lambda: with_size(jpeg(), 60_000, 60_000),
    "PNG without its last chunk": lambda: png(2, 2, 8, 0, zlib.compress(b"\0ab\0cd"))[:-12],
    "PNG, header of 60,000 x 60,000": lambda: png(60_000, 60_000, 8, 0, zlib.compress(b"\0ab")),
    "PNG with 1 GB of deflated text": text_bomb,
    "DICOM of a JPEG of 3,000 scans": lambda: dicom_of(with_scans(3000), 300),
    "DICOM of a JPEG cut between scans": lambda: dicom_of(cut_between_scans(), 300),
    f"DICOM of a JPEG of 300 x 300, {SIDE} x {SIDE}": lambda: dicom_of(
        with_size(jpeg(), SIDE, SIDE), SIDE
    ),
    "deflated DICOM of 1 GB": dicom_bomb,
}
# As large as a film may be: decoded, or refused once the time is up.
LARGEST = {f"PNG of 16-bit colour, {SIDE} x {SIDE}": deep_colour_png}


def decoded(data: bytes) -> str:
    """Decode a film as `serve`, `report` and Python do, and return how that ended."""
    decoder = FilmDecoder(128)
    try:
        decoder.decode(data, "film")
    except UserError as reason:
        return f"refused: {str(reason).removeprefix('film: ')}"
    finally:
        decoder.close()
    return "decoded"


def cost_of_decoding(data: bytes) -> Cost:
    """How decoding ended, with seconds and bytes of the decoding process, including its start."""
    return cost_of(partial(decoded, data), resource.RUSAGE_CHILDREN)


def main() -> None:
    """Print what each costs, in a small process, as its children's peaks would include its size."""
    print("| film | ended | s of CPU | MB |\n|---|---|---|---|")
    for name, make in ({"a whole one": jpeg} | FILMS | LARGEST).items():
        ended, seconds, memory = cost_of_decoding(make())
        print(f"| {name} | {ended} | {seconds:.2f} | {memory / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
