"""All numbers of an evaluation, and the few to look at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uar.evaluation.clinical.labels import FINDINGS, Label
from uar.evaluation.predictions import Prediction, share_unchanged, text_statistics
from uar.evaluation.signatures import Setup, signatures
from uar.evaluation.systems import Measures, SystemScores

MODEL = "model"
BASELINES = {  # and controls: label to key
    "constant report": "constant_report",
    "nearest by tokens": "nearest_tokens",
    "nearest by F(I)": "nearest_features",
    "shuffled images": "shuffled_images",
    "other system": "beside",
}
SHUFFLED = BASELINES["shuffled images"]

MIN_DISTINCT = 0.05  # share of the studies
MAX_UNCHANGED = 0.5  # likewise
COLLAPSE = (
    f"A run has collapsed if its distinct reports are fewer than {MIN_DISTINCT:.0%} of the "
    f"studies, or if at least {MAX_UNCHANGED:.0%} of its reports for studies with a finding stay "
    "the same, word for word, with another study's images: it then says little about the images, "
    "and its scores say little about it."
).replace("%", " %")

# Short name -> path in `summarise`'s result. Those that an evaluation lacks are left out.
# `dvc exp show` keeps the order, and the first six fit a terminal of 120 columns.
HEADLINE = {
    "BLEU-4": "scores model r2gen BLEU-4",
    "CIDEr": "scores model r2gen CIDEr",
    "const_C": "scores constant_report r2gen CIDEr",
    "shuf_C": "scores shuffled_images r2gen CIDEr",
    "F1": "scores model clinical micro F1",
    "distinct": "text model distinct_reports",
    "unchanged": "unchanged_with_other_images",
    "nats": "scores model nats cross_entropy",
    "gain": "scores model nats image_gain",
    **{name: f"scores model r2gen {name}" for name in ("BLEU-1", "BLEU-2", "METEOR", "ROUGE-L")},
    "const_B4": "scores constant_report r2gen BLEU-4",
    "shuf_B4": "scores shuffled_images r2gen BLEU-4",
    "F1_macro": "scores model clinical macro F1",
    "F1_five": "scores model clinical micro_5 F1",
    "near_F1": "scores nearest_tokens clinical micro F1",
    "no_finding": "scores model clinical no_finding F1",
}


def summarise(
    systems: Mapping[str, Sequence[Prediction]],
    scores: Mapping[str, SystemScores],
    *,
    measures: Measures,
    setup: Setup,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Every number of an evaluation, as JSON.

    Args:
        systems: predictions by system; `MODEL` among them, and any of `BASELINES`.
        scores: those of the same systems.
        measures: what was computed.
        setup: what the texts were made from.
        resamples: how many the bootstrap draws.
        seed: fixes its draws.

    Returns:
        `studies`, their number; `scores` and `text` statistics by system; 95 % `intervals` and
        `signatures` of the model's scores; `unchanged_with_other_images`, the share of studies on
        which the model says the same, word for word, given another study's images, if that was
        tried; `unchanged_with_findings`, the same share of the studies whose reference has a
        finding by the rule-based labels, if any; `collapsed` by the rule that `COLLAPSE` states.
    """
    model = scores[MODEL].values()
    result: dict[str, Any] = {
        "studies": len(systems[MODEL]),
        "scores": {name: of.values() for name, of in scores.items()},
        "intervals": scores[MODEL].intervals(resamples=resamples, seed=seed),
        "text": {name: text_statistics(rows) for name, rows in systems.items()},
        "signatures": signatures(model, systems[MODEL], measures=measures, setup=setup),
    }
    if SHUFFLED in systems:
        own, others = systems[MODEL], systems[SHUFFLED]
        result["unchanged_with_other_images"] = share_unchanged(own, others)
        if "clinical" in measures.labellers:
            references, _ = scores[MODEL].labels["clinical"]
            positive = references[:, : len(FINDINGS)] == Label.POSITIVE
            chosen = np.flatnonzero(positive.any(axis=1)).tolist()
            if chosen:
                result["unchanged_with_findings"] = share_unchanged(
                    [own[study] for study in chosen], [others[study] for study in chosen]
                )
    result["collapsed"] = is_collapsed(result)
    return result


def is_collapsed(summary: Mapping[str, Any]) -> bool:
    """Whether `COLLAPSE` applies to an evaluation; its second half counts only if it is known."""
    distinct = summary["text"][MODEL]["distinct_reports"] / summary["studies"]
    unchanged = summary.get("unchanged_with_findings")
    return bool(distinct < MIN_DISTINCT or (unchanged is not None and unchanged >= MAX_UNCHANGED))


def headline(summary: Mapping[str, Any], names: Mapping[str, str] = HEADLINE) -> dict[str, float]:
    """The numbers that DVC lists as metrics, to four decimals; absent ones are left out.

    Args:
        summary: nested numbers.
        names: the metrics' names to their paths in it.
    """
    values = {name: look_up(summary, path) for name, path in names.items()}
    return {name: round(value, 4) for name, value in values.items() if value is not None}


def look_up(tree: Mapping[str, Any], path: str) -> float | None:
    """The value at a path of keys joined by spaces; None if a key is absent."""
    value: Any = tree
    for key in path.split():
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
