"""Whether training on a reward has cost what the reward does not measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CHOSEN_BY = "CIDEr"
KEPT = 0.9  # share of the distinct reports that must remain

Scores = Mapping[str, float]


def lost(scores: Scores, start: Scores) -> list[str]:
    """Say in words each thing that has fallen since the start; empty if the model may be used.

    Findings are a report's purpose, and a model that writes few distinct reports looks at no
    images: F1 must not fall, and nine of ten distinct reports must remain.

    Args:
        scores: an epoch's, by `Validation`'s names.
        start: those of the model that training began with.
    """
    found = []
    if scores["F1"] < start["F1"]:
        found.append(f"F1 from {start['F1']:.3f} to {scores['F1']:.3f}")
    if scores["distinct_reports"] < KEPT * start["distinct_reports"]:
        before, after = (round(of["distinct_reports"]) for of in (start, scores))
        found.append(f"distinct reports from {before} to {after}")
    return found


def refusal(epochs: Sequence[Scores]) -> str | None:
    """Say why no epoch after the first is used, in a sentence without a subject; None if one is.

    Args:
        epochs: each one's scores, first those of the model that training began with.
    """
    start, *trained = epochs
    better = [scores for scores in trained if scores[CHOSEN_BY] > start[CHOSEN_BY]]
    if not trained or any(not lost(scores, start) for scores in better):
        return None
    best = max(trained, key=lambda scores: scores[CHOSEN_BY])
    if not better:
        return (
            f"did not raise {CHOSEN_BY} from {start[CHOSEN_BY]:.3f} ({best[CHOSEN_BY]:.3f} at "
            "best): its model is not used"
        )
    epoch = 1 + trained.index(best)
    return (
        f"lowered {' and '.join(lost(best, start))} (epoch {epoch}, where {CHOSEN_BY} is "
        f"{best[CHOSEN_BY]:.3f} instead of {start[CHOSEN_BY]:.3f}): its model is not used"
    )
