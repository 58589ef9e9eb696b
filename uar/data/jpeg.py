"""Refusal of JPEG data that end before their picture does, or that take minutes to decode.

A decoder fills in what the data lack and says so in a warning that no Python library passes on: a
file cut in the middle and closed again yields half a film as if it were the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from uar.core.errors import UserError

_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # neither a stuffed byte nor a restart
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
_PROGRESSIVE, _LOSSLESS = {0xC2, 0xC6, 0xCA, 0xCE}, {0xC3, 0xC7, 0xCB, 0xCF}
_START_OF_SCAN, _END_OF_IMAGE, _RESTART_INTERVAL = 0xDA, 0xD9, 0xDD
_ALONE = {0x01, 0xD8, _END_OF_IMAGE}  # markers that no length follows
_MOST_SCANS = 150  # encoders write about ten
_COEFFICIENTS = 64
_DATA = bytes(range(16, 240, 3))  # of a scan, without a marker
_SHORT = "a JPEG whose data end before its picture does"
EARLY = "the file ends early"


@dataclass(frozen=True)
class Jpeg:
    """JPEG data that have every scan and an end marker.

    Attributes:
        data: from the first marker on.
        end: position of the end marker.
        restarts: whether scans are divided into intervals by restart markers; always False for
            lossless data, since GDCM stumbles over such a marker after a complete picture.
    """

    data: bytes
    end: int
    restarts: bool

    @classmethod
    def of(cls, data: bytes) -> Jpeg:
        """Read the markers of JPEG data (ITU-T T.81, Annex B); nothing is decoded.

        Raises:
            UserError: the end or a scan is missing, or there are more scans than encoders write.
            ValueError: a scan's header is malformed.
        """
        lacking: dict[tuple[int, int], int] = {}  # component, coefficient: bits to come
        progressive = lossless = restarts = False
        scans, at = 0, 2
        while marker := _MARKER.search(data, at):
            kind, at = marker[1][0], marker.end()
            if kind == _END_OF_IMAGE:
                if any(lacking.values()):
                    raise UserError(_SHORT)
                return cls(data, marker.start(), restarts and not lossless)
            if kind in _ALONE:
                continue
            length = int.from_bytes(data[at : at + 2], "big")
            segment = data[at + 2 : at + length]
            at += length
            if kind in _FRAMES:
                progressive, lossless = kind in _PROGRESSIVE, kind in _LOSSLESS
                coded = range(_COEFFICIENTS if progressive else 1)
                lacking = {(name, k): 1 for name in segment[6::3] for k in coded}
            elif kind == _RESTART_INTERVAL:
                restarts = any(segment)
            elif kind == _START_OF_SCAN:
                scans += 1
                if scans > _MOST_SCANS:
                    raise UserError(f"a JPEG of more than {_MOST_SCANS} scans")
                lacking |= _left_by(segment, progressive)
        raise UserError(f"cannot be decoded ({EARLY})")

    def refuse_short(self, pixels: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> None:
        """Raise UserError if the last scan's data end before its picture does.

        The data are made longer: if the picture then looks different, some were missing.

        Args:
            pixels: those of the data as they are.
            decode: turns JPEG data into pixels.
        """
        starts = [b"\xff%c" % n for n in range(0xD0, 0xD8)] if self.restarts else [b""]
        more = b"".join(start + _DATA for start in starts)
        longer = self.data[: self.end] + more + self.data[self.end :]
        if not np.array_equal(pixels, decode(longer)):
            raise UserError(_SHORT)


def _left_by(scan: bytes, progressive: bool) -> dict[tuple[int, int], int]:
    """The bits still to come of each coefficient that a scan's header names (G.1.1.1)."""
    components, (first, last, bits) = scan[1:-3:2], scan[-3:]
    if not progressive:  # a scan has all of a component, whatever it says
        return {(name, 0): 0 for name in components}
    return {(name, k): bits & 15 for name in components for k in range(first, last + 1)}
