"""The cached token array: every image encoded once, offline, by the tokenizer.

It is `(N, V, L)` uint16. View 0 is the whole image resized; views 1..V-1 are seeded random crops of
training images, standing in for the paper's random crop in every step (section 4.1).
Other splits are never cropped: their views 1..V-1 repeat view 0.
A JSON file says which encoder made the array; readers refuse a cache that does not match.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from uar.core.device import autocast, describe
from uar.core.errors import UserError, plainly
from uar.core.files import give_name, open_array, read_json, sha256, write_json
from uar.core.provenance import Scratch, release
from uar.core.unfinished import UnfinishedArray
from uar.data.views import Views, crops_at, read_packed, resize_view

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from uar.tokens.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_MEASURED_IMAGES = 32  # on which the agreements in the JSON are measured


@dataclass(frozen=True)
class TokenCacheInfo:
    """The JSON file that describes a token array."""

    encoder_sha256: str  # the tokenizer's fingerprint
    codebook_size: int  # visual words, |V_I|
    image_size: int  # pixels, packed image
    crop: int  # pixels, encoder's input
    shape: tuple[int, int, int]  # (N, V, L)
    dtype: str
    views: str  # crops | grid
    seed: int
    device: str  # that did the encoding
    precision: str  # of the encoder: auto | float32 | bfloat16
    torch_version: str
    float32_agreement: float  # share of tokens that are the same in float32
    pixel_crop_agreement: float | None  # for `grid`: share that crops of pixels give too

    @classmethod
    def load(cls, path: Path) -> TokenCacheInfo:
        """Read the JSON. Raises UserError if it is not a token cache's."""
        try:
            raw = read_json(path)
            return cls(**{**raw, "shape": tuple(raw["shape"])})
        except (TypeError, KeyError) as error:
            raise UserError(
                f"{path} does not describe a token cache ({plainly(error)}). Re-run tokenize."
            ) from None

    def save(self, path: Path) -> None:
        """Write the JSON."""
        write_json(path, asdict(self))

    @property
    def made_of(self) -> Views:
        """The views that were tokenized; models that read pixels train on the same ones."""
        return Views(
            kind=cast(Literal["crops", "grid"], self.views),
            crops=self.shape[1] - 1,
            crop=self.crop,
            size=self.image_size,
            stride=self.crop // math.isqrt(self.shape[2]),
            seed=self.seed,
        )

    @property
    def agreement(self) -> str:
        """Both agreements in words."""
        shares = f"{self.float32_agreement:.2%} of them the same in float32"
        if self.pixel_crop_agreement is not None:
            shares += (
                f"; {self.pixel_crop_agreement:.2%} of the grid's the same from crops of pixels"
            )
        return shares

    def refuse_other_encoder(self, expected_sha256: str, source: str) -> None:
        """Raise UserError unless `source`'s encoder made this cache."""
        if self.encoder_sha256 != expected_sha256:
            raise UserError(
                f"the token cache was made by encoder {self.encoder_sha256[:12]}, but {source} "
                f"expects encoder {expected_sha256[:12]}. Run the tokenize stage again with that "
                "encoder, or fetch its tokens with `dvc pull`."
            )


@dataclass(frozen=True)
class _Prepared:
    """A batch of n images, m of them to be cropped, ready for the encoder."""

    cropped: Tensor  # (n,) bool
    corners: Tensor  # (m, K, 2) pixels
    pixels: list[Tensor]  # each (*, H, W) float in [0, 1]


def _prepare(images: Tensor, rows: np.ndarray, cropped: np.ndarray, views: Views) -> _Prepared:
    whole, chosen = resize_view(images, views.crop), torch.from_numpy(cropped)
    corners = views.corners(rows[cropped])
    if not views.crops or not cropped.any():
        return _Prepared(torch.zeros_like(chosen), corners[:0], [whole])
    if views.kind == "grid":
        return _Prepared(chosen, corners, [whole, images[chosen].float() / 255])
    crops = crops_at(images[chosen], corners, views.crop).float() / 255
    return _Prepared(chosen, corners, [torch.cat([whole, crops.flatten(0, 1)])])


