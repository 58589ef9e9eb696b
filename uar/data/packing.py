"""The packed array: every film decoded once and squashed to a square, `(N, size, size)` uint8.

Row `i * images_per_study + j` is image j of study i. Nothing after ingest decodes a file.

Worker processes decode films and write the rows straight into the array's file. Only a few tasks
are in flight at a time, and no process maps the file, so memory does not grow with the number of
films. A journal lists the tasks that are done: after a kill, the work continues from there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap

from uar.core.errors import UserError
from uar.core.files import allocate
from uar.core.progress import progress_bar
from uar.data import dicom, films, jpeg
from uar.data.films import LIMITS, read_film, squash

if TYPE_CHECKING:
    from uar.data.study import View

log = logging.getLogger(__name__)

_FILMS_A_WORKER = 64  # fewer are not worth starting a process
_MEMORY = f"{LIMITS.memory / 1e9:g} GB"
_SYNC_SECONDS = 2.0  # between two writes of the journal: the most that a killed run loses


class Slot(NamedTuple):
    """A film's place in the packed array."""

    path: str  # of its file, relative to the images folder
    row: int
    copies: int = 1  # rows that show it, from `row` on
    blanks: int = 0  # black rows after those


@dataclass(frozen=True)
class PackingResult:
    """What packing found, by position in the sequence of slots."""

    array: Path  # the `.npy` file
    views: list[View]  # as DICOM headers state them
    faults: dict[int, str]  # why a film could not be read; its rows mean nothing
    header_failed: list[int]  # films whose header left one gray value; percentiles are used


@dataclass(frozen=True)
class _Task:
    """Films that one worker decodes in one call."""

    start: int  # position of the first slot
    slots: Sequence[Slot]
    root: Path
    array: Path
    offset: int  # bytes before row 0
    size: int
    fingerprint: str  # changes with any of its files


class _Result(NamedTuple):
    views: list[View]
    faults: dict[int, str]
    header_failed: list[int]


