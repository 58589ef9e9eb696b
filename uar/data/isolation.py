"""Films decoded in another process, which a file that crashes, hangs or fills a decoder ends alone.

For files from people one does not know. What comes back from that process is read as JSON and as
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

_START_SECONDS = 60.0  # for the process to be there, on a busy machine
_ANSWER_BYTES = 10_000  # of its JSON

Decode = Callable[[BinaryIO, str], Film]


class FilmDecoder:
    """Decodes one film at a time in another process, which is replaced when it is lost.

    Args:
        size: pixels, side of the squashed films that it gives.
        seconds: for one film.
        memory: bytes that the process may ask for beyond those it starts with.
        decode: as `decode_film`; of a module, so that the process can import it.
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
            UserError: it cannot be decoded or holds no single film; decoding it crashed, ran out
                of memory or took too long.
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
        """End the process, also in the middle of a film."""
        self._closed = True
        self._process.kill()
        with self._alone:
            self._stop()

    def _start(self) -> None:
        # Neither forked, which would inherit torch's threads and memory, nor multiprocessing's,
        # which would run a user's script once more where it has no `if __name__ == "__main__"`.
        self._pipe, theirs = Pipe()
        decode = (self._decode.__module__, self._decode.__qualname__)
        arguments = map(str, (theirs.fileno(), self._size, self._memory, *decode))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE,  # its end tells the process that this one is gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        theirs.close()  # so that its end is the pipe's
        self._stop = weakref.finalize(self, _end, self._process, self._pipe)
        self._ready = False

    def _ask(self, data: bytes, name: str) -> Film:
        if not self._ready:
            self._answer(_START_SECONDS)
            self._ready = True
        self._pipe.send_bytes(name.encode(errors="surrogatepass"))  # a path may be no UTF-8
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
    """The process: films in, their pixels or what is wrong with them out."""
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
            "header_failed": bool(film.header_failed),  # numpy's otherwise
            "shape": film.pixels.shape,
        }
        del about["pixels"]
        pipe.send_bytes(json.dumps(about).encode())
        pipe.send_bytes(squash(film.pixels, size).tobytes())


def _confine(memory: int) -> None:
    """No file, no core dump, and only so much memory."""
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    confine_memory(memory)