def _encode(encode: Callable[[Tensor], Tensor], batch: _Prepared, views: Views) -> Tensor:
    """Tokens of all views of a batch, `(n, 1 + K, L)`."""
    encoded = [encode(pixels).cpu() for pixels in batch.pixels]
    whole = encoded[0][: len(batch.cropped)]
    tokens = whole.unsqueeze(1).repeat(1, 1 + views.crops, 1)
    if len(batch.corners):
        if views.kind == "grid":
            side = views.size // views.stride
            grids = encoded[1].unflatten(1, (side, side))
            crops = crops_at(grids, batch.corners // views.stride, views.side)
        else:
            crops = encoded[0][len(whole) :]
        tokens[batch.cropped, 1:] = crops.reshape(-1, views.crops, whole.shape[1])
    return tokens


@dataclass(frozen=True)
class PackedImages:
    """Images to tokenize.

    Args:
        path: the packed array, `(N, size, size)` uint8.
        in_training: `(N,)` bool, true for images of training studies; the others are not cropped.
        views: which views of each to encode.
    """

    path: Path
    in_training: np.ndarray
    views: Views

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(N, V, L)` of their tokens."""
        return len(self.in_training), 1 + self.views.crops, self.views.side**2

    def batch(self, rows: np.ndarray) -> _Prepared:
        """The images in these rows, ready for the encoder."""
        return _prepare(read_packed(self.path, rows), rows, self.in_training[rows], self.views)


@dataclass(frozen=True)
class TokenEncoding:
    """A tokenizer that one or more processes run together.

    Args:
        fabric: the processes (`uar.core.distributed.launch`).
        tokenizer: on the fabric's device, in evaluation mode.
        batch_size: views encoded at once; those of one image stay together.
        precision: see `uar.core.device.autocast`; near ties come out differently in bfloat16.
    """

    fabric: Fabric
    tokenizer: Tokenizer
    batch_size: int
    precision: str

    def __call__(self, pixels: Tensor) -> Tensor:
        """Tokens `(n, L)` of pixels `(n, H, W)` in [0, 1]."""
        with autocast(self.fabric.device, self.precision):
            return self.tokenizer.tokenize(pixels.to(self.fabric.device, non_blocking=True))

    def exactly(self, pixels: Tensor) -> Tensor:
        """The same tokens, computed in float32."""
        return self.tokenizer.tokenize(pixels.to(self.fabric.device))

    @property
    def reduced(self) -> bool:
        """Whether its precision is below float32."""
        with autocast(self.fabric.device, self.precision):
            return torch.is_autocast_enabled(self.fabric.device.type)

    def identity(self, images: PackedImages) -> dict[str, Any]:
        """What the tokens of these images depend on, as JSON values."""
        return {
            **asdict(images.views),
            "batch_size": self.batch_size,
            "precision": self.precision,
            "device": describe(self.fabric.device),
            "encoder_sha256": self.tokenizer.fingerprint(),
            "images_sha256": sha256(images.path),
            "train_rows_sha256": hashlib.sha256(images.in_training.tobytes()).hexdigest(),
        }


@torch.inference_mode()
def tokenize_images(
    encoder: TokenEncoding, images: PackedImages, out: Path, scratch: Scratch
) -> TokenCacheInfo:
    """Encode every image's views into `out` and return what its JSON should say.

    Every process encodes and writes its share. Finished batches stay in `scratch`: a call after a
    kill, with any number of processes, continues from there. Memory does not grow with N.

    Args:
        encoder: its tokenizer is moved to the fabric's device.
        images: N of them.
        out: `.npy` file, `(N, 1 + K, L)` uint16.
        scratch: holds the unfinished array; the caller removes it once everything to be kept is
            written. Its identity is what the tokens depend on in addition to the other arguments.
    """
    fabric, views = encoder.fabric, images.views
    encoder.tokenizer.to(fabric.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    per_batch = max(1, encoder.batch_size // views.encoded)
    unfinished = UnfinishedArray(
        scratch.folder, "tokens", shape=images.shape, dtype=np.uint16, per_batch=per_batch
    )

    def prepare(rows: slice) -> _Prepared:
        batch = images.batch(np.arange(rows.start, rows.stop))
        if fabric.device.type == "cuda":
            batch.pixels[:] = [pixels.pin_memory() for pixels in batch.pixels]
        return batch

    unfinished.fill(
        fabric,
        identity=lambda: {**scratch.identity, "tokenize": encoder.identity(images)},
        prepare=prepare,
        compute=lambda batch: _encode(encoder, batch, views),
    )
    agreements: dict[str, Any] = {}
    if fabric.is_global_zero:
        agreements = _agreements(encoder, images)
        give_name(unfinished.array, out)
    return TokenCacheInfo(
        encoder_sha256=encoder.tokenizer.fingerprint(),
        codebook_size=encoder.tokenizer.codebook_size,
        image_size=views.size,
        crop=views.crop,
        shape=images.shape,
        dtype="uint16",
        views=views.kind,
        seed=views.seed,
        device=describe(fabric.device),
        precision=encoder.precision,
        torch_version=release("torch"),
        **fabric.broadcast(agreements),
    )


def _agreements(encoder: TokenEncoding, images: PackedImages) -> dict[str, Any]:
    """Shares of tokens unchanged by precision and kind of view, on images spread over the array."""
    views = images.views
    count = len(images.in_training)
    rows = np.arange(0, count, math.ceil(count / _MEASURED_IMAGES))
    films = read_packed(images.path, rows)
    float32, of_pixels = 1.0, None

    def tokens(encode: Callable[[Tensor], Tensor]) -> Tensor:
        one_by_one = zip(films.split(1), rows[:, None], strict=True)
        batches = (_prepare(film, row, np.array([True]), views) for film, row in one_by_one)
        return torch.cat([_encode(encode, batch, views) for batch in batches])

    if encoder.reduced:
        float32 = (tokens(encoder) == tokens(encoder.exactly)).float().mean().item()
    if views.kind == "grid" and views.crops:
        crops = crops_at(films, views.corners(rows), views.crop).float() / 255
        encoded = torch.stack([encoder(of_film).cpu() for of_film in crops])  # (N, K, L)
        of_pixels = (tokens(encoder)[:, 1:] == encoded).float().mean().item()
    return {"float32_agreement": float32, "pixel_crop_agreement": of_pixels}


def open_tokens(path: Path, info: TokenCacheInfo) -> np.ndarray:
    """Memory-map a token array and check it against its JSON.

    Raises:
        UserError: the file is absent, or its shape or dtype differ from what the JSON says.
    """
    tokens = open_array(path)
    if (tokens.shape, str(tokens.dtype)) != (info.shape, info.dtype):
        raise UserError(
            f"{path} is {tokens.dtype} {tokens.shape}, but its JSON says {info.dtype} "
            f"{info.shape}. The two are from different runs: fetch both with `dvc pull` or re-run "
            "tokenize."
        )
    return tokens
