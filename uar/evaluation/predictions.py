"""Generated reports and their references: all that the evaluation knows of a model."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from uar.core.errors import UserError, form_of
from uar.core.files import atomic_write, not_utf8


@dataclass(frozen=True)
class Prediction:
    """One study's generated report and its reference.

    Attributes:
        study_id: the study's name in the study table.
        report: the whole raw report.
        reference: the cleaned report's words joined by spaces, cut at the report length, rare
            words replaced by `<unk>`.
        generated: the decoded words joined by spaces; may be empty.
        log_probability: the generated report's natural log-probability under the model.
        cross_entropy: nats that the reference costs the model, words and end token together (Eq.
            5); None if whatever wrote the report gives no probabilities.
        image_gain: how many more it costs with another study's images; None if not tried.
    """

    study_id: str
    report: str
    reference: str
    generated: str
    log_probability: float
    cross_entropy: float | None = None
    image_gain: float | None = None


def write_predictions(path: str | Path, predictions: Sequence[Prediction]) -> None:
    """Write one JSON object per line to `path`, under a temporary name until complete."""
    with atomic_write(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        for prediction in predictions:
            file.write(json.dumps(asdict(prediction), ensure_ascii=False) + "\n")


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read what `write_predictions` wrote.

    Raises:
        UserError: the file is missing, or a line is not a JSON object with the fields of
            `Prediction` in their types; those that may be None may be absent.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such predictions file; decode the split first")
    try:
        with path.open(encoding="utf-8") as file:
            return [_parse(line, f"{path}, line {number}") for number, line in enumerate(file, 1)]
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None


def _parse(line: str, where: str) -> Prediction:
    remedy = "correct the line, or decode the split again"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}), found {line[:60]!r}; {remedy}") from error
    names = {field.name: field.default is None for field in fields(Prediction)}
    needed = {name for name, may_be_absent in names.items() if not may_be_absent}
    if not isinstance(row, dict) or not needed <= set(row) <= set(names):
        found = sorted(row) if isinstance(row, dict) else form_of(row)
        raise UserError(f"{where}: expected an object with {list(names)}, found {found}; {remedy}")
    for field in fields(Prediction):
        value = row.get(field.name)
        if value is None and names[field.name]:
            continue
        number = field.type is not str
        if not isinstance(value, (int, float) if number else str) or isinstance(value, bool):
            kind = "float" if number else "str"
            shown = repr(value)[:60]
            raise UserError(f"{where}: {field.name} should be {kind}, found {shown}; {remedy}")
        if isinstance(value, str):
            refuse_odd_text(f"{where}: {field.name}", value)
        elif not math.isfinite(value):
            raise UserError(f"{where}: {field.name} is {value}; {remedy}")
    return Prediction(**row)


def refuse_odd_text(where: str, text: str) -> None:
    """Raise UserError for what is not a report: half a character, or far too many words."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: holds half of a surrogate pair at position {error.start}, not a character"
        ) from None
    if (words := text.count(" ") + text.count("\n") + 1) > _MOST_WORDS:
        raise UserError(f"{where}: has {words:,} words, more than {_MOST_WORDS:,}: not a report")


_MOST_WORDS = 10_000  # MIMIC-CXR's longest report has some thousand


def with_generated(predictions: Sequence[Prediction], reports: Sequence[str]) -> list[Prediction]:
    """The same studies with other generated reports; cross-entropy and image gain are None."""
    return [
        replace(p, generated=r, cross_entropy=None, image_gain=None)
        for p, r in zip(predictions, reports, strict=True)
    ]


def text_statistics(predictions: Sequence[Prediction]) -> dict[str, float]:
    """How varied and how long the generated reports are. The full stop counts as a word.

    Returns:
        `distinct_reports`, a count; `share_most_common`, the share of studies given the most
        common report, in [0, 1]; `words_used` and `reference_words`, distinct words over all
        generated reports and all references; mean and median lengths in words.

    Raises:
        UserError: no predictions.
    """
    if not predictions:
        raise UserError("there are no predictions to describe; decode a split with studies in it")
    reports = Counter(prediction.generated for prediction in predictions)
    generated = [prediction.generated.split() for prediction in predictions]
    references = [prediction.reference.split() for prediction in predictions]
    return {
        "distinct_reports": len(reports),
        "share_most_common": max(reports.values()) / len(predictions),
        "words_used": len(set().union(*generated)),
        "reference_words": len(set().union(*references)),
        "mean_length": statistics.fmean(map(len, generated)),
        "median_length": float(statistics.median(map(len, generated))),
        "reference_mean_length": statistics.fmean(map(len, references)),
        "reference_median_length": float(statistics.median(map(len, references))),
    }


def share_unchanged(one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
    """Share of the studies on which two systems say the same, word for word, in [0, 1].

    Raises:
        UserError: the predictions are of different studies.
    """
    refuse_other_studies(one, other, "two systems")
    return sum(a.generated == b.generated for a, b in zip(one, other, strict=True)) / len(one)


def refuse_other_studies(
    one: Sequence[Prediction], other: Sequence[Prediction], sources: str
) -> None:
    """Raise UserError unless both predict the same studies, with the same references, in order.

    Args:
        one: predictions of one system.
        other: predictions of another.
        sources: what the error calls both.
    """
    remedy = "evaluate both systems on the same split of the same data"
    if len(one) != len(other):
        raise UserError(f"{sources}: {len(one)} studies against {len(other)}; {remedy}")
    for row, (a, b) in enumerate(zip(one, other, strict=True), 1):
        if a.study_id != b.study_id:
            raise UserError(
                f"{sources}, line {row}: study {a.study_id} against {b.study_id}; {remedy}"
            )
        if (a.report, a.reference) != (b.report, b.reference):
            raise UserError(
                f"{sources}, line {row}: study {a.study_id} has different references (another "
                f"cleaning, length or vocabulary); {remedy}"
            )
