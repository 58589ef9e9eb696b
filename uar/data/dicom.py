"""A DICOM film as 8-bit pixels and its view.

Only the elements in `_TAGS` are ever read from a file's header, and no decoder's own message is
passed on, so a patient's name, identifier or dates can reach neither an output nor a log.

Section numbers refer to DICOM PS3.3 (https://dicom.nema.org/medical/dicom/current/output/html/part03.html).
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate, get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels import apply_rescale, apply_windowing, get_decoder
from pydicom.tag import Tag
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
)

from uar.core.errors import UserError
from uar.data.jpeg import EARLY, Jpeg

if TYPE_CHECKING:
    from uar.data.study import View

MAX_PIXELS = 64_000_000  # of a film; the largest detectors have about 15 million
_MOST_INFLATED = 4 * MAX_PIXELS  # bytes of an inflated file: 16-bit pixels and as much header
_PIECE = 2**16  # bytes
_META_START = 128 + 4 + 12  # preamble, "DICM" and the group length, which counts from here
_GROUP_LENGTH = b"\x02\x00\x00\x00"  # its tag
SAME = "every pixel has the same value"  # why an image is rejected
_PERCENTILES = (0.5, 99.5)  # the window of a film whose header has none

_VIEWS: dict[str, View] = {
    "PA": "frontal",
    "AP": "frontal",
    "LL": "lateral",
    "RL": "lateral",
    "LATERAL": "lateral",
}
# Values of Modality (C.7.3.1.1.1) and BodyPartExamined (PS3.16, annex L) that are passed on. Any
# other value could be anything, even a name.
RADIOGRAPHY = ("CR", "DX", "RG", "RF", "PX", "IO")
NO_RADIOGRAPHY = {
    "CT": "computed tomography",
    "MR": "magnetic resonance",
    "US": "ultrasound",
    "NM": "nuclear medicine",
    "PT": "positron emission tomography",
    "MG": "mammography",
    "XA": "angiography",
    "ES": "endoscopy",
    "OP": "ophthalmic photography",
    "SM": "slide microscopy",
    "XC": "photography",
    "SEG": "a segmentation",
    "RTDOSE": "a radiotherapy dose",
    "RTIMAGE": "a radiotherapy image",
}
OTHER = "another"  # stands for a modality or a body part that is not listed here
CHEST = (
    "CHEST",
    "THORAX",
    "LUNG",
    "RIB",
    "RIBS",
    "STERNUM",
    "HEART",
    "MEDIASTINUM",
    "CHESTABDOMEN",
)
_BODY_PARTS = (
    *CHEST, "ABDOMEN", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CLAVICLE", "CSPINE", "ELBOW",
    "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KNEE", "LEG",
    "LSPINE", "MANDIBLE", "NECK", "PELVIS", "SHOULDER", "SKULL", "SPINE", "TSPINE", "WHOLEBODY",
    "WRIST",
)  # fmt: skip
_OTHER_ELEMENTS = [
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "ViewPosition",
    "Modality",
    "BodyPartExamined",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
]
_PILLOW_DECODES = (JPEGBaseline8Bit, JPEG2000Lossless, JPEG2000)  # if damaged, they abort GDCM
_JPEGS = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
_GDCM_ALONE = (
    "if another program can read it, save it uncompressed, for example with gdcmconv --raw"
)
# The last bytes of encapsulated pixels: the end marker of JPEG and JPEG 2000, or DICOM's delimiter.
_ENDS = (b"\xff\xd9", b"\xfe\xff\xdd\xe0", b"\xfe\xff\xdd\xe0\x00\x00\x00\x00")
_NEEDED = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "SamplesPerPixel",
)
_NUMBERS = (  # a single number each, if present
    *(keyword for keyword in _NEEDED if keyword != "PhotometricInterpretation"),
    "HighBit",
    "PlanarConfiguration",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
)
_LUTS = ("ModalityLUTSequence", "VOILUTSequence")
_OVERLAYS = range(0x6000, 0x6020, 2)  # groups; the bits above BitsStored may hold an old overlay
_OVERLAY_BITS, _OVERLAY_POSITION = 0x0100, 0x0102
_TAGS = [
    *(Tag(keyword) for keyword in {*_NEEDED, *_NUMBERS, *_LUTS, *_OTHER_ELEMENTS}),
    *(Tag(group, bits) for group in _OVERLAYS for bits in (_OVERLAY_BITS, _OVERLAY_POSITION)),
]
# What decoders raise for a damaged file. MemoryError is not the file's fault.
DAMAGE = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_KINDS = (  # the first match counts
    (Image.DecompressionBombError, f"more than {MAX_PIXELS:,} pixels"),
    (EOFError, EARLY),
    (zlib.error, "compressed data are damaged"),
    ((struct.error, BytesLengthException), "a value is cut off"),
    (NotImplementedError, "a decoder is missing"),
    (RecursionError, "nested too deeply"),
    (RuntimeError, "damaged, or of a kind that no installed decoder reads"),
)
_FAR = 1e12  # beyond any window
_LEAST = 1e-3  # spread of values below which they are stretched first
_MISSING = 0.01  # fraction of a LUT's entries that may be missing
_VOI_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")  # C.11.2.1.3


def read_dicom(stream: BinaryIO) -> tuple[np.ndarray, View, bool, str, str, float]:
    """Pixels `(H, W)` uint8, bone bright, and the other fields of `uar.data.films.Film`, in order.

    A grayscale film goes through its modality LUT or rescale, then through its VOI LUT or first
    window (or, if it has neither, is clipped at its 0.5th and 99.5th percentile), and is stretched
    to 0..255. If that turns different stored values into a single gray value, the next VOI LUT or
    window is tried, and finally the percentiles of the stored values; only in that last case has
    the header failed. Padding is left out of all this and becomes black. A colour film is converted
    to luma.

    Raises:
        UserError: the file does not hold exactly one film that can be decoded. The message gives
            the reason without the path.
    """
    with warnings.catch_warnings():  # pydicom's warnings quote values
        warnings.simplefilter("ignore")
        film = _header(stream)
        stored = _stored_pixels(film)
        colour = stored.ndim == 3
        gray, failed = (_luma(stored), False) if colour else _displayed(stored, film)
    modality = _term(film, "Modality", (*RADIOGRAPHY, *NO_RADIOGRAPHY))
    body_part = _term(film, "BodyPartExamined", _BODY_PARTS)
    return gray, _view(film), failed, modality, body_part, coloured(stored) if colour else 0.0


def _term(film: pydicom.Dataset, keyword: str, known: Iterable[str]) -> str:
    """An element's value if it is in `known`, `OTHER` for any other, "" if there is none."""
    value = str(film.get(keyword, "")).strip().upper().replace(" ", "")
    return value if value in known or not value else OTHER


