"""`python -m benchmarks.ingest`: speed and memory of packing films, measured on generated films.

Speed is compared with a plain loop with Pillow and pydicom in one process, on the same files in the
same run; the two must give the same pixels. Memory is the largest sum of the resident sizes of the
main process and its workers, for 1, 4 and 16 times as many films.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import psutil
import pydicom
import typer
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import apply_rescale, apply_voi_lut
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    RLELossless,
)
from tqdm import tqdm

from uar.data.packing import Slot, pack_films, resolve_workers

SIZE = 128  # pixels, side of a packed image
FILM = (1280, 1024)  # pixels, height and width, for measuring speed
SMALL_FILM = (256, 256)  # for measuring memory
DISTINCT = 8  # films generated; the others are hard links to their files

Write = Callable[[Path, np.ndarray], None]


def write_pillow(path: Path, film: np.ndarray) -> None:
    Image.fromarray((film >> 4).astype(np.uint8)).save(path)


def dicom_writer(syntax: pydicom.uid.UID) -> Write:
    """Return a writer of DICOM films with 12 bits stored in 16, and a window."""

    def write(path: Path, film: np.ndarray) -> None:
        dicom = pydicom.Dataset()
        dicom.file_meta = FileMetaDataset()
        dicom.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dicom.SOPClassUID = DigitalXRayImageStorageForPresentation
        dicom.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(path)])
        dicom.set_pixel_data(film, "MONOCHROME2", bits_stored=12)
        dicom.WindowCenter, dicom.WindowWidth = 2048, 3584
        if syntax == RLELossless:
            dicom.compress(syntax)
        dicom.save_as(path, enforce_file_format=True)

    return write


KINDS: dict[str, tuple[str, Write]] = {
    "PNG": (".png", write_pillow),
    "JPEG": (".jpg", write_pillow),
    "DICOM, uncompressed": (".dcm", dicom_writer(ExplicitVRLittleEndian)),
    "DICOM, RLE": (".dcm", dicom_writer(RLELossless)),
}


def make_films(folder: Path, kind: str, count: int, shape: tuple[int, int]) -> list[Slot]:
    """Write smooth films with noise, generated with 12 bits, and return their slots."""
    ending, write = KINDS[kind]
    folder.mkdir()
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for i in range(count):
        path = folder / f"{i}{ending}"
        if i < DISTINCT:
            noise = np.random.default_rng(i).normal(0, 20, shape)
            waves = np.sin(columns / (90 + 9 * i)) * np.cos(rows / 120)
            write(path, (2000 + 1500 * waves + noise).clip(0, 4095).astype(np.uint16))
        else:
            os.link(folder / f"{i % DISTINCT}{ending}", path)
    return [Slot(f"{i}{ending}", i) for i in range(count)]


def plain_loop(folder: Path, slots: list[Slot]) -> np.ndarray:
    """Pack the films with the code that one would write first."""
    rows = []
    for slot in tqdm(slots, desc="plain loop", unit="image"):
        path = folder / slot.path
        if path.suffix == ".dcm":
            film = pydicom.dcmread(path)
            shown = apply_voi_lut(apply_rescale(film.pixel_array, film), film).astype(np.float32)
            low, high = float(shown.min()), float(shown.max())
            pixels = ((shown - low) * (255 / (high - low))).round().astype(np.uint8)
        else:
            pixels = np.asarray(Image.open(path).convert("L"))
        image = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BOX)
        rows.append(np.asarray(image))
    return np.stack(rows)


@contextmanager
def resident_peak() -> Iterator[list[float]]:
    """Yield a one-item list that will hold the peak memory, in MB, of this process and children."""
    peak, ended, main = [0.0], threading.Event(), psutil.Process()

    def watch() -> None:
        while not ended.wait(0.05):
            total = 0
            for process in [main, *main.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak[0] = max(peak[0], total / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def main(
    films: Annotated[int, typer.Option(help="Films of each kind for the speed.")] = 480,
    small_films: Annotated[int, typer.Option(help="Films of 1x for the memory.")] = 400,
    workers: Annotated[int, typer.Option(help="Processes; 0 is one a core.")] = 0,
) -> None:
    """Print the rows for memory and for speed."""
    import torch  # not at the top: workers import this file and need no torch

    from benchmarks.common import Comparison, machine, row

    workers = resolve_workers(workers, films)
    print(machine(torch.device("cpu")))
    with TemporaryDirectory() as name:
        folder = Path(name)
        peaks: dict[int, float] = {}
        for count in (small_films, 4 * small_films, 16 * small_films):
            slots = make_films(folder / str(count), "JPEG", count, SMALL_FILM)
            with resident_peak() as peak:
                pack_films(
                    folder / str(count),
                    slots,
                    size=SIZE,
                    scratch=folder / "memory",
                    workers=workers,
                )
            peaks[count] = peak[0]
        (few, least), *more = peaks.items()
        for count, most in more:
            title = f"peak memory of ingest, {count:,} films against {few:,}"
            print(f"| {title} | {most:.0f} MB | {least:.0f} MB | {least / most:.2f} | |")

        for kind in KINDS:
            slots = make_films(folder / kind, kind, films, FILM)
            started = time.perf_counter()
            packed = pack_films(
                folder / kind, slots, size=SIZE, scratch=folder / f"{kind} packed", workers=workers
            )
            between = time.perf_counter()
            rows = plain_loop(folder / kind, slots)
            comparison = Comparison(between - started, time.perf_counter() - between)
            np.testing.assert_array_equal(np.load(packed.array), rows)
            rate = f"{films / comparison.fast:.0f}"
            row(f"ingest of {films} {kind} films", comparison, images_per_second=rate)


if __name__ == "__main__":
    typer.run(main)
