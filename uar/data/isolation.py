"""Film decoding in its own process, to contain files that crash, hang or exhaust the decoder.

It is meant for files from strangers. What comes back from that process is read as JSON and as
pixels of known size, never unpickled.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import BinaryIO

import numpy as np

from uar.core.errors import UserError
from uar.data.films import LIMITS, Film, decode_film, squash
from uar.data.packing import confine_memory, start_worker

_START_SECONDS = 60.0  # for the process to start on a busy machine
_ANSWER_BYTES = 10_000  # of its JSON, at most

Decode = Callable[[BinaryIO, str], Film]


class FilmDecoder:
    """Decodes one film at a time in another process, which is replaced when it dies.

    Args:
        size: side of the squashed films that it returns, in pixels.
        seconds: time limit for one film.
        memory: bytes that the process may allocate beyond those it starts with.
        decode: a function like `decode_film`, at module level so that the process can import it.
    """

    def __init__(
        self,
        size: int,
        seconds: float = LIMITS.seconds,
        memory: int = LIMITS.memory,
        decode: Decode = decode_film,
    ) -> None:
        self._size, self._seconds, self._memory, self._decode = size, seconds, memory, decode
        self._alone = threading.Lock()
        self._closed = False
        self._start()

    def decode(self, data: bytes, name: str) -> Film:
        """Decode a film's file; its pixels are squashed to `(size, size)`.

        Raises:
            UserError: it cannot be decoded or does not hold exactly one film, or decoding it
                crashed, ran out of memory or took too long.
        """
        with self._alone:
            if self._process.poll() is not None and not self._closed:
                self._stop()
                self._start()
            try:
                return self._ask(data, name)
            except TimeoutError:
                reason = f"decoding it took more than {self._seconds:g} seconds"
            except (EOFError, OSError):
                reason = "decoding it crashed or ran out of memory"
            self._stop()
            if not self._closed:
                self._start()  # now, so that the next film need not wait
            raise UserError(f"{name}: {reason}")

    def close(self) -> None:
        """End the process, even in the middle of a film."""
        self._closed = True
        self._process.kill()
        with self._alone:
            self._stop()

    def _start(self) -> None:
        # Not a fork, which would inherit torch's threads and memory, nor multiprocessing, which
        # would run a user's script again if it has no `if __name__ == "__main__"`.
        self._pipe, theirs = Pipe()
        decode = (self._decode.__module__, self._decode.__qualname__)
        arguments = map(str, (theirs.fileno(), self._size, self._memory, *decode))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE,  # its closing tells the process that this one is gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        theirs.close()  # so that the pipe closes when the process ends
        self._stop = weakref.finalize(self, _end, self._process, self._pipe)
        self._ready = False

    def _ask(self, data: bytes, name: str) -> Film:
        if not self._ready:
            self._answer(_START_SECONDS)
            self._ready = True
        self._pipe.send_bytes(name.encode(errors="surrogatepass"))  # a path need not be UTF-8
        self._pipe.send_bytes(data)
        answer = json.loads(self._answer(self._seconds))
        if "fault" in answer:
            raise UserError(answer["fault"])
        pixels = np.frombuffer(self._pipe.recv_bytes(self._size**2), np.uint8)
        answer["shape"] = tuple(answer["shape"])
        return Film(pixels.reshape(self._size, self._size), **answer)

    def _answer(self, seconds: float) -> bytes:
        if not self._pipe.poll(seconds):
            raise TimeoutError
        return self._pipe.recv_bytes(_ANSWER_BYTES)


_PROGRAM = "from uar.data.isolation import _decode_films; _decode_films()"


def _end(process: subprocess.Popen[bytes], pipe: Connection) -> None:
    process.kill()
    process.communicate()  # waits, and closes its input
    pipe.close()


def _decode_films() -> None:
    """Run the process: read films, and send their pixels or what is wrong with them."""
    pipe = Connection(int(sys.argv[1]))
    size, memory = map(int, sys.argv[2:4])
    decode: Decode = getattr(import_module(sys.argv[4]), sys.argv[5])
    start_worker(sys.stdin.buffer.read)
    _confine(memory)
    pipe.send_bytes(b"ready")
    while True:
        name = pipe.recv_bytes().decode(errors="surrogatepass")
        try:
            film = decode(io.BytesIO(pipe.recv_bytes()), name)
        except UserError as reason:
            pipe.send_bytes(json.dumps({"fault": str(reason)}).encode())
            continue
        about = vars(film) | {
            "header_failed": bool(film.header_failed),  # may be numpy's
            "shape": film.pixels.shape,
        }
        del about["pixels"]
        pipe.send_bytes(json.dumps(about).encode())
        pipe.send_bytes(squash(film.pixels, size).tobytes())


def _confine(memory: int) -> None:
    """Forbid file writes and core dumps, and limit further memory to `memory` bytes."""
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    confine_memory(memory)