def resolve_workers(workers: int, films: int) -> int:
    """The number of worker processes; 0 means one for each usable core that has enough films."""
    if workers:
        return workers
    if hasattr(os, "sched_getaffinity"):  # Linux: a job scheduler grants some of the cores
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(cores, 1 + films // _FILMS_A_WORKER)


def pack_films(
    root: Path,
    slots: Sequence[Slot],
    *,
    size: int,
    scratch: Path,
    workers: int,
    films_per_task: int = 16,
) -> PackingResult:
    """Decode each film once, squash it to `size` x `size` and write it to its rows.

    Args:
        root: folder of the images. A path or link that leads out of it is a fault of its film.
        slots: in the order of their rows; together they fill all rows.
        size: side of a packed image in pixels.
        scratch: folder for the array and its journal. If it holds those of an interrupted run on
            the same files, only the rest is decoded. Tasks with a fault or a failed header are
            repeated.
        workers: number of processes; 0: see `resolve_workers`.
    """
    workers = resolve_workers(workers, len(slots))
    array = scratch / "images.npy"
    rows = slots[-1].row + slots[-1].copies + slots[-1].blanks
    with _Journal(scratch / "journal.jsonl", array, _identity(rows, size)) as journal:
        if not (journal.done and _is_array(array, (rows, size, size))):
            journal.done.clear()
            _create_array(array, (rows, size, size))
        packed = PackingResult(array, ["unknown"] * len(slots), {}, [])
        with progress_bar("ingest", len(slots), unit="image") as bar:

            def tasks() -> Iterator[_Task]:
                offset = _offset(array)
                for start in range(0, len(slots), films_per_task):
                    part = slots[start : start + films_per_task]
                    fingerprint = _fingerprint(root, part)
                    if fingerprint in journal.done:
                        packed.views[start : start + len(part)] = journal.done[fingerprint]
                        bar.update(len(part))
                    else:
                        yield _Task(start, part, root, array, offset, size, fingerprint)

            for task, result in _decode(tasks(), workers):
                packed.views[task.start : task.start + len(task.slots)] = result.views
                packed.faults.update({task.start + i: why for i, why in result.faults.items()})
                packed.header_failed.extend(task.start + i for i in result.header_failed)
                if not (result.faults or result.header_failed):
                    journal.add(task.fingerprint, result.views)
                bar.update(len(task.slots))
    faults = dict(sorted(packed.faults.items()))
    return replace(packed, faults=faults, header_failed=sorted(packed.header_failed))


def copy_studies(packed: Path, studies: Iterable[int], *, images_per_study: int, out: Path) -> None:
    """Write a packed array with only some studies of another, given by their positions."""
    kept = list(studies)
    size = np.load(packed, mmap_mode="r").shape[1]
    _create_array(out, (len(kept) * images_per_study, size, size))
    length = images_per_study * size * size
    with packed.open("rb") as source, out.open("r+b") as target:
        target.seek(_offset(out))
        for study in kept:
            source.seek(_offset(packed) + study * length)
            target.write(source.read(length))


def _create_array(path: Path, shape: tuple[int, int, int]) -> None:
    open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    allocate(path)


def _is_array(path: Path, shape: tuple[int, int, int]) -> bool:
    """Whether `path` holds a complete array of this shape."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return (array.shape, array.dtype) == (shape, np.uint8)


def _offset(path: Path) -> int:
    return np.load(path, mmap_mode="r").offset


# ---- what is done


def _identity(rows: int, size: int) -> dict[str, object]:
    """What a resumed run must share with the interrupted one, besides its files."""
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in (films, dicom, jpeg))
    libraries = ("numpy", "pillow", "pydicom", "pypng", "python-gdcm")
    return {
        "rows": rows,
        "size": size,
        "code": hashlib.sha256(code).hexdigest(),
        "versions": {name: version(name) for name in libraries},
    }


def _fingerprint(root: Path, slots: Sequence[Slot]) -> str:
    """Hash of the rows, names, sizes and modification times of some films."""
    digest = hashlib.sha256(str(root.resolve()).encode())
    for slot in slots:
        digest.update(json.dumps(slot).encode())
        path = root / slot.path
        if path.is_file():
            status = path.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


class _Journal:
    """The tasks done so far: a line with the run's identity, then one JSON line per task."""

    def __init__(self, path: Path, array: Path, identity: dict[str, object]) -> None:
        self.done: dict[str, list[View]] = {}  # fingerprint of a task: views of its films
        self._path, self._array, self._first_line = path, array, json.dumps(identity) + "\n"
        self._unwritten: list[str] = []
        self._written_at = time.monotonic()

    def __enter__(self) -> _Journal:
        self.done = self._read()
        if not self.done:
            shutil.rmtree(self._path.parent, ignore_errors=True)
            self._path.parent.mkdir(parents=True)
            self._path.write_text(self._first_line, encoding="utf-8")
        return self

    def __exit__(self, *exception: object) -> None:
        self._write()

    def add(self, fingerprint: str, views: list[View]) -> None:
        """Record a task as done; the record is written once its rows are on the disk."""
        self._unwritten.append(json.dumps([fingerprint, views]) + "\n")
        if time.monotonic() - self._written_at >= _SYNC_SECONDS:
            self._write()

    def _write(self) -> None:
        if not self._unwritten:
            return
        with self._array.open("r+b") as rows:
            os.fsync(rows.fileno())
        with self._path.open("a", encoding="utf-8") as stream:
            stream.writelines(self._unwritten)
        self._unwritten.clear()
        self._written_at = time.monotonic()

    def _read(self) -> dict[str, list[View]]:
        if not self._path.is_file():
            return {}
        try:
            text = self._path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a line may have been cut off with the run
            first, *lines = [*whole.splitlines(keepends=True), ""]
            if first != self._first_line:
                return {}
            done: dict[str, list[View]] = dict(map(json.loads, filter(None, lines)))
        except (ValueError, TypeError, RecursionError) as error:
            log.warning(f"{self._path} is damaged ({error}); the films are decoded again")
            return {}
        os.truncate(self._path, len(whole.encode()))
        return done


# ---- worker processes


def _decode(tasks: Iterator[_Task], workers: int) -> Iterator[tuple[_Task, _Result]]:
    """Yield results as they come. After a crash, the tasks in flight are repeated one by one."""
    while True:
        futures: dict[Future[_Result], _Task] = {}
        pool = _pool(workers)
        try:
            for task in tasks:
                try:
                    futures[pool.submit(_pack, task)] = task
                except BrokenProcessPool:
                    tasks = itertools.chain([task], tasks)
                    raise
                if len(futures) == 2 * workers:
                    yield from _settle(futures)
            while futures:
                yield from _settle(futures)
            return
        except BrokenProcessPool:
            crashed = list(futures.values())
        finally:
            pool.shutdown(cancel_futures=True)
        for task in crashed:
            yield task, _pack_apart(task)


def _settle(futures: dict[Future[_Result], _Task]) -> Iterator[tuple[_Task, _Result]]:
    for future in wait(futures, return_when=FIRST_COMPLETED).done:
        result = future.result()
        yield futures.pop(future), result


def _pack_apart(task: _Task) -> _Result:
    """Run `_pack` in a separate process, halving the task until a crash is traced to one film."""
    pool = _pool(workers=1)
    try:
        return pool.submit(_pack, task).result()
    except BrokenProcessPool:
        if len(task.slots) == 1:
            path = task.root / task.slots[0].path
            reason = (
                f"decoding it crashed, needed more than {_MEMORY} of memory or took "
                f"more than {LIMITS.seconds:g} seconds"
            )
            return _Result(["unknown"], {0: f"{path}: {reason}"}, [])
    finally:
        pool.shutdown()
    half = len(task.slots) // 2
    first = _pack_apart(replace(task, slots=task.slots[:half]))
    second = _pack_apart(replace(task, slots=task.slots[half:]))
    faults = first.faults | {half + i: why for i, why in second.faults.items()}
    header_failed = first.header_failed + [half + i for i in second.header_failed]
    return _Result(first.views + second.views, faults, header_failed)


def _pool(workers: int) -> ProcessPoolExecutor:
    # A forked worker would inherit the threads and memory of torch.
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_decoding)


