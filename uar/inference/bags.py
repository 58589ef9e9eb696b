"""Visual tokens as bags: how often each code occurs in a view, or in a quarter of one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

AT_LEAST = 10  # fitted studies that must have a code in a quarter for it to count there


def token_bags(tokens: np.ndarray, codebook_size: int) -> np.ndarray:
    """How often each code occurs in each view, `(S, V * codebook_size)`, as log(1 + n).

    Args:
        tokens: `(S, V, L)`.
    """
    studies, views, _ = tokens.shape
    counts = np.zeros((studies, views, codebook_size), np.float32)
    rows = np.arange(studies)[:, None]
    for view in range(views):
        np.add.at(counts[:, view], (rows, tokens[:, view]), 1)
    return np.log1p(counts, out=counts).reshape(studies, -1)


def quarter_bags(tokens: np.ndarray, codebook_size: int) -> Iterator[np.ndarray]:
    """Yield `token_bags` of each view's quarters (2 x 2): upper left, upper right, then the lower.

    If a side has an odd number of cells, the upper and left quarters are the larger ones.
    """
    side = math.isqrt(tokens.shape[2])
    half = -(-side // 2)
    grid = tokens.reshape(*tokens.shape[:2], side, side)
    for rows in (slice(half), slice(half, None)):
        for columns in (slice(half), slice(half, None)):
            quarter = grid[:, :, rows, columns]
            yield token_bags(quarter.reshape(*quarter.shape[:2], -1), codebook_size)


def common_codes(bags: np.ndarray) -> np.ndarray:
    """Which columns of a quarter's bags `(S, P)` are set in at least 10 studies, `(P,)` bool."""
    return (bags > 0).sum(axis=0) >= AT_LEAST


def with_places(
    fitted: np.ndarray, tested: np.ndarray, codebook_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bags of whole views, followed by those of each quarter of each view.

    For the quarters, only the `common_codes` of the fitted studies are kept.

    Args:
        fitted: tokens `(S, V, L)` of the studies to fit to.
        tested: tokens `(U, V, L)` of the studies to test on.

    Returns:
        `(S, P)` and `(U, P)`.
    """
    parts = [(token_bags(fitted, codebook_size), token_bags(tested, codebook_size))]
    both = (quarter_bags(tokens, codebook_size) for tokens in (fitted, tested))
    for of_fitted, of_tested in zip(*both, strict=True):
        common = common_codes(of_fitted)
        parts.append((of_fitted[:, common], of_tested[:, common]))
    columns, of_others = zip(*parts, strict=True)
    return np.concatenate(columns, axis=1), np.concatenate(of_others, axis=1)
