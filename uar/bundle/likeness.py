"""Whether a film is like those that a model was trained on, and the right way round.

A model writes a fluent report of whatever it is given: a CT slice, noise, a film upside down. Its
words are as probable there as for a chest film, so likeness is measured on the films instead, by
five scores of a film x that stands in view slot v. Larger is stranger; n training films fill v.

tokens
    Mean over places p of -log f[v, p, x_p], f[v, p, k] = (c[v, p, k] + 1/2) / (m + |V_I| / 2): x_p
    is the visual token at p, c how often the m cached views (whole films and their crops) have a
    token at a place. Only for models that read tokens.
codes
    The same for tokens regardless of place: mean over p of -log mean over q of f[v, q, x_p].
thumbnail
    Mahalanobis distance b_v(t) = sqrt((t - mu_v)' S_v^-1 (t - mu_v)) of t, the film as 16 x 16
    means of equal boxes, standardised to mean 0 and deviation 1. mu_v and C_v are the mean and
    covariance of the training films' thumbnails; S_v = .9 C_v + .1 tr(C_v)/256 I.
correlation
    Minus Pearson's correlation of t and mu_v.
turned
    b_v(t) - min over T of b_v(T t): how much more likely the film would be if it were mirrored,
    turned by quarters, or inverted.

A film is at home in the slot where its first available score (tokens, else thumbnail) is least.

The scores of films that the likeness was not fitted to are measured on the training films
themselves: each fifth of the studies by a fit to the other four. Scores become comparable as tail
probabilities. Above q, the 90th percentile of the films that are at home in v, a score follows
a generalised Pareto distribution (Pickands 1975) with the mean e and the variance s^2 of the
excesses, so shape g = (1 - e^2/s^2) / 2 and scale a = e (1 + e^2/s^2) / 2 (Hosking and Wallis
1987). z = log(u) / g with u = 1 + g (score - q) / a is minus the log of the share of that tail
beyond the score. Where u < .1, near the end of a tail that ends (g < 0), the tangent at .1 replaces
the logarithm; below q, z = (score - q) / a. A study is as strange as the largest z of its
films, and the limit is the 99.5th percentile over studies. A film beyond it is unlike those of
training, unless it is at home in another slot and within the limit there: then it is a film of
another view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from uar.core.errors import UserError
from uar.core.weights import read_weights, write_weights
from uar.data.films import squash, standardised

SIDE = 16  # of a thumbnail
LEAST = 50  # training films of a slot; fewer set no limit
WITH_TOKENS = ("tokens", "codes", "thumbnail", "correlation", "turned")
WITHOUT_TOKENS = WITH_TOKENS[2:]
_KIND = "likeness"
_SHRINKAGE = 0.1
_FOLDS = 5
_TAIL, _LIMIT = 0.90, 0.995  # quantiles of films, and of studies
_END = 0.1  # of u; below it, a tangent replaces the logarithm
_BLOCK = 256  # films

_WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of thumbnails (N, 16, 16)
    "mirrored": lambda t: t[:, :, ::-1],
    "upside down": lambda t: t[:, ::-1, ::-1],
    "upside down and mirrored": lambda t: t[:, ::-1],
    "turned by 90° to the left": lambda t: np.rot90(t, -1, (1, 2)),
    "turned by 90° to the right": lambda t: np.rot90(t, 1, (1, 2)),
    "turned by 90° and mirrored": lambda t: t.transpose(0, 2, 1),
    "mirrored and turned by 90°": lambda t: t[:, ::-1, ::-1].transpose(0, 2, 1),
    "inverted (bones dark)": lambda t: -t,
}


@dataclass(frozen=True)
class FilmSet:
    """Films of a split.

    Attributes:
        films: of the whole data set, `(N, size, size)` uint8; may be memory-mapped.
        tokens: their cached tokens, `(N, 1 + K, L)`, the whole film first; None if there are none.
        rows: of each study's films in these arrays, `(S, V)`.
        held: `(S, V)` bool, films that the study has; another may stand in for a missing one.
    """

    films: np.ndarray
    tokens: np.ndarray | None
    rows: np.ndarray
    held: np.ndarray

    @property
    def fewest(self) -> int:
        """Number of films in the slot that has the fewest."""
        return min(len(self.studies_with(view)) for view in range(self.rows.shape[1]))

    def studies_with(self, view: int) -> np.ndarray:
        """Positions of the studies with a film in a slot; of all studies if at most one has any."""
        held = self.held[:, view]
        return np.flatnonzero(held) if held.sum() > 1 else np.arange(len(held))

    def blocks(self, view: int, studies: np.ndarray) -> Iterator[np.ndarray]:
        """Rows of these studies' films in a slot, a block at a time to save memory."""
        rows = self.rows[studies, view]
        for start in range(0, len(rows), _BLOCK):
            yield rows[start : start + _BLOCK]


