"""Ridge logistic regression of several findings at once, with a cross-validated penalty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uar.core.progress import progress

STUDIES = 5_000  # the most that are fitted to
PENALTIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # of half the squared weights, added to mean nats
FOLDS = 5
_SCALE = 10.0  # mean squared norm of a study's features, for which the penalties are chosen


def sampled(studies: np.ndarray, seed: int) -> np.ndarray:
    """The studies `(N,)` in order, or if more than `STUDIES`, that many drawn at random."""
    if len(studies) <= STUDIES:
        return studies
    drawn = np.random.default_rng(seed).choice(len(studies), STUDIES, replace=False)
    return studies[np.sort(drawn)]


class Standardisation(NamedTuple):
    """A transform that centres features and gives them a mean squared norm of 10."""

    mean: Tensor  # (P,)
    scale: Tensor  # ()

    @classmethod
    def of(cls, features: np.ndarray) -> Standardisation:
        """The standardisation for features `(S, P)` of the studies to fit to."""
        x = _floats(features)
        mean = x.mean(0)
        scale = (_SCALE / (x - mean).square().sum(1).mean().clamp_min(1e-12)).sqrt()
        return cls(mean, scale)

    def __call__(self, features: np.ndarray) -> Tensor:
        """Standardise `(S, P)` to `(S, P + 1)`, whose last column is ones."""
        x = _floats(features)
        return torch.cat([(x - self.mean) * self.scale, torch.ones(len(x), 1)], 1)


def _floats(features: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(features)).float()


def fit_path(x: Tensor, y: Tensor) -> list[Tensor]:
    """Weights `(P + 1, N)` for each of `PENALTIES`, each started from the previous, larger one's.

    Args:
        x: `(S, P + 1)`, from `Standardisation`; the weights of its last column are not penalised.
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
    """Cross-validate in five folds: held-out studies and their logits for each of `PENALTIES`.

    Args:
        x: `(S, P + 1)`, from `Standardisation`.
        labels: `(S, N)` bool.
        seed: decides the folds.
        what: names the progress bar.

    Returns:
        For each fold, which studies are held out, `(S,)` bool, and six `(number held out, N)`.
    """
    fold = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)) % FOLDS)
    for left_out in progress(range(FOLDS), what, FOLDS, "fold"):
        inside = fold != left_out
        path = fit_path(x[inside], torch.from_numpy(labels[inside.numpy()]).float())
        yield ~inside.numpy(), [(x[~inside] @ weights).numpy() for weights in path]
