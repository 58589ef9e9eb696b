"""Scores of texts against one reference each.

Every score here is a function of numbers summed over studies. Keeping each study's numbers gives,
from one pass over the texts, the corpus score, each study's own score and the score of any
resample (`uar.evaluation.bootstrap`). The counts, and a study's ROUGE-L and CIDEr, come from
pycocoevalcap's classes; METEOR's counts come from METEOR 1.5 itself (`uar.evaluation.meteor`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from uar.core.errors import UserError
from uar.evaluation.pairwise import bleu_of_sums

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


@dataclass(frozen=True)
class Metric:
    """A corpus score that depends on its studies only through sums.

    Attributes:
        statistics: `(N, K)`, each study's numbers.
        of_sums: turns sums over studies `(..., K)` into scores `(...)`.
    """

    statistics: np.ndarray
    of_sums: Callable[[np.ndarray], np.ndarray]

    def value(self) -> float:
        """The corpus score."""
        return float(self.of_sums(self.statistics.sum(axis=0)))

    def of_each(self) -> np.ndarray:
        """Each study's score as a corpus of its own, `(N,)`."""
        return self.of_sums(self.statistics)

    def of_resamples(self, counts: np.ndarray) -> np.ndarray:
        """Scores `(R,)` of R corpora in which study i occurs `counts[:, i]` times, `(R, N)`."""
        return self.of_sums(counts @ self.statistics)


def text_metrics(references: Sequence[str], candidates: Sequence[str]) -> dict[str, Metric]:
    """BLEU, ROUGE-L and CIDEr of `candidates` against one reference each.

    Words are separated by blanks. A candidate may be empty. CIDEr's document frequencies are
    counted over `references`, also for each study's score and for resamples, so CIDEr of a corpus
    of a single study is always 0.

    Args:
        references: N texts.
        candidates: N texts, in the same order.

    Returns:
        `METRICS` except METEOR. BLEU and ROUGE-L are in [0, 1], CIDEr in [0, 10].

    Raises:
        UserError: no texts, different numbers of them, or every reference empty.
    """
    gts, res = _corpus(references, candidates)
    bleu = _bleu_statistics(gts, res)
    return {
        **{f"BLEU-{n}": Metric(bleu, partial(bleu_of_sums, order=n)) for n in range(1, 5)},
        "ROUGE-L": mean_of(Rouge().compute_score(gts, res)[1]),
        "CIDEr": mean_of(Cider().compute_score(gts, res)[1]),
    }


def score(references: Sequence[str], candidates: Sequence[str]) -> dict[str, float]:
    """The corpus scores of `text_metrics`; it raises the same errors."""
    metrics = text_metrics(references, candidates)
    return {name: metric.value() for name, metric in metrics.items()}


def score_one(metric: str, references: Sequence[str], candidates: Sequence[str]) -> float:
    """The value that `score` gives for `metric`, without computing the others.

    Raises:
        UserError: as `score`, or an unknown metric.
    """
    gts, res = _corpus(references, candidates)
    if metric in METRICS and metric.startswith("BLEU-"):
        order = int(metric[-1])
        return float(Bleu(order).compute_score(gts, res, verbose=0)[0][-1])
    if metric == "ROUGE-L":
        return float(Rouge().compute_score(gts, res)[0])
    if metric == "CIDEr":
        return float(Cider().compute_score(gts, res)[0])
    offered = ", ".join(name for name in METRICS if name != "METEOR")
    raise UserError(f"metric {metric!r} cannot be computed on its own; choose one of {offered}")


def mean_of(scores: Sequence[float]) -> Metric:
    """The mean over N studies of their scores `(N,)`."""
    statistics = np.stack([np.asarray(scores, float), np.ones(len(scores))], axis=1)
    return Metric(statistics, mean_of_sums)


def mean_of_sums(sums: np.ndarray) -> np.ndarray:
    """The mean, given sums of scores and of ones, `(..., 2)`."""
    return sums[..., 0] / sums[..., 1]


def meteor_metric(statistics: np.ndarray) -> Metric:
    """METEOR in [0, 1] from the counts `(N, 23)` of `uar.evaluation.meteor.meteor_statistics`."""
    # METEOR does not count the chunk of a text that matches as a whole
    whole = (statistics[:, 20] == 1) & (statistics[:, 21:23] == statistics[:, 0:2]).all(axis=1)
    statistics = statistics.copy()
    statistics[whole, 20] = 0
    return Metric(statistics, meteor_of_sums)


# METEOR 1.5's parameters for English (Denkowski and Lavie 2014, table 1)
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.20, 0.60, 0.75
_MATCHERS = np.array([1.0, 0.6, 0.8, 0.6])  # weights of exact, stem, synonym, paraphrase


def meteor_of_sums(counts: np.ndarray) -> np.ndarray:
    """METEOR 1.5's score from its summed counts (Denkowski and Lavie 2014, section 2).

    Args:
        counts: `(..., 23)`: words and function words of candidate and reference (0-3); content
            words matched in candidate and reference and function words likewise, by each of four
            matchers (4-19); chunks of adjacent matches (20); words matched in candidate and
            reference (21, 22).

    Returns:
        `(...)`, 0 where nothing matches.
    """
    matched = counts[..., 4:20].reshape(*counts.shape[:-1], 4, 4)
    content, function = matched[..., :2], matched[..., 2:]  # (..., matcher, side)
    weighted = ((_DELTA * content + (1 - _DELTA) * function) * _MATCHERS[:, None]).sum(axis=-2)
    words, function_words = counts[..., 0:2], counts[..., 2:4]
    lengths = _DELTA * (words - function_words) + (1 - _DELTA) * function_words  # (..., side)
    precision, recall = np.moveaxis(_share(weighted, lengths), -1, 0)
    f_mean = _share(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    fragmentation = _share(counts[..., 20], counts[..., 21:23].mean(axis=-1))
    return f_mean * (1 - _GAMMA * fragmentation**_BETA)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where both are 0."""
    return part / np.where(whole == 0, 1.0, whole)


def _bleu_statistics(gts: dict[int, list[str]], res: dict[int, list[str]]) -> np.ndarray:
    """`(N, 10)`: words of candidate and reference, n-grams and matching n-grams of order 1 to 4."""
    scorer = BleuScorer(n=4)
    for i, [candidate] in res.items():
        scorer += (candidate, gts[i])
    rows = [[c["testlen"], *c["reflen"], *c["guess"], *c["correct"]] for c in scorer.ctest]
    return np.array(rows, float)


def single_spaced(text: str) -> str:
    """Separate words by single spaces."""
    # ASCII only: the PTB tokenizer puts no-break spaces inside tokens such as "1 1/2"
    return re.sub(r"\s+", " ", text, flags=re.ASCII).strip(" ")


def _corpus(
    references: Sequence[str], candidates: Sequence[str]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Texts in pycocoevalcap's form: index to a list of one text."""
    if len(references) != len(candidates):
        raise UserError(
            f"{len(references)} references but {len(candidates)} candidates; give one of each "
            "per study, in the same order"
        )
    gts, res = (
        {i: [single_spaced(text)] for i, text in enumerate(texts)}
        for texts in (references, candidates)
    )
    if not any(text for [text] in gts.values()):
        raise UserError(
            f"nothing to score: {len(references)} references, none with a word; check the split"
        )
    return gts, res