def coloured(rgb: np.ndarray) -> float:
    """Fraction of the pixels `(H, W, 3)` uint8 whose channels differ by a tenth of the range."""
    step = max(1, min(rgb.shape[:2]) // 256)
    seen = rgb[::step, ::step]
    return float((np.ptp(seen, axis=2) > 25).mean())


def _header(stream: BinaryIO) -> pydicom.Dataset:
    """The elements of `_TAGS` that have a value, all parsed.

    Raises:
        UserError: the header cannot be read, or the file ends within its pixels.
    """
    try:
        _refuse_bombs(stream)
        film = pydicom.dcmread(stream, specific_tags=_TAGS)
        for element in [*film.file_meta, *film]:  # looking at an element parses it
            if element.is_empty and element.tag in film:
                del film[element.tag]
        for keyword in _LUTS:
            items = [item for item in film.get(keyword, []) if not all(e.is_empty for e in item)]
            if keyword in film and not items:
                del film[keyword]
            elif keyword in film:
                film[keyword].value = items
        if "PixelData" not in film and _begins_pixels(stream):
            raise UserError("the file ends early, within its pixels")
    except UserError:
        raise
    except DAMAGE as error:
        raise UserError(f"header cannot be read ({kind_of(error)})") from None
    return film


def _begins_pixels(stream: BinaryIO) -> bool:
    """Whether encapsulated pixels begin in a file; pydicom omits them if they are cut off."""
    stream.seek(0)
    return b"\xe0\x7f\x10\x00O" in stream.read()


def kind_of(error: Exception) -> str:
    """What a decoder's error means, in the system's words or ours, never in the decoder's own."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, OSError) and "truncated" in str(error).lower():  # Pillow's
        return EARLY
    return next((words for kind, words in _KINDS if isinstance(error, kind)), "damaged")


def read_view(stream: BinaryIO) -> View:
    """The view that the header states; "unknown" if it states none or the file cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _refuse_bombs(stream)
            return _view(
                pydicom.dcmread(stream, specific_tags=["ViewPosition"], stop_before_pixels=True)
            )
        except DAMAGE:  # `read_dicom` reports it
            return "unknown"


def _view(film: pydicom.Dataset) -> View:
    return _VIEWS.get(str(film.get("ViewPosition", "")).strip().upper(), "unknown")


def _refuse_bombs(stream: BinaryIO) -> None:
    """Raise UserError for a deflated file that would fill memory before its header can be read.

    pydicom inflates such a file all at once. Here it is inflated piece by piece, and nothing is
    kept. The stream is left at its beginning.
    """
    head = stream.read(_META_START)
    length = int.from_bytes(head[-4:], "little") if head[132:136] == _GROUP_LENGTH else 0
    meta = stream.read(length or _PIECE)
    if DeflatedExplicitVRLittleEndian.encode() in meta:
        if not length:
            raise UserError("a deflated file whose meta header does not give its length")
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        total = 0
        while not inflate.eof and (pressed := inflate.unconsumed_tail or stream.read(_PIECE)):
            total += len(inflate.decompress(pressed, 16 * _PIECE))
            if total > _MOST_INFLATED:
                raise UserError(f"a deflated file of more than {_MOST_INFLATED:,} bytes")
    stream.seek(0)


def refuse_huge(width: int, height: int) -> None:
    """Raise UserError for a film whose pixels could exhaust memory."""
    if width * height > MAX_PIXELS:
        raise UserError(f"{width} x {height} pixels, more than {MAX_PIXELS:,} in all")


def stretch(values: np.ndarray) -> np.ndarray:
    """Scale values linearly, the least to 0 and the greatest to 255; uint8."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) * (255.0 / max(high - low, 1e-6))).round().astype(np.uint8)


def stretch_percentiles(pixels: np.ndarray) -> np.ndarray:
    """Scale 16-bit values that have no window to 0..255, between two percentiles; uint8.

    Raises:
        UserError: all values are the same.
    """
    counts = np.bincount(pixels.ravel(), minlength=2**16)
    levels = np.flatnonzero(counts)
    if len(levels) == 1:
        raise UserError(SAME)
    table = np.zeros(2**16, dtype=np.uint8)
    table[levels] = stretch(percentile_window(levels.astype(np.float32), counts[levels]))
    return table[pixels]


def _stored_pixels(film: pydicom.Dataset) -> np.ndarray:
    """Integers as stored, `(H, W)`, or RGB `(H, W, 3)` uint8.

    Raises:
        UserError: the header contradicts itself, or the pixels are of an unsupported kind or cannot
            be decoded.
    """
    if "PixelData" not in film:
        raise UserError("a DICOM file without pixels")
    lacking = [keyword for keyword in _NEEDED if keyword not in film]
    if lacking:
        raise UserError(f"a DICOM file without {', '.join(lacking)}")
    _refuse_odd_header(film)
    frames = film.get("NumberOfFrames", 1)
    if frames != 1:
        raise UserError(f"{frames} frames, expected one film")
    refuse_huge(film.Columns, film.Rows)
    gray = film.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2")
    colour = film.PhotometricInterpretation.startswith(("RGB", "YBR"))
    colour = colour and film.BitsAllocated == 8 and not film.PixelRepresentation
    if not (gray or colour) or film.BitsAllocated not in (8, 16):
        raise UserError(
            f"{film.PhotometricInterpretation} of {film.BitsAllocated} bits; expected grayscale of "
            "8 or 16 bits, or RGB of 8 bits"
        )
    syntax = film.file_meta.get("TransferSyntaxUID", UID(""))
    if not isinstance(syntax, UID) or not _has_decoder(syntax):
        name = getattr(syntax, "name", "") or "not given"
        raise UserError(f"transfer syntax {name}: no decoder is installed")
    try:
        film.pixel_array_options(
            decoding_plugin="pillow" if syntax in _PILLOW_DECODES else "",
            correct_unused_bits=False,  # pydicom would wrap values round
        )
        stored = _jpeg_pixels(film) if syntax in _JPEGS else film.pixel_array
    except UserError:
        raise
    except DAMAGE as error:
        raise UserError(_why_not_decoded(film, syntax, error)) from None
    if stored.ndim != (3 if colour else 2):
        raise UserError(f"pixels of shape {stored.shape} without NumberOfFrames, expected one film")
    return stored if colour else _used_bits(stored, film)


def _jpeg_pixels(film: pydicom.Dataset) -> np.ndarray:
    """The pixels of a film stored as JPEG.

    Raises:
        UserError: the data end before the picture does.
    """
    jpeg = Jpeg.of(get_frame(film.PixelData, 0, number_of_frames=1))
    pixels = film.pixel_array

    def decode(longer: bytes) -> np.ndarray:
        film.PixelData = encapsulate([longer])
        return film.pixel_array

    jpeg.refuse_short(pixels, decode)
    return pixels


def _why_not_decoded(film: pydicom.Dataset, syntax: UID, error: Exception) -> str:
    """Why pixels could not be decoded, as far as the file tells."""
    if syntax == JPEGExtended12Bit and film.BitsStored > 8:
        return f"{film.BitsStored}-bit JPEG ({syntax.name}): no installed decoder reads 12 bits"
    data = film.PixelData
    if syntax.is_encapsulated:
        ends = data.rstrip(b"\0").endswith(_ENDS)
        advice = f"; {_GDCM_ALONE}" if ends and syntax in _PILLOW_DECODES else ""
        why = kind_of(error) if ends else EARLY
        return f"pixels cannot be decoded ({syntax.name}, {why}){advice}"
    expected = film.Rows * film.Columns * film.SamplesPerPixel * film.BitsAllocated // 8
    if film.SamplesPerPixel in (1, 3) and len(data) < expected:
        return f"the file ends early, after {len(data):,} of {expected:,} bytes of pixels"
    return f"pixels cannot be decoded ({syntax.name}, {kind_of(error)})"


def _used_bits(stored: np.ndarray, film: pydicom.Dataset) -> np.ndarray:
    """Pixels without the bits above BitsStored, which may hold signs or an old overlay.

    Raises:
        UserError: these bits hold part of a value.
    """
    bits, unused = film.BitsStored, film.BitsAllocated - film.BitsStored
    if not unused:
        return stored
    overlays = 0  # bit mask
    for group in _OVERLAYS:
        of_overlay = [film.get((group, element)) for element in (_OVERLAY_BITS, _OVERLAY_POSITION)]
        allocated, position = (0 if found is None else found.value for found in of_overlay)
        if allocated == film.BitsAllocated and isinstance(position, int) and position >= bits:
            overlays |= 1 << position
    kept = (2**film.BitsAllocated - 1) ^ overlays
    codes = stored.view(f"u{stored.itemsize}") & np.array(kept).astype(f"u{stored.itemsize}")
    above = codes >> bits
    wrong = above != 0
    if film.PixelRepresentation:
        negative = codes >> (bits - 1) & 1 == 1
        extended = negative & (above == kept >> bits)
        wrong &= ~extended
        if extended.any():  # then all negative values must be
            wrong |= negative & ~extended
    if wrong.any():
        raise UserError(f"stored values need more bits than BitsStored, which is {bits}")
    return codes.view(stored.dtype) << unused >> unused


def _refuse_odd_header(film: pydicom.Dataset) -> None:
    """Raise UserError, naming the element, if a header contradicts itself or the standard."""
    for keyword in ("PhotometricInterpretation", *_NUMBERS):
        if keyword in film and film[keyword].VM != 1:
            raise UserError(f"{keyword} has {film[keyword].VM} values, expected one")
    for keyword in (*_NUMBERS, "WindowCenter", "WindowWidth"):
        if keyword in film and not all(isinstance(v, int | float) for v in _values(film, keyword)):
            raise UserError(f"{keyword} is not a number")
    for keyword in ("Rows", "Columns", "SamplesPerPixel"):
        if film[keyword].value < 1:
            raise UserError(f"{keyword} is {film[keyword].value}, expected at least 1")
    for keyword in _LUTS:
        for item in film.get(keyword, []):
            _refuse_odd_lut(item, keyword)
    function = film.get("VOILUTFunction", "LINEAR")
    if function not in _VOI_FUNCTIONS:
        raise UserError(f"VOILUTFunction is not one of {', '.join(_VOI_FUNCTIONS)}")
    if not 0 < film.BitsStored <= film.BitsAllocated:
        raise UserError(
            f"BitsStored is {film.BitsStored}, expected 1 to BitsAllocated, {film.BitsAllocated}"
        )
    high = film.get("HighBit", film.BitsStored - 1)
    if high != film.BitsStored - 1:
        raise UserError(
            f"HighBit is {high} with BitsStored {film.BitsStored}, expected {film.BitsStored - 1}"
        )


def _refuse_odd_lut(item: pydicom.Dataset, keyword: str) -> None:
    """Raise UserError if an item of a LUT sequence does not hold a LUT."""
    for needed in ("LUTDescriptor", "LUTData"):
        if needed not in item or item[needed].is_empty:
            raise UserError(f"{keyword} has no {needed}")
    descriptor = _values(item, "LUTDescriptor")
    if len(descriptor) != 3 or not all(isinstance(value, int) for value in descriptor):
        raise UserError(f"LUTDescriptor of {keyword} is not three numbers")
    data = _values(item, "LUTData")
    if not all(isinstance(value, bytes | int) for value in data):
        raise UserError(f"LUTData of {keyword} is not a table")


def _values(film: pydicom.Dataset, keyword: str) -> list[Any]:
    """The values of an element, which may hold one or several."""
    value = film[keyword].value
    return list(value) if isinstance(value, MultiValue | list) else [value]


def _has_decoder(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _luma(rgb: np.ndarray) -> np.ndarray:
    """The luma of RGB pixels. Raises UserError if it is the same everywhere."""
    return refuse_constant(np.asarray(Image.fromarray(rgb).convert("L")))


def refuse_constant(pixels: np.ndarray) -> np.ndarray:
    """Return `pixels`; raise UserError if they all have the same value."""
    if pixels.min() == pixels.max():
        raise UserError(SAME)
    return pixels


def _displayed(pixels: np.ndarray, film: pydicom.Dataset) -> tuple[np.ndarray, bool]:
    """Stored values as 0..255, by a table of those that occur, and whether the header failed."""
    codes = pixels.view(f"u{pixels.itemsize}")  # negative values as indices
    size = 256**pixels.itemsize
    blocks = np.array_split(codes.ravel(), 1 + codes.size // 2**20)  # bincount copies to 64 bits
    counts = np.zeros(size, dtype=np.int64)
    for block in blocks:
        counts += np.bincount(block, minlength=size)
    occurring = np.flatnonzero(counts)
    levels = occurring.astype(codes.dtype).view(pixels.dtype)
    real = ~_is_padding(levels, film)
    if not real.any():
        raise UserError("every pixel is padding")
    if real.sum() == 1:
        raise UserError(SAME if real.all() else f"{SAME} or is padding")
    table = np.zeros(size, dtype=np.uint8)
    table[occurring[real]], failed = _window(levels[real], counts[occurring[real]], film)
    return table[codes], failed


def _is_padding(levels: np.ndarray, film: pydicom.Dataset) -> np.ndarray:
    """Which levels are padding (C.7.5.1.1.2)."""
    if "PixelPaddingValue" not in film:
        return np.zeros(len(levels), dtype=bool)
    ends = [film.PixelPaddingValue, film.get("PixelPaddingRangeLimit", film.PixelPaddingValue)]
    wrapped = np.array(ends, dtype=np.int64).astype(f"u{levels.itemsize}").view(levels.dtype)
    return (levels >= wrapped.min()) & (levels <= wrapped.max())


def _window(
    levels: np.ndarray, counts: np.ndarray, film: pydicom.Dataset
) -> tuple[np.ndarray, bool]:
    """Stored levels `(n,)`, which occur `counts` times, as display values, uint8.

    Also return whether the header failed: none of its transforms kept the levels apart.
    """
    inverted = film.PhotometricInterpretation == "MONOCHROME1"
    failed = False
    for values in _transformed(levels, counts, film):
        values = values.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            spread = np.ptp(values)
        failed = not np.isfinite(spread) or (len(levels) > 1 and spread == 0)
        if not failed:
            break
    else:
        values = percentile_window(levels.astype(np.float64), counts)
        spread = np.ptp(values)
    if not _LEAST < spread < _FAR or np.abs(values).max() > 1000 * spread:  # too much for 32 bits
        values = (values - values.min()) / (spread or 1)
    return stretch((-values if inverted else values).astype(np.float32)), failed


def _transformed(
    levels: np.ndarray, counts: np.ndarray, film: pydicom.Dataset
) -> Iterator[np.ndarray]:
    """Yield levels after the modality transform and, in turn, each of the VOI LUTs or windows."""
    if "ModalityLUTSequence" in film:  # C.11.1
        values = _look_up(levels, film.ModalityLUTSequence[0], film)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            values = apply_rescale(levels.astype(np.float64), film)
        if len(np.unique(values)) < len(levels):  # the intercept swallows the values
            values = np.zeros_like(values)
    film.pop("RescaleSlope", None)  # a negative one would invert pydicom's window
    luts, windows = film.get("VOILUTSequence", []), _usable_windows(film)  # C.11.2
    film.pop("VOILUTSequence", None)
    yield from (_look_up(values, item, film) for item in luts)
    yield from (_windowed(values, film, index) for index in windows)
    if not luts and not windows:
        yield percentile_window(values, counts)


def _windowed(values: np.ndarray, film: pydicom.Dataset, index: int) -> np.ndarray:
    """Values after a window; all the same if a sigmoid leaves them within one of 255 steps.

    Unlike the other windows, a sigmoid never clips values, so it leaves differences that no screen
    shows.
    """
    shown = apply_windowing(values, film, index)
    if film.get("VOILUTFunction") == "SIGMOID":
        low, high = apply_windowing(np.array([-_FAR, _FAR]), film, index)
        if np.ptp(shown) * 255 < high - low:
            return np.zeros_like(shown)
    return shown


def _look_up(values: np.ndarray, lut: pydicom.Dataset, film: pydicom.Dataset) -> np.ndarray:
    """Values after a modality or VOI LUT; values beyond its ends get its end values (C.11.1.1.1).

    All values become the same if more than a fraction `_MISSING` of the stated entries is missing.
    """
    entries, first, bits = lut.LUTDescriptor
    stated = entries % 65536
    data = lut.LUTData
    if isinstance(data, bytes):
        width = 1 if bits == 8 and len(data) < 2 * stated else 2
        order = "<" if film.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data[: len(data) // width * width], dtype=f"{order}u{width}")
    table = np.atleast_1d(np.asarray(data))[: stated or 65536].astype(np.float64)
    if len(table) < (1 - _MISSING) * stated:
        return np.zeros(values.shape)
    indices = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return table[indices]


def _usable_windows(film: pydicom.Dataset) -> list[int]:
    """Positions of the windows that can keep values apart."""
    if "WindowCenter" not in film or "WindowWidth" not in film:
        return []
    centers, widths = _values(film, "WindowCenter"), _values(film, "WindowWidth")
    narrowest = 1 if film.get("VOILUTFunction", "LINEAR") == "LINEAR" else 0
    pairs = zip(centers, widths, strict=False)
    return [i for i, (_, width) in enumerate(pairs) if width > narrowest]


def percentile_window(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Values `(n,)`, which occur `counts` times, clipped at the 0.5th and 99.5th percentile.

    If that would leave a single value, they are returned unchanged.
    """
    order = np.argsort(values)
    shares = np.cumsum(counts[order]) * (100 / counts.sum())
    low, high = values[order][np.searchsorted(shares[:-1], _PERCENTILES)]
    return np.clip(values, low, high) if low < high else values
