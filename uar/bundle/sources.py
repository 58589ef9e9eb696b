"""What a film may be given as: a path, a file's bytes, an open file, pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from uar.core.errors import UserError
from uar.data.dicom import refuse_constant, refuse_huge, stretch
from uar.data.films import LIMITS, Film, film_bytes

FilmSource = str | Path | bytes | BinaryIO | np.ndarray | Film


def name_of(source: FilmSource, position: int) -> str:
    """The source's path, or else its place in the study."""
    return str(source) if isinstance(source, str | Path) else f"film {position + 1}"


def read_source(source: FilmSource, name: str, decode: Callable[[bytes, str], Film]) -> Film:
    """Read the film that a source stands for.

    Args:
        name: of the film, for messages.
        decode: reads a file's bytes, under that name.

    Raises:
        UserError: it cannot be read.
    """
    if isinstance(source, Film):
        return source
    if isinstance(source, np.ndarray):
        return Film(_gray(source, name), "unknown")
    if isinstance(source, str | Path):
        return decode(film_bytes(Path(source)), name)
    most = LIMITS.file_bytes + 1  # one byte too many, to be refused
    return decode(source[:most] if isinstance(source, bytes) else source.read(most), name)


def _gray(pixels: np.ndarray, name: str) -> np.ndarray:
    """8-bit gray as it is; other numbers stretched from their range to 8 bits."""
    if pixels.ndim != 2 or not pixels.size or pixels.dtype.kind not in "uif":
        raise UserError(f"{name}: an array {pixels.shape} of {pixels.dtype}, expected (H, W) gray")
    try:
        refuse_huge(pixels.shape[1], pixels.shape[0])
        if not np.isfinite(pixels).all():
            raise UserError("holds values that are not finite")
        refuse_constant(pixels)
    except UserError as reason:
        raise UserError(f"{name}: {reason}") from None
    return pixels if pixels.dtype == np.uint8 else stretch(pixels.astype(np.float32))
