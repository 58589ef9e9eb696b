"""What a model has to beat: a constant report, the report of the most similar training study, and
the model fed another study's images."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from uar.core.errors import UserError
from uar.evaluation.metrics import score_one


def constant_report(
    train_references: Sequence[str],
    validation_references: Sequence[str],
    *,
    select_by: str,
    candidates: int = 100,
) -> str:
    """The one report that, given for every study, scores best on validation.

    Most reports of a chest X-ray data set are normal and alike, so a text that looks at no image
    already scores a BLEU-4 of about 0.15 on IU X-Ray's test split. A model's score means something
    only in comparison with this one. The test split has no part in the choice.

    Args:
        train_references: training reports, words joined by spaces, as scored.
        validation_references: validation reports in the same form.
        select_by: `BLEU-1` to `BLEU-4`, `ROUGE-L` or `CIDEr`.
        candidates: how many distinct training reports to try, the most frequent first, equally
            frequent ones in order of first occurrence. The first of the best wins.

    Raises:
        UserError: no training or validation report, `candidates` below 1, or another `select_by`.
    """
    if candidates < 1:
        raise UserError(f"candidates is {candidates}; the constant report needs at least 1")
    if not train_references:
        raise UserError("no training report to choose a constant report from; check the split")
    most_frequent = Counter(train_references).most_common(candidates)

    def validation_score(report: str) -> float:
        return score_one(select_by, validation_references, [report] * len(validation_references))

    return max((report for report, _ in most_frequent), key=validation_score)


def derangement(n: int, seed: int) -> np.ndarray:
    """A random permutation of n studies that leaves none in its place.

    For the shuffled-image control: study i is given the images of study `result[i]`.

    Returns:
        (n,) int64, uniform over all such permutations, fixed by `seed`.

    Raises:
        UserError: n is below 2.
    """
    if n < 2:
        raise UserError(f"{n} study cannot be given another's images; the split needs at least 2")
    generator = np.random.default_rng(seed)
    while True:  # a permutation has no fixed point with probability about 1/e
        permutation = generator.permutation(n)
        if not (permutation == np.arange(n)).any():
            return permutation


def token_histograms(tokens: np.ndarray, codebook: int) -> np.ndarray:
    """How often each view of a study uses each visual word, as unit vectors.

    Values are square roots of shares, so the product of two rows is the mean over views of the
    Bhattacharyya coefficient, a common similarity of histograms (1 = the same), in which the few
    words of the dark background weigh less than in the cosine of plain counts.

    Args:
        tokens: `(S, V, L)` ids of the whole images, below `codebook`.
        codebook: number of visual words.

    Returns:
        `(S, V * codebook)` float32.
    """
    studies, views, length = tokens.shape
    cells = tokens.reshape(studies * views, length).astype(np.int64)
    cells += np.arange(studies * views)[:, None] * codebook
    counts = np.bincount(cells.ravel(), minlength=studies * views * codebook)
    shares = counts.reshape(studies, views * codebook) / (length * views)
    return np.sqrt(shares, dtype=np.float32)


def nearest_neighbours(queries: np.ndarray, blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Find the key of largest cosine for each query; ties go to the first.

    Args:
        queries: `(Q, d)`.
        blocks: the keys `(K, d)` in pieces, so that not all need be in memory at once.

    Returns:
        `(Q,)` int64, positions among all keys.

    Raises:
        UserError: there are no keys.
    """
    best = np.full(len(queries), -np.inf)
    index = np.full(len(queries), -1, dtype=np.int64)
    start = 0
    unit = unit_rows(queries)
    for block in blocks:
        if not len(block):
            continue
        cosine = unit @ unit_rows(block).T
        nearest = cosine.argmax(axis=1)
        value = cosine[np.arange(len(queries)), nearest]
        closer = value > best
        best[closer], index[closer] = value[closer], start + nearest[closer]
        start += len(block)
    if not start:
        raise UserError("no training study to choose a nearest neighbour from; check the split")
    return index


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Scale rows to length 1; a row of zeros stays as it is."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)
