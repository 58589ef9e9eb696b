"""BLEU-4 and CIDEr of a few texts against each other.

They are those of `uar.evaluation.metrics` for one reference, computed from n-gram counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ORDERS = 4
_SIGMA = 6.0  # of CIDEr-D's penalty on a difference in length, in bigrams


class DocumentFrequencies:
    """How many texts have each n-gram, from which CIDEr computes its weights.

    Args:
        texts: D texts, such as the references of a split.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = len(texts)
        self._with = Counter(gram for text in texts for gram in set(ngrams(text.split())))

    def weights(self, grams: Sequence[tuple[str, ...]]) -> np.ndarray:
        """log(D / texts that have it) for each n-gram, `(U,)`; log D if none has it."""
        known = np.array([self._with.get(gram, 0) for gram in grams], float)
        return _idf(self._texts, known)


def pairwise_scores(
    texts: Sequence[str], frequencies: DocumentFrequencies | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """BLEU-4 and CIDEr of each text (row) with each as the only reference (column).

    Args:
        texts: N texts; words are separated by blanks.
        frequencies: of n-grams, for CIDEr. None: counted over these texts and no others; an n-gram
            that all of them have then weighs nothing.

    Returns:
        Both `(N, N)`; BLEU-4 in [0, 1], CIDEr in [0, 10].
    """
    found = ngram_counts(texts)
    counts = [of_order.counts for of_order in found]
    if frequencies is None:
        weights = [_idf(len(texts), (of_order > 0).sum(axis=0)) for of_order in counts]
    else:
        words = [text.split() for text in texts]
        weights = [
            frequencies.weights(
                [tuple(words[row][at : at + order]) for row, at in of_order.places.tolist()]
            )
            for order, of_order in enumerate(found, 1)
        ]
    words = counts[0].sum(axis=1)
    matching = np.stack([_matching(of_order, np.ones(of_order.shape[1])) for of_order in counts])
    guesses = np.stack([of_order.sum(axis=1) for of_order in counts])  # (4, N)
    shape = len(texts), len(texts)
    sums = np.stack(
        [
            np.broadcast_to(words[:, None], shape),
            np.broadcast_to(words[None], shape),
            *(np.broadcast_to(guess[:, None], shape) for guess in guesses),
            *matching,
        ],
        axis=-1,
    )
    return bleu_of_sums(sums, _ORDERS), _cider(counts, weights)


def ngrams(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Every n-gram of order 1 to 4, by order and place."""
    return [
        tuple(words[place : place + order])
        for order in range(1, _ORDERS + 1)
        for place in range(len(words) - order + 1)
    ]


@dataclass(frozen=True)
class NgramCounts:
    """The n-grams of one order that any of N texts has.

    Attributes:
        counts: how often each text has each of them, `(N, U)` float.
        places: text and word at which one occurrence of each begins, `(U, 2)`.
    """

    counts: np.ndarray
    places: np.ndarray


def ngram_counts(texts: Sequence[str]) -> list[NgramCounts]:
    """The n-grams of orders 1 to 4, in that order."""
    words = [text.split() for text in texts]
    ids: dict[str, int] = {}
    width = max(1, *map(len, words)) if words else 1
    table = np.full((len(words), width), -1, np.int64)  # n-grams by their first word; -1: none
    for row, text in zip(table, words, strict=True):
        row[: len(text)] = [ids.setdefault(word, len(ids)) for word in text]
    single, grams, found = table, table, []
    for order in range(1, _ORDERS + 1):
        if order > 1:
            following = single[:, order - 1 :]
            whole = following >= 0
            pairs = grams[:, : whole.shape[1]] * len(ids) + following
            grams = np.full(whole.shape, -1, np.int64)
            grams[whole] = np.unique(pairs[whole], return_inverse=True)[1]
        of_order = np.zeros((len(words), int(grams.max(initial=-1)) + 1))
        rows, places = np.nonzero(grams >= 0)
        np.add.at(of_order, (rows, grams[rows, places]), 1)
        where = np.zeros((of_order.shape[1], 2), np.int64)
        where[grams[rows, places]] = np.stack([rows, places], axis=1)
        found.append(NgramCounts(of_order, where))
    return found


def bleu_of_sums(sums: np.ndarray, order: int) -> np.ndarray:
    """BLEU as pycocoevalcap computes it, including its guards against zeros.

    Args:
        sums: `(..., 10)`: words of candidate and reference, n-grams of the candidate of order 1 to
            4, those of them that the reference has.
        order: largest n.

    Returns:
        `(...)`.
    """
    small, tiny = 1e-9, 1e-15
    candidate, reference = sums[..., 0], sums[..., 1]
    precisions = (sums[..., 6 : 6 + order] + tiny) / (sums[..., 2 : 2 + order] + small)
    ratio = (candidate + tiny) / (reference + small)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return precisions.prod(axis=-1) ** (1 / order) * brevity


def _matching(counts: np.ndarray, weights: np.ndarray, times: bool = False) -> np.ndarray:
    """Sum over u of weights[u] min(c_iu, c_ju) for each pair of texts, `(N, N)`.

    Args:
        counts: c, `(N, U)`.
        weights: `(U,)`.
        times: whether to multiply each term by c_ju too.
    """
    total = np.zeros((len(counts), len(counts)))
    for least in range(1, int(counts.max(initial=0)) + 1):
        common = (counts >= least).any(axis=0)
        of_least = (counts[:, common] >= least).astype(float)
        references = of_least * weights[common]
        if times:
            references = references * counts[:, common]
        total += of_least @ references.T
    return total


def _idf(texts: int, having: np.ndarray) -> np.ndarray:
    return np.log(texts / np.maximum(1.0, having))


def _cider(counts: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> np.ndarray:
    """CIDEr-D of Vedantam et al. 2015 as pycocoevalcap computes it, ten times the mean cosine.

    Args:
        counts: of each order's n-grams, `(N, U)`.
        weights: idf of each order's n-grams, `(U,)`.
    """
    texts = len(counts[0])
    cosines = np.zeros((texts, texts))
    for of_order, idf in zip(counts, weights, strict=True):
        norms = np.sqrt(of_order**2 @ idf**2)
        products = _matching(of_order, idf**2, times=True)
        lengths = norms[:, None] * norms[None]
        cosines += np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    bigrams = counts[1].sum(axis=1)
    apart = bigrams[:, None] - bigrams[None]
    return 10 * cosines / len(counts) * np.exp(-(apart**2) / (2 * _SIGMA**2))
