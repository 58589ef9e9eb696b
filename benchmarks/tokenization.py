"""`python -m benchmarks.tokenization`: speed against its encoder alone and a plain loop; memory.

The references of the rows: the encoder's own forward passes on tensors in memory (ratio 1: nothing
is lost around it); the usage shown by the `dall_e` package, one image at a time; the peak memory
for fewer images (ratio 1: it does not grow).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import dall_e
import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from benchmarks.common import machine, row, time_both
from benchmarks.iu_xray import iu_xray_params
from uar.core.device import autocast, resolve_device
from uar.core.distributed import launch
from uar.core.geometry import token_stride
from uar.core.provenance import Scratch
from uar.data.views import Views, crops_at, resize_view
from uar.tokens.cache import PackedImages, TokenCacheInfo, TokenEncoding, tokenize_images
from uar.tokens.dvae import Dvae

IMAGES = 24
FEW, MANY = 1_000, 16_000


def random_films(path: Path, count: int, size: int) -> None:
    """Write a packed array of noise, piece by piece."""
    films = open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size))
    generator = np.random.default_rng(0)
    for start in range(0, count, 1000):
        piece = films[start : start + 1000]
        piece[:] = generator.integers(0, 256, piece.shape, dtype=np.uint8)


def tokenized(folder: Path, model: Dvae, count: int, views: Views, batch_size: int = 16) -> None:
    """Do the stage's work on `folder/images.npy`, where every image is a training image."""
    images = PackedImages(folder / "images.npy", np.ones(count, dtype=bool), views)
    scratch = Scratch(folder / "unfinished", {})
    encoder = TokenEncoding(launch("auto"), model, batch_size=batch_size, precision="float32")
    info = tokenize_images(encoder, images, folder / "tokens.npy", scratch)
    shutil.rmtree(scratch.folder)
    assert isinstance(info, TokenCacheInfo)


def speed(folder: Path) -> None:
    """Print the rows against the encoder alone and against the plain loop."""
    device = resolve_device("auto")
    params = iu_xray_params("iu_xray" if device.type == "cuda" else "iu_xray_small")
    views = Views(
        kind="crops",
        crops=params.tokenize.crops,
        crop=params.image.crop,
        size=params.image.size,
        stride=token_stride(params.dvae.source, params.dvae.distill.network),
        seed=0,
    )
    batch = params.tokenize.batch_size // views.encoded * views.encoded
    torch.manual_seed(0)
    model = Dvae(params.dvae.codebook_size, params.dvae.hidden).to(device).eval()
    random_films(folder / "images.npy", IMAGES, views.size)
    films = torch.from_numpy(np.load(folder / "images.npy"))
    crops = crops_at(films, views.corners(np.arange(IMAGES)), views.crop).flatten(0, 1).float()
    pixels = torch.cat([resize_view(films, views.crop), crops / 255]).to(device)

    @torch.inference_mode()
    def encoder_alone() -> None:
        model.to(memory_format=torch.channels_last)
        for part in pixels.split(batch):
            with autocast(device, "float32"):
                model.tokenize(part)

    @torch.inference_mode()
    def plain_loop() -> None:
        model.to(memory_format=torch.contiguous_format)
        for film in pixels:
            rgb: Tensor = film.expand(1, 3, -1, -1).contiguous()
            model.encoder(dall_e.map_pixels(rgb)).argmax(dim=1)

    def stage() -> None:
        tokenized(folder, model, IMAGES, views, batch_size=params.tokenize.batch_size)

    share = time_both(stage, encoder_alone)
    views_per_second = f"{len(pixels) / share.fast:.1f}"
    row("tokenization, against its encoder alone", share, views_per_second=views_per_second)
    row("tokenization, against a plain dall_e loop", time_both(stage, plain_loop, rounds=3))


def memory(folder: Path) -> None:
    """Print the row of peak resident memory, measuring each count in a process of its own."""
    peaks = {}
    for count in (FEW, MANY):
        random_films(folder / "images.npy", count, 64)
        command = [sys.executable, "-m", "benchmarks.tokenization", str(folder), str(count)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[count] = int(told.split()[-1]) / 1024
    name = f"peak memory of tokenization, {MANY:,} images against {FEW:,}"
    ratio = peaks[FEW] / peaks[MANY]
    print(f"| {name} | {peaks[MANY]:.0f} MiB | {peaks[FEW]:.0f} MiB | {ratio:.2f} | |", flush=True)


def measure_memory(folder: Path, count: int) -> None:
    """Tokenize with the smallest encoder and print this process's peak in KiB (Linux).

    `getrusage` will not do: its peak includes memory of the process that started this one.
    """
    views = Views(kind="crops", crops=1, crop=8, size=64, stride=8, seed=0)
    tokenized(folder, Dvae(512, 64), count, views, batch_size=128)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(re.search(r"VmHWM:\s*(\d+) kB", status)[1])


def main() -> None:
    """Print all rows; with a folder and a count, run as a measured process of the last row."""
    if len(sys.argv) == 3:
        measure_memory(Path(sys.argv[1]), int(sys.argv[2]))
        return
    print(machine(resolve_device("auto")))
    with tempfile.TemporaryDirectory() as folder:
        speed(Path(folder))
        memory(Path(folder))


if __name__ == "__main__":
    main()
