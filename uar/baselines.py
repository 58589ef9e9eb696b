"""What a model has to beat: a constant report, and the model fed another study's images."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from uar.errors import UserError
from uar.metrics import score_one


def constant_report(
    train_references: Sequence[str],
    validation_references: Sequence[str],
    *,
    select_by: str,
    candidates: int = 100,
) -> str:
    """The one report that, given for every study, scores best on validation.

    Most reports of a chest X-ray data set are normal and alike, so that a text that looks at no
    image already scores BLEU-4 of about 0.15 on IU X-Ray's test split. A model's score means
    something only beside this one. The test split has no part in the choice.

    Args:
        train_references: training reports, words joined by blanks, as scored.
        validation_references: validation reports in the same form.
        select_by: `BLEU-1` to `BLEU-4`, `ROUGE-L` or `CIDEr`.
        candidates: how many distinct training reports to try, the most frequent first, equally
            frequent ones in order of first occurrence. The first best wins.

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
