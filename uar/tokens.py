"""The cached token array: images through the dVAE's encoder once, offline.

`(N, V, L)` uint16, memory-mapped. View 0 is the whole image resized; views 1..V-1 are seeded random
crops of training images, standing in for the paper's crop at random in every step (section 4.1).
Other splits are never cropped: their views 1.. repeat view 0.
A JSON file beside the array says which encoder made it; readers refuse a cache that does not match.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from tqdm import tqdm

from uar.device import autocast, describe
from uar.dvae import Dvae
from uar.errors import UserError
from uar.files import existing, read_json
from uar.images import random_crops, resize_view


@dataclass(frozen=True)
class TokenCacheInfo:
    """The JSON beside a token array."""

    encoder_sha256: str
    codebook_size: int
    image_size: int  # pixels, packed image
    crop: int  # pixels, encoder's input
    shape: tuple[int, int, int]  # (N, V, L)
    dtype: str
    seed: int
    device: str
    precision: str
    torch_version: str

    @classmethod
    def load(cls, path: Path) -> TokenCacheInfo:
        """Read the JSON. Raises UserError if it is not a token cache's."""
        try:
            raw = read_json(path)
            return cls(**{**raw, "shape": tuple(raw["shape"])})
        except (TypeError, KeyError) as error:
            raise UserError(
                f"{path} does not describe a token cache ({error}). Re-run tokenize."
            ) from None

    def refuse_other_encoder(self, expected_sha256: str, source: str) -> None:
        """Raise UserError unless `source`'s encoder made this cache."""
        if self.encoder_sha256 != expected_sha256:
            raise UserError(
                f"the token cache was made by encoder {self.encoder_sha256[:12]}, {source} expects "
                f"encoder {expected_sha256[:12]}. Run the tokenize stage again with that encoder, "
                "or fetch its tokens with `dvc pull`."
            )


@torch.inference_mode()
def tokenize_images(
    model: Dvae,
    images: np.ndarray,
    train_rows: np.ndarray,
    *,
    crop: int,
    crops: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    precision: str,
    out: Path,
) -> TokenCacheInfo:
    """Encode every image's views into `out` and return what its JSON should say.

    Args:
        model: the dVAE.
        images: `(N, size, size)` uint8.
        train_rows: `(N,)` bool, true for images of training studies.
        crop: pixels, side of the encoder's input.
        crops: K, crop views of a training image.
        batch_size: images read at once; a batch's crops are encoded `batch_size` at a time too.
        seed: of the crops.
        device: where to encode.
        precision: of the encoder, see `uar.device.autocast`; near ties differ in bfloat16.
        out: `.npy` file, `(N, 1 + K, L)` uint16.
    """
    model.to(device, memory_format=torch.channels_last).eval()
    length = (crop // 8) ** 2
    shape = (len(images), 1 + crops, length)
    tokens = open_memmap(out, mode="w+", dtype=np.uint16, shape=shape)

    def encode(pixels: Tensor) -> np.ndarray:
        with autocast(device, precision):
            tokens = [model.tokenize(batch) for batch in pixels.to(device).split(batch_size)]
        return torch.cat(tokens).cpu().numpy()

    generator = torch.Generator().manual_seed(seed)
    views = len(images) + crops * int(train_rows.sum())
    with tqdm(total=views, desc="tokenize", unit="view") as progress:
        for start in range(0, len(images), batch_size):
            rows = np.arange(start, min(start + batch_size, len(images)))
            batch = torch.from_numpy(images[rows])
            tokens[rows] = encode(resize_view(batch, crop))[:, None]
            cropped = train_rows[rows]
            if crops and cropped.any():
                pixels = random_crops(batch[torch.from_numpy(cropped)], crop, crops, generator)
                tokens[rows[cropped], 1:] = encode(pixels.flatten(0, 1)).reshape(-1, crops, length)
            progress.update(len(rows) + crops * int(cropped.sum()))
    tokens.flush()
    return TokenCacheInfo(
        encoder_sha256=model.fingerprint(),
        codebook_size=model.codebook_size,
        image_size=images.shape[1],
        crop=crop,
        shape=shape,
        dtype="uint16",
        seed=seed,
        device=describe(device),
        precision=precision,
        torch_version=torch.__version__,
    )


def open_tokens(path: Path, info: TokenCacheInfo) -> np.ndarray:
    """Memory-map a token array and check it against its JSON.

    Raises:
        UserError: the file is absent, or its shape or dtype differ from what the JSON says.
    """
    tokens = np.load(existing(path), mmap_mode="r")
    if (tokens.shape, str(tokens.dtype)) != (info.shape, info.dtype):
        raise UserError(
            f"{path} is {tokens.dtype} {tokens.shape}, its JSON says {info.dtype} {info.shape}. "
            "The two are not of one run: fetch both with `dvc pull` or re-run tokenize."
        )
    return tokens


def info_as_json(info: TokenCacheInfo) -> dict[str, object]:
    """What to write beside the array."""
    return asdict(info)
