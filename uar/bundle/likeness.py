"""Whether a film is like those that a model was trained on, and the right way round.

A model writes a fluent report of whatever it is given: a CT slice, noise, a film upside down. Its
words are as probable there as of a chest film, so likeness is measured on the films instead, by
four scores of a film x that stands in view slot v. Larger is stranger; n training films fill v.

tokens
    Mean over places p of -log((c[v, p, x_p] + 1/2) / (m + |V_I| / 2)): x_p is the visual token at
    p, c how often the m cached views (the whole film and its crops) have it there. Only of models
    that read tokens.
thumbnail
    Mahalanobis distance b_v(t) = sqrt((t - mu_v)' S_v^-1 (t - mu_v)) of t, the film as 16 x 16
    means of equal boxes, standardised to mean 0 and deviation 1. mu_v and C_v are the mean and
    covariance of the training films' thumbnails; S_v = .9 C_v + .1 tr(C_v)/256 I.
correlation
    Minus Pearson's correlation of t and mu_v.
turned
    b_v(t) - min over T of b_v(T t): how much more likely the film would be mirrored, turned by
    quarters, or inverted.

A film is at home in the slot where the first score that there is (tokens, else thumbnail) is least.
Scores are compared in units of their tails: z = (score - q) / e, where q is the 90th percentile of
the validation films that are at home in v, and e their mean excess over it. A film is unlike those
of training where the largest z exceeds the 99.5th percentile that it has on those films, unless it
is at home in another slot and within that one's limit: then it is a film of another view.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uar.core.errors import UserError
from uar.core.weights import read_weights, write_weights
from uar.data.films import squash, standardised

SIDE = 16  # of a thumbnail
LEAST = 50  # validation films of a slot, fewer of which set no limit
WITH_TOKENS = ("tokens", "thumbnail", "correlation", "turned")
WITHOUT_TOKENS = WITH_TOKENS[1:]
_KIND = "likeness"
_SHRINKAGE = 0.1
_TAIL, _LIMIT = 0.90, 0.995  # quantiles of validation
_BLOCK = 256  # films

_WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of thumbnails (N, 16, 16)
    "mirrored": lambda t: t[:, :, ::-1],
    "upside down": lambda t: t[:, ::-1, ::-1],
    "upside down and mirrored": lambda t: t[:, ::-1],
    "turned by 90° to the left": lambda t: np.rot90(t, -1, (1, 2)),
    "turned by 90° to the right": lambda t: np.rot90(t, 1, (1, 2)),
    "turned by 90° and mirrored": lambda t: t.transpose(0, 2, 1),
    "mirrored and turned by 90°": lambda t: t[:, ::-1, ::-1].transpose(0, 2, 1),
    "inverted, bone dark": lambda t: -t,
}


@dataclass(frozen=True)
class FilmSet:
    """Films of a split.

    Attributes:
        films: of the whole data set, `(N, size, size)` uint8; may be memory-mapped.
        tokens: their cached tokens, `(N, 1 + K, L)`, the whole film first; None without any.
        rows: of each study's films in those, `(S, V)`.
        held: `(S, V)` bool, films that the study has: another film may stand in for one.
    """

    films: np.ndarray
    tokens: np.ndarray | None
    rows: np.ndarray
    held: np.ndarray

    @property
    def fewest(self) -> int:
        """Films of the slot that has the fewest."""
        return min(len(self.of_view(view)) for view in range(self.rows.shape[1]))

    def of_view(self, view: int) -> np.ndarray:
        """Rows of the films in a slot; of stand-ins too where hardly any film is there."""
        held = self.held[:, view]
        return self.rows[held if held.sum() > 1 else slice(None), view]


@dataclass(frozen=True)
class FilmLikeness:
    """How like the training films one film is.

    Attributes:
        scores: by name, as the module says; larger is stranger.
        strangeness: largest z as a share of its limit.
        turned: how it seems to be turned, where that score is beyond the limit and the thumbnail
            would not be otherwise; else None.
        other_view: the slot in which it is at home, within that slot's limit; None in its own.
    """

    scores: dict[str, float]
    strangeness: float
    turned: str | None = None
    other_view: int | None = None

    @property
    def unlike(self) -> bool:
        """Whether it is beyond the limit, and no film of another view."""
        return self.strangeness > 1 and self.other_view is None


@dataclass(frozen=True)
class Likeness:
    """What the films of V view slots are like; K scores, 256 pixels of a thumbnail.

    Attributes:
        mean: of the training films' thumbnails, `(V, 256)` float32.
        precision: inverse of their shrunk covariance, `(V, 256, 256)` float32.
        start: validation's 90th percentile of each score, `(V, K)` float32.
        scale: mean excess over it, `(V, K)` float32.
        limit: of the largest z, `(V,)` float32.
        token_costs: -log frequency of tokens by place, `(V, L, |V_I|)` float16; None without.
    """

    mean: Tensor
    precision: Tensor
    start: Tensor
    scale: Tensor
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
            "limit": (views,),
        }
        found = {name: tuple(getattr(self, name).shape) for name in wanted}
        if found != wanted or (self.token_costs is not None and len(self.token_costs) != views):
            raise UserError(f"the likeness has tensors {found}, expected {wanted}")

    @property
    def names(self) -> tuple[str, ...]:
        """The K scores."""
        return WITHOUT_TOKENS if self.token_costs is None else WITH_TOKENS

    @classmethod
    def of(cls, training: FilmSet, validation: FilmSet, codebook: int) -> Likeness:
        """Learn what the training films are like, and set limits on the validation films.

        Args:
            codebook: |V_I|; of no use without tokens.
        """
        views = range(training.rows.shape[1])
        thumbnails = [_thumbnails(training.films, training.of_view(v)) for v in views]
        spread = [_shrunk(np.cov(t, rowvar=False)) for t in thumbnails]
        made = cls(
            mean=_float32(np.stack([t.mean(axis=0) for t in thumbnails])),
            precision=_float32(np.stack([np.linalg.inv(c) for c in spread])),
            token_costs=None
            if training.tokens is None
            else torch.stack(
                [_token_costs(training.tokens, training.of_view(v), codebook) for v in views]
            ),
            **_no_limits(len(views), 3 if training.tokens is None else 4),
        )
        start, scale, limit = [], [], []
        for view in views:
            rows = validation.of_view(view)
            tokens = None if validation.tokens is None else validation.tokens[rows, 0]
            scores = made._of_own_view(_thumbnails(validation.films, rows), tokens, view)
            q = np.quantile(scores, _TAIL, axis=0)
            over = scores > q
            excess = np.where(over, scores - q, 0).sum(axis=0) / np.maximum(over.sum(axis=0), 1)
            start.append(q)
            scale.append(np.maximum(excess, 1e-6))
            largest = ((scores - q) / scale[-1]).max(axis=1)
            limit.append(max(float(np.quantile(largest, _LIMIT, method="higher")), 1e-6))
        return cls(
            made.mean,
            made.precision,
            _float32(np.stack(start)),
            _float32(np.stack(scale)),
            _float32(np.array(limit)),
            made.token_costs,
        )

    def judge(self, film: np.ndarray, tokens: np.ndarray | None, view: int) -> FilmLikeness:
        """How like the training films of slot `view` a film is.

        Args:
            film: as packed, `(size, size)` uint8.
            tokens: `(L,)` of the whole film, as the model reads them; None without.
            view: the slot that it is given in, from 0.
        """
        thumbnail = standardised(squash(film, SIDE)[None])
        each = None if tokens is None else tokens[None]
        scores, strangeness = self._strangeness(thumbnail, each, view)
        turned, home = None, int(self._homes(thumbnail, each)[0])
        other = (
            home if home != view and self._strangeness(thumbnail, each, home)[1][0] <= 1 else None
        )
        if other is None and self._z(scores, view)[0, -1] > float(self.limit[view]):
            turned = self._way(thumbnail, view)
        return FilmLikeness(
            dict(zip(self.names, scores[0].tolist(), strict=True)),
            float(strangeness[0]),
            turned,
            other,
        )

    def strangeness(self, films: np.ndarray, tokens: np.ndarray | None, view: int) -> np.ndarray:
        """`FilmLikeness.strangeness` of many films `(N, size, size)` in a slot, `(N,)`."""
        return self._strangeness(_thumbnails(films, np.arange(len(films))), tokens, view)[1]

    def _strangeness(
        self, thumbnails: np.ndarray, tokens: np.ndarray | None, view: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores `(N, K)` and strangeness `(N,)`."""
        scores = self._scores(thumbnails, tokens, view)
        return scores, self._z(scores, view).max(axis=1) / float(self.limit[view])

    def _z(self, scores: np.ndarray, view: int) -> np.ndarray:
        """Scores `(N, K)` in units of their tails."""
        return (scores - self.start[view].numpy()) / self.scale[view].numpy()

    def _homes(self, thumbnails: np.ndarray, tokens: np.ndarray | None) -> np.ndarray:
        """The slot in which each film is at home, `(N,)`."""
        views = range(len(self.mean))
        return np.argmin([self._scores(thumbnails, tokens, v)[:, 0] for v in views], axis=0)

    def _of_own_view(
        self, thumbnails: np.ndarray, tokens: np.ndarray | None, view: int
    ) -> np.ndarray:
        """Scores of the films that are at home in `view`; of all where these are few."""
        own = self._homes(thumbnails, tokens) == view
        return self._scores(thumbnails, tokens, view)[own if own.sum() >= LEAST else slice(None)]

    def _scores(self, thumbnails: np.ndarray, tokens: np.ndarray | None, view: int) -> np.ndarray:
        """`(N, K)` of thumbnails `(N, 256)` and tokens `(N, L)`."""
        mean = self.mean[view].double().numpy()
        far = self._distance(thumbnails, view)
        ways = [self._distance(other, view) for other in _ways(thumbnails).values()]
        columns = [
            far,
            -thumbnails @ standardised(mean.reshape(1, SIDE, SIDE))[0] / SIDE**2,
            far - np.min(ways, axis=0),
        ]
        if self.token_costs is not None:
            assert tokens is not None  # the bundle has a tokenizer then
            costs = self.token_costs[view].float().numpy()
            columns.insert(0, costs[np.arange(len(costs)), tokens.astype(np.int64)].mean(axis=1))
        return np.stack(columns, axis=1)

    def _distance(self, thumbnails: np.ndarray, view: int) -> np.ndarray:
        off = thumbnails - self.mean[view].double().numpy()
        squares = ((off @ self.precision[view].double().numpy()) * off).sum(axis=1)
        return np.sqrt(np.maximum(squares, 0))

    def _way(self, thumbnail: np.ndarray, view: int) -> str | None:
        """How a film is turned whose thumbnail would be within the limit if it were not."""
        far = {name: self._distance(t, view)[0] for name, t in _ways(thumbnail).items()}
        nearest = min(far, key=lambda name: far[name])
        at = self.names.index("thumbnail")
        z = (far[nearest] - float(self.start[view, at])) / float(self.scale[view, at])
        return nearest if z <= float(self.limit[view]) else None

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        write_weights(path, _KIND, {k: v for k, v in parts.items() if v is not None}, {})

    @classmethod
    def load(cls, path: Path) -> Likeness:
        """Read what `save` wrote.

        Raises:
            UserError: the file is damaged or no likeness.
        """
        tensors, _ = read_weights(path, _KIND)
        try:
            return cls(**tensors)
        except TypeError as error:
            raise UserError(f"its likeness has tensors {sorted(tensors)} ({error})") from None


