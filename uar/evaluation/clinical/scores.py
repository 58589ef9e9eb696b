"""Precision, recall and F1 of the observations that generated reports assert."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

import numpy as np

from uar.core.errors import UserError
from uar.evaluation.clinical.labels import FINDINGS, FIVE, NO_FINDING, OBSERVATIONS, Label
from uar.evaluation.metrics import Metric


class ReportLabeller(Protocol):
    """Says which observations reports assert."""

    def label(self, reports: Iterable[str]) -> np.ndarray:
        """Labels `(N, 14)` int8 of N reports, values of `Label`, columns as `OBSERVATIONS`."""


Uncertain = Literal["positive", "negative", "ignore"]
Score = Callable[[np.ndarray], np.ndarray]  # of counts (..., 3)


def clinical_metrics(
    reference: np.ndarray,
    generated: np.ndarray,
    *,
    uncertain: Uncertain,
    observations: Sequence[str] = OBSERVATIONS,
) -> dict[str, dict[str, Metric]]:
    """Clinical efficacy: the positive class of each observation, one against the rest.

    "No Finding" is a column of its own and in no mean: a report that says that all is normal gets
    it right for most studies and has found nothing. Micro scores pool all findings' counts, macro
    scores average over findings. A share of nothing is 0, so a finding that neither side ever
    asserts lowers the macro scores.

    Args:
        reference: labels `(N, C)` of the reference reports, values of `Label`.
        generated: labels of the generated reports, likewise.
        uncertain: what an uncertain label counts as; `ignore` leaves the study out of that
            observation's counts if either label is uncertain.
        observations: names of the C columns.

    Returns:
        `micro` and `macro`, over all findings, and `micro_5` and `macro_5`, over CheXpert's five
        (Irvin et al. 2019, section 5), where they are columns: `precision`, `recall` and `F1`;
        `no_finding`: the same for "No Finding"; `F1`: that of each observation.

    Raises:
        UserError: the labels are of different numbers of studies.
    """
    counts = confusion(reference, generated, uncertain).astype(float)  # (N, C, 3)

    def micro(of: Score, columns: list[int]) -> Metric:
        return Metric(counts[:, columns].sum(axis=1), of)

    def macro(of: Score, columns: list[int]) -> Metric:
        def of_sums(sums: np.ndarray) -> np.ndarray:
            return of(sums.reshape(*sums.shape[:-1], -1, 3)).mean(axis=-1)

        return Metric(counts[:, columns].reshape(len(counts), -1), of_sums)

    groups: dict[str, dict[str, Metric]] = {}
    for suffix, wanted in (("", FINDINGS), ("_5", FIVE)):
        columns = [i for i, name in enumerate(observations) if name in wanted]
        if columns:
            for average, over in (("micro", micro), ("macro", macro)):
                groups[average + suffix] = {name: over(of, columns) for name, of in SCORES.items()}
    if NO_FINDING in observations:
        column = [list(observations).index(NO_FINDING)]
        groups["no_finding"] = {name: micro(of, column) for name, of in SCORES.items()}
    groups["F1"] = {name: micro(f1, [i]) for i, name in enumerate(observations)}
    return groups


def findings_scores(
    references: Sequence[str],
    generated: Sequence[str],
    labeller: ReportLabeller,
    *,
    uncertain: Uncertain = "negative",
) -> dict[str, dict[str, float]]:
    """How well generated reports assert the references' findings: `clinical_metrics` as numbers.

    A report that says nothing, or that all is normal, scores 0 in all but `no_finding`.

    Args:
        references: N whole raw reports.
        generated: N texts, in the same order.
        labeller: `uar.evaluation.clinical.labeller.Labeller()`, or CheXbert.
        uncertain: what an uncertain label counts as.

    Raises:
        UserError: the numbers of texts differ.
    """
    if len(references) != len(generated):
        raise UserError(
            f"{len(references)} references but {len(generated)} reports; give one of each per study"
        )
    texts = dict.fromkeys((*references, *generated))
    labels = dict(zip(texts, labeller.label(texts), strict=True))
    of_references, of_generated = (
        np.array([labels[text] for text in side]).reshape(-1, len(OBSERVATIONS))
        for side in (references, generated)
    )
    groups = clinical_metrics(of_references, of_generated, uncertain=uncertain)
    return {
        group: {name: metric.value() for name, metric in metrics.items()}
        for group, metrics in groups.items()
    }


def confusion(reference: np.ndarray, generated: np.ndarray, uncertain: Uncertain) -> np.ndarray:
    """True positives, false positives and false negatives `(N, C, 3)`, each 0 or 1."""
    if reference.shape != generated.shape:
        raise UserError(
            f"labels have shape {reference.shape} for references but {generated.shape} for reports"
        )
    positive = [Label.POSITIVE, Label.UNCERTAIN] if uncertain == "positive" else [Label.POSITIVE]
    true, said = np.isin(reference, positive), np.isin(generated, positive)
    counts = np.stack([true & said, ~true & said, true & ~said], axis=-1)
    if uncertain == "ignore":
        unsure = (reference == Label.UNCERTAIN) | (generated == Label.UNCERTAIN)
        counts &= ~unsure[..., None]
    return counts


def precision(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FP) of counts `(..., 3)`."""
    return _share(counts[..., 0], counts[..., 0] + counts[..., 1])


def recall(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FN) of counts `(..., 3)`."""
    return _share(counts[..., 0], counts[..., 0] + counts[..., 2])


def f1(counts: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of counts `(..., 3)`."""
    return _share(2 * counts[..., 0], 2 * counts[..., 0] + counts[..., 1] + counts[..., 2])


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.where(whole == 0, 1, whole)


SCORES: dict[str, Score] = {"precision": precision, "recall": recall, "F1": f1}
