"""What visual tokens hold: findings of a report, predicted from its study's tokens, linearly.

F(I) of Eq. 10 is a mean over tokens, so what no linear probe finds in a bag of them, the global
loss cannot align with a report either. The decoder attends to tokens that know their places, so
that the same with places is the most that a linear model can read there. A thumbnail of 16 x 16
pixels, which knows places too, is the yardstick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uar.core.progress import progress
from uar.evaluation.detection import auc

STUDIES = 5_000  # most that a probe is fitted to, and most that it is tested on
PENALTIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # of half the squared weights, in a mean of nats
FOLDS = 5
_THUMBNAIL = 16  # pixels along a side
_BLOCK = 256  # studies whose films are in memory at once
_SCALE = 10.0  # mean squared norm of a study's features, which the penalties are for
_MIN_TRAIN, _MIN_TEST = 10, 4  # positive studies, below which a finding is left out


@dataclass(frozen=True)
class Probe:
    """How well findings can be predicted.

    Attributes:
        auc: area under the ROC curve by finding, of studies that the probe was not fitted to.
        penalty: chosen by cross-validation on those it was.
    """

    auc: dict[str, float]
    penalty: float

    @property
    def mean_auc(self) -> float:
        """Mean over the findings; NaN without any."""
        return float(np.mean(list(self.auc.values()))) if self.auc else float("nan")


def sampled(studies: np.ndarray, seed: int) -> np.ndarray:
    """`(N,)` studies themselves, in order; of more than `STUDIES`, that many drawn at random."""
    if len(studies) <= STUDIES:
        return studies
    drawn = np.random.default_rng(seed).choice(len(studies), STUDIES, replace=False)
    return studies[np.sort(drawn)]


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


def with_places(
    fitted: np.ndarray, tested: np.ndarray, codebook_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bags of whole views, and beside them of each quarter (2 x 2) of each view.

    Of the quarters, only codes are kept that at least 10 of the studies to fit to have there. With
    an odd number of cells along a side the upper and left quarters are the larger ones.

    Args:
        fitted: tokens `(S, V, L)` of the studies to fit to.
        tested: of those to test on `(U, V, L)`.

    Returns:
        `(S, P)` and `(U, P)`.
    """
    side = math.isqrt(fitted.shape[2])
    half = -(-side // 2)
    parts = [tuple(token_bags(tokens, codebook_size) for tokens in (fitted, tested))]
    for rows in (slice(half), slice(half, None)):
        for columns in (slice(half), slice(half, None)):
            quarters = (
                tokens.reshape(*tokens.shape[:2], side, side)[:, :, rows, columns]
                for tokens in (fitted, tested)
            )
            of_quarter = [token_bags(q.reshape(*q.shape[:2], -1), codebook_size) for q in quarters]
            common = (of_quarter[0] > 0).sum(axis=0) >= _MIN_TRAIN
            parts.append(tuple(bag[:, common] for bag in of_quarter))
    of_fitted, of_tested = zip(*parts, strict=True)
    return np.concatenate(of_fitted, axis=1), np.concatenate(of_tested, axis=1)


def thumbnails(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Films at 16 x 16 pixels, `(S, V * 256)`, gray in [0, 1].

    Args:
        images: packed, `(N, H, W)` uint8.
        rows: of each study's, `(S, V)`.
    """
    small = np.empty((len(rows), rows.shape[1] * _THUMBNAIL**2), np.float32)
    for start in range(0, len(rows), _BLOCK):
        pixels = torch.from_numpy(images[rows[start : start + _BLOCK]]).float() / 255
        of_block = F.interpolate(pixels, (_THUMBNAIL, _THUMBNAIL), mode="bilinear", antialias=True)
        small[start : start + _BLOCK] = of_block.flatten(1)
    return small


def probe(
    features: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    names: Sequence[str],
    *,
    seed: int = 0,
) -> Probe:
    """Logistic regression of each finding on centred features, with one penalty for all.

    Args:
        features: of the studies to fit to `(S, P)`, and of those to test on `(U, P)`.
        labels: findings of the same, `(S, N)` and `(U, N)` bool.
        names: of the N findings; those with fewer than 10 and 4 studies are left out.
        seed: of the folds.
    """
    enough = (labels[0].sum(0) >= _MIN_TRAIN) & (labels[1].sum(0) >= _MIN_TEST)
    y, y_test = (of_split[:, enough] for of_split in labels)
    kept = [name for name, is_kept in zip(names, enough, strict=True) if is_kept]
    if not kept:
        return Probe({}, PENALTIES[0])
    x, x_test = _standardised(*features)
    fold = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)) % FOLDS)
    scores = np.zeros(len(PENALTIES))
    for held_out in progress(range(FOLDS), "probe", FOLDS, "fold"):
        inside = fold != held_out
        paths = _fit(x[inside], torch.from_numpy(y[inside.numpy()]).float())
        for i, weights in enumerate(paths):
            outside = (x[~inside] @ weights).numpy()
            scores[i] += np.nanmean(_aucs(outside, y[~inside.numpy()]))
    best = int(scores.argmax())
    weights = _fit(x, torch.from_numpy(y).float())[best]
    aucs = _aucs((x_test @ weights).numpy(), y_test)
    return Probe(dict(zip(kept, aucs.tolist(), strict=True)), PENALTIES[best])


def _standardised(fitted: np.ndarray, tested: np.ndarray) -> tuple[Tensor, Tensor]:
    """Centred, of mean squared norm `_SCALE`, and a column of ones behind."""
    x, x_test = (torch.from_numpy(np.ascontiguousarray(part)).float() for part in (fitted, tested))
    mean = x.mean(0)
    scale = (_SCALE / (x - mean).square().sum(1).mean().clamp_min(1e-12)).sqrt()
    return (
        torch.cat([(x - mean) * scale, torch.ones(len(x), 1)], 1),
        torch.cat([(x_test - mean) * scale, torch.ones(len(x_test), 1)], 1),
    )


def _fit(x: Tensor, y: Tensor) -> list[Tensor]:
    """Weights `(P + 1, N)` for each penalty, each started from the larger one's."""
    weights = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    fitted = []
    for penalty in PENALTIES:
        optimizer = torch.optim.LBFGS(
            [weights], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-6
        )

        def closure(penalty: float = penalty, step: torch.optim.LBFGS = optimizer) -> Tensor:
            step.zero_grad()
            nats = F.binary_cross_entropy_with_logits(x @ weights, y, reduction="sum") / len(x)
            loss = nats + penalty / 2 * weights[:-1].square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        fitted.append(weights.detach().clone())
    return fitted


def _aucs(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.array([auc(s, y) for s, y in zip(scores.T, labels.T, strict=True)])