def _ways(thumbnails: np.ndarray) -> dict[str, np.ndarray]:
    """The films as they would be if they were not turned in each way, `(N, 256)`."""
    squares = thumbnails.reshape(-1, SIDE, SIDE)
    return {name: way(squares).reshape(len(squares), -1) for name, way in _WAYS.items()}


def _thumbnails(films: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Standardised, `(N, 256)` float64."""
    blocks = [rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK)]
    return np.concatenate(
        [standardised(np.stack([squash(film, SIDE) for film in films[rows]])) for rows in blocks]
    )


def _shrunk(covariance: np.ndarray) -> np.ndarray:
    pixels = len(covariance)
    even = max(np.trace(covariance) / pixels, 1e-6)
    return (1 - _SHRINKAGE) * covariance + _SHRINKAGE * even * np.eye(pixels)


def _token_costs(tokens: np.ndarray, rows: np.ndarray, codebook: int) -> Tensor:
    """-log frequency of each token at each place of the films' cached views, `(L, codebook)`."""
    length = tokens.shape[2]
    counts = np.zeros(length * codebook, np.int64)
    places = np.arange(length) * codebook
    for start in range(0, len(rows), _BLOCK):
        block = tokens[rows[start : start + _BLOCK]].astype(np.int64) + places
        counts += np.bincount(block.ravel(), minlength=len(counts))
    frequency = (counts + 0.5) / (len(rows) * tokens.shape[1] + 0.5 * codebook)
    return torch.from_numpy(-np.log(frequency)).half().reshape(length, codebook)


def _no_limits(views: int, scores: int) -> dict[str, Tensor]:
    """In place of those that validation is to set."""
    zeros = torch.zeros(views, scores)
    return {"start": zeros, "scale": zeros + 1, "limit": torch.ones(views)}


def _float32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()
