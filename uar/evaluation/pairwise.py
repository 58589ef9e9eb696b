"""BLEU-4 and CIDEr of a few texts against each other, without a word of any other text.

As `uar.evaluation.metrics` computes them of one reference, over counts of n-grams.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ORDERS = 4
_SIGMA = 6.0  # of CIDEr-D's penalty on a difference in length, bigrams


def pairwise_scores(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """BLEU-4 and CIDEr of each text (row) given each as the only reference (column).

    Document frequencies, of which CIDEr makes its weights, are counted over the texts themselves:
    an n-gram that all of them have weighs nothing.

    Args:
        texts: N of them; words are what lies between blanks.

    Returns:
        Both `(N, N)`; BLEU-4 in [0, 1], CIDEr in [0, 10].
    """
    counts = ngram_counts(texts)
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
    return bleu_of_sums(sums, _ORDERS), _cider(counts)


def ngram_counts(texts: Sequence[str]) -> list[np.ndarray]:
    """How often each text has each n-gram of order 1 to 4 that any has, `(N, U)` float each."""
    words = [text.split() for text in texts]
    ids: dict[str, int] = {}
    width = max(1, *map(len, words)) if words else 1
    table = np.full((len(words), width), -1, np.int64)  # of n-grams by their first word; -1: none
    for row, text in zip(table, words, strict=True):
        row[: len(text)] = [ids.setdefault(word, len(ids)) for word in text]
    single, grams, counts = table, table, []
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
        counts.append(of_order)
    return counts


def bleu_of_sums(sums: np.ndarray, order: int) -> np.ndarray:
    """BLEU as pycocoevalcap computes it, its guards against zeros included.

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
    """Sum over u of weights[u] min(c_iu, c_ju) of each two texts, `(N, N)`.

    Args:
        counts: c, `(N, U)`.
        weights: `(U,)`.
        times: each term also times c_ju.
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


def _cider(counts: Sequence[np.ndarray]) -> np.ndarray:
    """CIDEr-D of Vedantam et al. 2015 as pycocoevalcap computes it, ten times the mean cosine."""
    texts = len(counts[0])
    cosines = np.zeros((texts, texts))
    for of_order in counts:
        weights = np.log(texts / np.maximum(1.0, (of_order > 0).sum(axis=0)))  # idf
        norms = np.sqrt(of_order**2 @ weights**2)
        products = _matching(of_order, weights**2, times=True)
        lengths = norms[:, None] * norms[None]
        cosines += np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    bigrams = counts[1].sum(axis=1)
    apart = bigrams[:, None] - bigrams[None]
    return 10 * cosines / len(counts) * np.exp(-(apart**2) / (2 * _SIGMA**2))