def _start_decoding() -> None:
    parent = parent_process()
    assert parent is not None
    start_worker(parent.join)
    confine_memory(LIMITS.memory)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def confine_memory(memory: int) -> None:
    """Let this process allocate at most `memory` bytes more than it has."""
    if os.path.exists("/proc/self/statm"):  # elsewhere the system's own limits hold
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def start_worker(wait_for_parent: Callable[[], object]) -> None:
    """End when the parent does, even if it is killed; leave Ctrl-C and the terminal to it.

    Args:
        wait_for_parent: returns when the parent has ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # decoders' complaints may quote a header
        os.dup2(silence, stream)

    def follow() -> None:
        wait_for_parent()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _pack(task: _Task) -> _Result:
    """Decode a task's films and write their rows."""
    result = _Result([], {}, [])
    blank = bytes(task.size * task.size)
    root = task.root.resolve()
    with task.array.open("r+b") as array:
        for i, slot in enumerate(task.slots):
            signal.setitimer(signal.ITIMER_PROF, LIMITS.seconds)  # of CPU time, then it kills
            try:
                film = read_film(_path_inside(task.root, root, slot.path))
            except (UserError, MemoryError) as error:
                result.views.append("unknown")
                out = f"{task.root / slot.path}: decoding it needs more than {_MEMORY} of memory"
                result.faults[i] = str(error) if isinstance(error, UserError) else out
                continue
            image = squash(film.pixels, task.size)
            array.seek(task.offset + slot.row * len(blank))
            array.write(image.tobytes() * slot.copies + blank * slot.blanks)
            result.views.append(film.view)
            if film.header_failed:
                result.header_failed.append(i)
    signal.setitimer(signal.ITIMER_PROF, 0)
    return result


def _path_inside(folder: Path, resolved: Path, name: str) -> Path:
    """Return `folder / name`; raise UserError if it is outside `folder`, itself or by a link."""
    path, parts = folder / name, PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"{path}: the path leads out of {folder}")
    if not path.resolve().is_relative_to(resolved):
        raise UserError(f"{path}: a link that leads out of {folder}")
    return path
