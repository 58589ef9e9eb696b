"""A test decoder that some files crash, hang or bloat; it imports little, as its process does."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from typing import BinaryIO

from uar.data.films import Film, decode_film

CRASH, HANG, HUNGRY, LEAK, LOUD = b"crash", b"hang", b"hungry", b"leak", b"loud"


def hostile(stream: BinaryIO, name: str) -> Film:
    """Decode a film, with faults that some files set off."""
    data = stream.read()
    stream.seek(0)
    if data == CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == HANG:
        time.sleep(60)
    if data == HUNGRY:
        bytes(4_000_000_000)
    if data == LEAK:
        with tempfile.TemporaryFile() as file:
            file.write(b"pixels")
    if data == LOUD:
        os.write(2, b"DOE^JANE")
    return decode_film(stream, name)