class _Sums(NamedTuple):
    """What the films of a slot add up to: enough for their mean, covariance and token counts."""

    films: np.ndarray  # their number, `()`
    thumbnails: np.ndarray  # sum, `(256,)`
    squares: np.ndarray  # sum of outer products, `(256, 256)`
    tokens: np.ndarray  # how often each is at each place, `(L, |V_I|)`; `(0, |V_I|)` without any

    def less(self, other: _Sums) -> _Sums:
        """The sums without some of the films."""
        return _Sums(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def mean(self) -> np.ndarray:
        """Mean of the thumbnails."""
        return np.asarray(self.thumbnails / self.films)

    @property
    def precision(self) -> np.ndarray:
        """Inverse of the thumbnails' shrunk covariance."""
        spread = self.squares - self.films * np.outer(self.mean, self.mean)
        return np.asarray(np.linalg.inv(_shrunk(spread / (self.films - 1))))

    @property
    def token_costs(self) -> np.ndarray:
        """-log frequency of each token at each place, `(L, |V_I|)`."""
        views = self.tokens.sum(axis=1, keepdims=True)
        frequency = (self.tokens + 0.5) / (views + 0.5 * self.tokens.shape[1])
        return np.asarray(-np.log(frequency))


@dataclass(frozen=True)
class FilmLikeness:
    """How similar one film is to the training films.

    Attributes:
        scores: by name, as the module describes; larger is stranger.
        strangeness: largest z as a share of its limit.
        turned: how it seems to be turned, if that score is beyond the limit and the thumbnail,
            turned back, would be within it; else None.
        other_view: the other slot in which it is at home and within the limit; None without one.
    """

    scores: dict[str, float]
    strangeness: float
    turned: str | None = None
    other_view: int | None = None

    @property
    def unlike(self) -> bool:
        """Whether it is beyond the limit and not a film of another view."""
        return self.strangeness > 1 and self.other_view is None


@dataclass(frozen=True)
class Likeness:
    """What the films of V view slots are like, by K scores; a thumbnail has 256 pixels.

    Attributes:
        mean: of the training films' thumbnails, `(V, 256)` float32.
        precision: inverse of their shrunk covariance, `(V, 256, 256)` float32.
        start: 90th percentile of each score, `(V, K)` float32.
        scale, shape: of the distribution of the excesses over it, `(V, K)` float32.
        limit: of the largest z, `()` float32.
        token_costs: -log frequency of tokens by place, `(V, L, |V_I|)` float16; None for pixels.
    """

    mean: Tensor
    precision: Tensor
    start: Tensor
    scale: Tensor
    shape: Tensor
    limit: Tensor
    token_costs: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse tensors that do not belong together."""
        views, pixels = self.mean.shape[0], SIDE**2
        scores = len(self.names)
        wanted: dict[str, tuple[int, ...]] = {
            "mean": (views, pixels),
            "precision": (views, pixels, pixels),
            "start": (views, scores),
            "scale": (views, scores),
            "shape": (views, scores),
            "limit": (),
        }
        found = {name: tuple(getattr(self, name).shape) for name in wanted}
        if found != wanted or (self.token_costs is not None and len(self.token_costs) != views):
            raise UserError(f"the likeness has tensors {found}, expected {wanted}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the K scores."""
        return WITHOUT_TOKENS if self.token_costs is None else WITH_TOKENS

    @classmethod
    def of(cls, training: FilmSet, codebook: int) -> Likeness:
        """Learn what the training films are like, and the limit beyond which a film is unlike them.

        Args:
            codebook: |V_I|; unused without tokens.
        """
        slots = [training.studies_with(view) for view in range(training.rows.shape[1])]
        folds = [[studies[studies % _FOLDS == fold] for fold in range(_FOLDS)] for studies in slots]
        parts = [
            [_sums(training, view, studies, codebook) for studies in of_slot]
            for view, of_slot in enumerate(folds)
        ]
        sums = [_Sums(*(reduce(add, of) for of in zip(*slot, strict=True))) for slot in parts]
        made = cls._fitted(sums)
        scores = [np.empty((len(training.rows), len(made.names))) for _ in slots]
        at_home = np.zeros(training.rows.shape, bool)
        for fold in range(_FOLDS):
            others = cls._fitted(
                [whole.less(of_slot[fold]) for whole, of_slot in zip(sums, parts, strict=True)]
            )
            for view, of_slot in enumerate(folds):
                found, home = others._unseen(training, view, of_slot[fold])
                scores[view][of_slot[fold]], at_home[of_slot[fold], view] = found, home
        for view, studies in enumerate(slots):  # too few at home: count all
            at_home[studies, view] |= at_home[:, view].sum() < LEAST
        found_tails = [tails(scores[v][at_home[:, v]]) for v in range(len(slots))]
        start, scale, shape = (
            _float32(np.stack(of_slot)) for of_slot in zip(*found_tails, strict=True)
        )
        made = replace(made, start=start, scale=scale, shape=shape)
        strangest = np.full(training.rows.shape, -np.inf)
        for view in range(len(slots)):
            own = at_home[:, view]
            strangest[own, view] = made.tails_beyond(scores[view][own], view).max(axis=1)
        of_studies = strangest.max(axis=1)
        limit = np.quantile(of_studies[at_home.any(axis=1)], _LIMIT, method="higher")
        return replace(made, limit=torch.tensor(max(float(limit), 1e-6)))

    @classmethod
    def _fitted(cls, sums: Sequence[_Sums]) -> Likeness:
        """Fit to the films of each slot, with tails and limit still to be set."""
        costs = [of_slot.token_costs for of_slot in sums if len(of_slot.tokens)]
        unset = torch.ones(len(sums), len(WITH_TOKENS if costs else WITHOUT_TOKENS))
        return cls(
            mean=_float32(np.stack([of_slot.mean for of_slot in sums])),
            precision=_float32(np.stack([of_slot.precision for of_slot in sums])),
            start=unset,
            scale=unset,
            shape=unset,
            limit=torch.ones(()),
            token_costs=torch.from_numpy(np.stack(costs)).half() if costs else None,
        )

    def _unseen(self, of: FilmSet, view: int, studies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores `(n, K)` of these studies' films in a slot, and whether they are at home there."""
        scores, homes = [np.empty((0, len(self.names)))], [np.empty(0, bool)]
        for rows in of.blocks(view, studies):
            thumbnails = _thumbnails(of.films[rows])
            tokens = None if of.tokens is None else of.tokens[rows, 0]
            scores.append(self._scores(thumbnails, tokens, view))
            homes.append(self._homes(thumbnails, tokens) == view)
        return np.concatenate(scores), np.concatenate(homes)

    def measure(self, film: np.ndarray, tokens: np.ndarray | None, view: int) -> FilmLikeness:
        """Measure how similar a film is to the training films of slot `view`.

        Args:
            film: as packed, `(size, size)` uint8.
            tokens: `(L,)` of the whole film, as the model reads them; None if it reads none.
            view: the slot that it is given in, counted from 0.
        """
        thumbnail = _thumbnails(film[None])
        each = None if tokens is None else tokens[None]
        scores, strangeness = self._strangeness(thumbnail, each, view)
        turned, home = None, int(self._homes(thumbnail, each)[0])
        other = (
            home if home != view and self._strangeness(thumbnail, each, home)[1][0] <= 1 else None
        )
        if other is None and self.tails_beyond(scores, view)[0, -1] > float(self.limit):
            turned = self._way(thumbnail, view)
        return FilmLikeness(
            dict(zip(self.names, scores[0].tolist(), strict=True)),
            float(strangeness[0]),
            turned,
            other,
        )

    def strangeness(self, films: np.ndarray, tokens: np.ndarray | None, view: int) -> np.ndarray:
        """`FilmLikeness.strangeness` of many films `(N, size, size)` in a slot, `(N,)`."""
        return self._strangeness(_thumbnails(films), tokens, view)[1]

    def _strangeness(
        self, thumbnails: np.ndarray, tokens: np.ndarray | None, view: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores `(N, K)` and strangeness `(N,)`."""
        scores = self._scores(thumbnails, tokens, view)
        return scores, self.tails_beyond(scores, view).max(axis=1) / float(self.limit)

    def tails_beyond(self, scores: np.ndarray, view: int) -> np.ndarray:
        """z of scores `(N, K)`: minus the log of the share of the tail beyond each."""
        scale, shape = (t[view].double().numpy() for t in (self.scale, self.shape))
        over = (scores - self.start[view].double().numpy()) / scale
        shape = np.where(np.abs(shape) < 1e-9, 1e-9, shape)  # 0: the exponential distribution
        u = 1 + shape * np.maximum(over, 0)
        known = np.maximum(u, _END)
        beyond = (np.log(known) + (u - known) / known) / shape
        return np.where(over > 0, beyond, over)

    def _homes(self, thumbnails: np.ndarray, tokens: np.ndarray | None) -> np.ndarray:
        """The slot in which each film is at home, `(N,)`."""
        views = range(len(self.mean))
        return np.argmin([self._scores(thumbnails, tokens, v)[:, 0] for v in views], axis=0)

    def _scores(self, thumbnails: np.ndarray, tokens: np.ndarray | None, view: int) -> np.ndarray:
        """Scores `(N, K)` of thumbnails `(N, 256)` and tokens `(N, L)`."""
        mean = self.mean[view].double().numpy()
        far = self._distance(thumbnails, view)
        ways = [self._distance(other, view) for other in _ways(thumbnails).values()]
        columns = [
            far,
            -thumbnails @ standardised(mean.reshape(1, SIDE, SIDE))[0] / SIDE**2,
            far - np.min(ways, axis=0),
        ]
        if self.token_costs is not None:
            assert tokens is not None  # such a bundle has a tokenizer
            costs, read = self.token_costs[view].double().numpy(), tokens.astype(np.int64)
            anywhere = -np.log(np.exp(-costs).mean(axis=0))
            here = costs[np.arange(len(costs)), read]
            columns[:0] = [here.mean(axis=1), anywhere[read].mean(axis=1)]
        return np.stack(columns, axis=1)

    def _distance(self, thumbnails: np.ndarray, view: int) -> np.ndarray:
        off = thumbnails - self.mean[view].double().numpy()
        squares = ((off @ self.precision[view].double().numpy()) * off).sum(axis=1)
        return np.sqrt(np.maximum(squares, 0))

    def _way(self, thumbnail: np.ndarray, view: int) -> str | None:
        """How a film is turned, if its thumbnail would be within the limit once turned back."""
        far = {name: self._distance(t, view)[0] for name, t in _ways(thumbnail).items()}
        nearest = min(far, key=lambda name: far[name])
        scores = np.full((1, len(self.names)), -np.inf)
        scores[0, self.names.index("thumbnail")] = far[nearest]
        return nearest if self.tails_beyond(scores, view).max() <= float(self.limit) else None

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        write_weights(path, _KIND, {k: v for k, v in parts.items() if v is not None}, {})

    @classmethod
    def load(cls, path: Path) -> Likeness:
        """Read what `save` wrote.

        Raises:
            UserError: the file is damaged or not a likeness.
        """
        tensors, _ = read_weights(path, _KIND)
        try:
            return cls(**tensors)
        except TypeError:
            wanted = [field.name for field in fields(cls)]
            raise UserError(
                f"its likeness has tensors {sorted(tensors)}, expected {wanted}"
            ) from None


def _ways(thumbnails: np.ndarray) -> dict[str, np.ndarray]:
    """The thumbnails with each way of turning undone, `(N, 256)` each."""
    squares = thumbnails.reshape(-1, SIDE, SIDE)
    return {name: way(squares).reshape(len(squares), -1) for name, way in _WAYS.items()}


def _thumbnails(films: np.ndarray) -> np.ndarray:
    """Standardised thumbnails of films, `(N, 256)` float64."""
    return standardised(np.stack([squash(film, SIDE) for film in films]))


def _shrunk(covariance: np.ndarray) -> np.ndarray:
    pixels = len(covariance)
    even = max(np.trace(covariance) / pixels, 1e-6)
    return (1 - _SHRINKAGE) * covariance + _SHRINKAGE * even * np.eye(pixels)


def _sums(of: FilmSet, view: int, studies: np.ndarray, codebook: int) -> _Sums:
    """Sums over these studies' films in a slot; tokens are counted in all their cached views."""
    pixels, length = SIDE**2, 0 if of.tokens is None else of.tokens.shape[2]
    films, total, squares = 0, np.zeros(pixels), np.zeros((pixels, pixels))
    counts = np.zeros(length * codebook, np.int64)
    for rows in of.blocks(view, studies):
        thumbnails = _thumbnails(of.films[rows])
        films += len(rows)
        total += thumbnails.sum(axis=0)
        squares += thumbnails.T @ thumbnails
        if of.tokens is not None:
            placed = of.tokens[rows].astype(np.int64) + np.arange(length) * codebook
            counts += np.bincount(placed.ravel(), minlength=len(counts))
    return _Sums(np.array(films), total, squares, counts.reshape(length, codebook))


def tails(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start, scale and shape of the tail of each score, `(K,)` each, from scores `(N, K)`."""
    start = np.quantile(scores, _TAIL, axis=0)
    excesses = [of_score[of_score > 0] for of_score in (scores - start).T]
    mean = np.array([of_score.mean() if len(of_score) else 0.0 for of_score in excesses])
    variance = np.array([of_score.var() if len(of_score) else 0.0 for of_score in excesses])
    ratio = mean**2 / np.maximum(variance, 1e-12)
    ratio = np.where(variance > 1e-12, ratio, 1)  # no variance to get a shape from: exponential
    return start, np.maximum(mean * (1 + ratio) / 2, 1e-6), (1 - ratio) / 2


def _float32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()
