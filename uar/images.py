"""Films as pixels: decoding of PNG, JPEG and DICOM, and the packed array.

Nothing after ingest decodes a file: tokenization and the ResNet of the base model read the packed
array, `(N, size, size)` uint8, row `i * images_per_study + j` being image j of study i.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from PIL import Image
from pydicom.pixels import apply_rescale, apply_voi_lut
from torch import Tensor
from tqdm import tqdm

from uar.errors import UserError


def read_film(path: Path) -> np.ndarray:
    """One film as `(H, W)` uint8, bone bright, by the file's ending.

    Raises:
        UserError: the file is absent, cannot be decoded or holds no single grayscale film.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        is_dicom = path.suffix.lower() in (".dcm", ".dicom")
        return _read_dicom(path) if is_dicom else _read_pillow(path)
    except UserError:
        raise
    except Exception as error:  # the decoders raise of every kind
        raise UserError(f"{path}: cannot be decoded ({type(error).__name__}: {error})") from error


def _read_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode.startswith("I"):  # 16 bit
            return _stretch(np.asarray(image, dtype=np.float32))
        return np.asarray(image.convert("L"))


def _read_dicom(path: Path) -> np.ndarray:
    film = pydicom.dcmread(path)
    pixels = film.pixel_array
    if pixels.ndim != 2:
        raise UserError(f"{path}: pixel array of shape {pixels.shape}, expected one grayscale film")
    windowed = apply_voi_lut(apply_rescale(pixels, film), film).astype(np.float32)
    if film.PhotometricInterpretation == "MONOCHROME1":
        windowed = -windowed
    return _stretch(windowed)


def _stretch(pixels: np.ndarray) -> np.ndarray:
    low, high = float(pixels.min()), float(pixels.max())
    return ((pixels - low) * (255.0 / max(high - low, 1e-6))).round().astype(np.uint8)


def pack_images(paths: Sequence[Path], size: int, out: Path, workers: int = 4) -> dict[int, str]:
    """Decode each film once, squash it to `size` x `size` and write the packed array to `out`.

    Args:
        paths: N files, in row order.
        size: side of a packed image in pixels.
        out: `.npy` file, `(N, size, size)` uint8.
        workers: decoding threads.

    Returns:
        The reason for each row that could not be read; such a row is left black.
    """
    packed = open_memmap(out, mode="w+", dtype=np.uint8, shape=(len(paths), size, size))

    def pack(row: int) -> str | None:
        try:
            film = Image.fromarray(read_film(paths[row]))
        except UserError as error:
            return str(error)
        packed[row] = np.asarray(film.resize((size, size), Image.Resampling.BOX))
        return None

    with ThreadPoolExecutor(workers) as pool:
        reasons = tqdm(
            pool.map(pack, range(len(paths))), total=len(paths), desc="ingest", unit="image"
        )
        bad = {row: reason for row, reason in enumerate(reasons) if reason}
    packed.flush()
    return bad


def drop_studies(packed: Path, studies: Collection[int], images_per_study: int) -> None:
    """Rewrite the packed array without the rows of `studies`, given by their position."""
    images = np.load(packed, mmap_mode="r")
    kept = [row for row in range(len(images)) if row // images_per_study not in studies]
    smaller = packed.with_name(packed.name + ".smaller")
    out = open_memmap(smaller, mode="w+", dtype=np.uint8, shape=(len(kept), *images.shape[1:]))
    for start in range(0, len(kept), 4096):
        out[start : start + 4096] = images[kept[start : start + 4096]]
    out.flush()
    smaller.replace(packed)


def resize_view(images: Tensor, crop: int) -> Tensor:
    """The whole image at `crop` pixels, as at inference (section 4.1, Settings).

    Args:
        images: `(N, size, size)` uint8.

    Returns:
        `(N, crop, crop)` float32 in [0, 1].
    """
    pixels = images.float().unsqueeze(1) / 255
    resized = F.interpolate(pixels, (crop, crop), mode="bilinear", antialias=True)
    return resized.squeeze(1)


def crops_at(images: Tensor, corners: Tensor, crop: int) -> Tensor:
    """Crops of each image, as in training (section 4.1, Settings).

    Args:
        images: `(N, size, size)`; films, or grids of tokens.
        corners: `(N, K, 2)`, top and left of K crops of each image.
        crop: side of a crop.

    Returns:
        `(N, K, crop, crop)`, of the images' type.
    """
    rows, columns = (corners.unsqueeze(-1) + torch.arange(crop)).unbind(2)  # (N, K, crop)
    image = torch.arange(len(images)).view(-1, 1, 1, 1)
    return images[image, rows.unsqueeze(3), columns.unsqueeze(2)]


def read_packed(path: Path, rows: np.ndarray) -> Tensor:
    """Images `rows` of a packed array, `(n, size, size)` uint8.

    Copied out of a mapping that is then dropped: pages of a mapping that stays count as memory.
    """
    return torch.from_numpy(np.load(path, mmap_mode="r")[rows])
