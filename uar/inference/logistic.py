"""Ridge logistic regression of several findings at once, its penalty by cross-validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uar.core.progress import progress

STUDIES = 5_000  # most that is fitted to
PENALTIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # of half the squared weights, in a mean of nats
FOLDS = 5
_SCALE = 10.0  # mean squared norm of a study's features, which the penalties are for


def sampled(studies: np.ndarray, seed: int) -> np.ndarray:
    """`(N,)` studies themselves, in order; of more than `STUDIES`, that many drawn at random."""
    if len(studies) <= STUDIES:
        return studies
    drawn = np.random.default_rng(seed).choice(len(studies), STUDIES, replace=False)
    return studies[np.sort(drawn)]


class Standardisation(NamedTuple):
    """What centres features and gives them a mean squared norm of 10."""

    mean: Tensor  # (P,)
    scale: Tensor  # ()

    @classmethod
    def of(cls, features: np.ndarray) -> Standardisation:
        """Of the studies to fit to, `(S, P)`."""
        x = _floats(features)
        mean = x.mean(0)
        scale = (_SCALE / (x - mean).square().sum(1).mean().clamp_min(1e-12)).sqrt()
        return cls(mean, scale)

    def __call__(self, features: np.ndarray) -> Tensor:
        """`(S, P)` to `(S, P + 1)`, a column of ones behind."""
        x = _floats(features)
        return torch.cat([(x - self.mean) * self.scale, torch.ones(len(x), 1)], 1)


def _floats(features: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(features)).float()


def fit_path(x: Tensor, y: Tensor) -> list[Tensor]:
    """Weights `(P + 1, N)` for each of `PENALTIES`, each started from the larger one's.

    Args:
        x: `(S, P + 1)`, of `Standardisation`; the weights of its last column bear no penalty.
        y: `(S, N)`, 0 or 1.
    """
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


def held_out(
    x: Tensor, labels: np.ndarray, seed: int, what: str
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Cross-validation in five folds: who is outside, and their logits for each of `PENALTIES`.

    Args:
        x: `(S, P + 1)`, of `Standardisation`.
        labels: `(S, N)` bool.
        seed: of the folds.
        what: names the progress bar.

    Returns:
        Of each fold `(S,)` bool, and six times `(number outside, N)`.
    """
    fold = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)) % FOLDS)
    for left_out in progress(range(FOLDS), what, FOLDS, "fold"):
        inside = fold != left_out
        path = fit_path(x[inside], torch.from_numpy(labels[inside.numpy()]).float())
        yield ~inside.numpy(), [(x[~inside] @ weights).numpy() for weights in path]
