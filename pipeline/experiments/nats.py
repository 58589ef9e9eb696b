"""Methods compared by the nats of each study in `details.json`, and what tables of tests say."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.experiments.results import Result
from uar.evaluation.crossed import Comparison, holm
from uar.evaluation.metrics import Metric, mean_of
from uar.evaluation.systems import PER_STUDY_NATS

BETTER = {"cross_entropy": "nats, less is better", "image_gain": "nats"}
PER_STUDY = "per_study"  # in details.json, see `uar.evaluation.systems.per_study_nats`


def nats_of(runs: Sequence[Result]) -> dict[str, list[Metric]] | None:
    """Cross-entropy and image gain, one metric a run; None if a run was scored before they were.

    The runs are of one setting, and so of the same studies in the same order.
    """
    recorded = [run.details[PER_STUDY] for run in runs if PER_STUDY in run.details]
    if not runs or len(recorded) < len(runs):
        return None
    return {name: [mean_of(of[name]) for of in recorded] for name in PER_STUDY_NATS}


def corrected_p(tests: Sequence[Comparison]) -> list[float | None]:
    """P-values of a table's tests after Holm's correction over those that there are."""
    values = [test.p_value for test in tests]
    corrected = iter(holm([value for value in values if value is not None]))
    return [None if value is None else next(corrected) for value in values]


def power(tests: Sequence[Comparison]) -> str:
    """What stands under a table of tests: the smallest difference that it could have shown."""
    each = [least for test in tests if (least := test.detectable(len(tests))) is not None]
    if not each:
        return "A single run says nothing of its method: no p; the interval is over studies alone."
    low, high = f"{min(each):.2g}", f"{max(each):.2g}"
    shown = low if low == high else f"{low} to {high}, by row"
    return f"Smallest difference that this table could have shown (80 % power, Holm): {shown}."
