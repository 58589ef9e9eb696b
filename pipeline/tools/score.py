"""Anybody's predictions, scored with this project's measures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipeline import paths
from pipeline.console import print_evaluation
from pipeline.measures import constant_predictions, open_measures
from pipeline.tools.radeval import VERSION, RadEval
from uar.core.config import Params
from uar.core.device import resolve_device
from uar.core.errors import UserError
from uar.core.files import existing, write_json
from uar.core.params_file import load_params
from uar.core.sections import is_empty_report
from uar.data.study import SPLITS, read_checked
from uar.data.text import CLEANERS, Vocabulary
from uar.evaluation.baselines import derangement
from uar.evaluation.formats import read_reports
from uar.evaluation.predictions import (
    Prediction,
    read_predictions,
    with_generated,
    write_predictions,
)
from uar.evaluation.signatures import Setup, radeval_signatures
from uar.evaluation.summary import summarise
from uar.evaluation.systems import score_systems

log = logging.getLogger(__name__)

_UNKNOWN = 0.0  # log-probability of a report whose model is not here


@dataclass(frozen=True)
class ReferenceReports:
    """References of the studies to score, and what a constant report is chosen from.

    Attributes:
        raw: whole reports by study, in order.
        cleaned: the same reports as the `r2gen` protocol scores them.
        form: how a signature describes `cleaned`.
        train: training reports, cleaned, cut and with `<unk>`; empty where they are not known.
        val: validation reports, likewise.
        named: whether studies have names; else they are numbered.
    """

    raw: dict[str, str]
    cleaned: dict[str, str]
    form: str
    train: Sequence[str] = ()
    val: Sequence[str] = ()
    named: bool = True


def score(
    file: Annotated[
        Path,
        typer.Argument(
            help="Generated reports: ReXrank's or RadEval's JSON, JSON lines, CSV, lines of text, "
            "or predictions.jsonl."
        ),
    ],
    references: Annotated[
        Path | None,
        typer.Option(
            help="A file of the same kinds, or R2Gen's annotation.json; by default the test split "
            "of the project's data (`dvc repro preprocess vocabulary`)."
        ),
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(help="Another system's file of the same studies, for one more row."),
    ] = None,
    partial: Annotated[
        bool, typer.Option(help="If the file lacks studies, score those that it has.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write every number to this file, as JSON.")
    ] = None,
    radeval: Annotated[
        str | None,
        typer.Option(
            metavar="METRICS",
            help="RadEval's metrics too, such as bleu,rouge,radgraph, computed in an environment "
            "of its own (.radeval), which is made if it does not exist.",
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Write the reports, like predictions.jsonl, for `compare --paired`."),
    ] = None,
) -> None:
    """Score any system's reports: both protocols, findings, intervals, controls; train nothing.

    Reports that are not cleaned (with capitals) are cleaned as the references are.
    """
    params = load_params(paths.PARAMS)
    shared = RadEval.open(radeval) if radeval is not None else None
    measures = open_measures(params.evaluate, resolve_device(params.device))
    scored = read_references(references, params)
    predictions, form = align(file, scored, params, partial=partial)
    others = derangement(len(predictions), params.seed)
    systems = {
        "model": predictions,
        "shuffled_images": with_generated(predictions, [predictions[i].generated for i in others]),
    }
    if scored.train and scored.val:
        systems["constant_report"] = constant_predictions(
            predictions, scored.train, scored.val, params.evaluate
        )
    else:
        log.info("no constant report to compare with: these references have no training split")
    if beside is not None:
        also, _ = align(beside, scored, params, partial=partial)
        said = {p.study_id: p.generated for p in also}
        if lacking := [p.study_id for p in predictions if p.study_id not in said]:
            raise UserError(f"{beside} lacks study {lacking[0]}, which {file} has")
        systems["beside"] = with_generated(predictions, [said[p.study_id] for p in predictions])
    also_scored = shared.score(systems) if shared is not None else {}
    weights = params.evaluate.radgraph
    setup = Setup(
        references=scored.form, text=f"file,{form}", radgraph=weights.name if weights else None
    )
    summary = summarise(
        systems, score_systems(systems, measures), measures=measures, setup=setup,
        resamples=params.evaluate.resamples, seed=params.seed,
    )  # fmt: skip
    for system, values in also_scored.items():
        summary["scores"][system]["radeval"] = values
    if also_scored:
        summary["signatures"]["radeval"] = radeval_signatures(
            also_scored["model"], predictions, setup=setup, radeval=VERSION
        )
    print_evaluation(summary)
    if out is not None:
        write_json(out, summary)
    if keep is not None:
        write_predictions(keep, predictions)


def read_references(references: Path | None, params: Params) -> ReferenceReports:
    """Read the references in a file, or without a file those of the project's test split.

    Raises:
        UserError: there are none.
    """
    clean, cut = _cleaner(params), params.report.max_length
    whole: dict[str, list[str]]  # cleaned reports by split
    form = f"cleaned,cut:{cut},unk:yes"
    if references is None:
        table = read_checked(paths.REPORTS, ("study_id", "split", "report", "cleaned"))
        vocabulary = Vocabulary.load(paths.VOCABULARY)
        of_split = {split: table[table["split"] == split] for split in SPLITS}
        ids = of_split["test"]["study_id"].astype(str)
        raw = dict(zip(ids, of_split["test"]["report"], strict=True))
        whole = {split: rows["cleaned"].tolist() for split, rows in of_split.items()}
    elif references.suffix == ".jsonl" and _is_ours(existing(references)):
        rows = read_predictions(references)
        raw = {p.study_id: p.report for p in rows}
        return ReferenceReports(raw, {p.study_id: p.reference for p in rows}, form)
    else:
        found = read_reports(references, params.dataset.section)
        raw = found.references
        if not raw:
            raise UserError(f"{references} has no reference reports")
        if found.splits is None:
            shown = {study: " ".join(clean(text).split()[: cut - 1]) for study, text in raw.items()}
            return ReferenceReports(raw, shown, f"cleaned,cut:{cut},unk:no", named=found.named)
        whole = {split: [*map(clean, of.values())] for split, of in found.splits.items()}
        vocabulary = Vocabulary.build(whole["train"], params.vocabulary.min_count)
    train, val, test = (vocabulary.restricted(whole[split], cut) for split in SPLITS)
    return ReferenceReports(raw, dict(zip(raw, test, strict=True)), form, train, val)


def align(
    file: Path, references: ReferenceReports, params: Params, *, partial: bool
) -> tuple[list[Prediction], str]:
    """A file's predictions in the references' order, and whether they were `cleaned` or `decoded`.

    Raises:
        UserError: the file has no generated reports, or lacks studies.
    """
    found = read_reports(file, params.dataset.section)
    generated = found.generated
    if not generated:
        raise UserError(f"{file} has only references; a file of generated reports is needed")
    raw, cleaned = references.raw, references.cleaned
    if not found.named or not references.named:  # by position
        if len(generated) != len(raw):
            raise UserError(
                f"{file} has {len(generated)} reports, but there are {len(raw)} references: "
                "without study names, they are matched by position"
            )
        generated = dict(zip(raw, generated.values(), strict=True))
    missing = [study for study in raw if study not in generated]
    if missing and (not partial or len(missing) == len(raw)):
        own = f" To use the file's own references: --references {file}." if found.references else ""
        raise UserError(
            f"{file} lacks {len(missing)} of {len(raw)} studies, first {missing[0]}. Give a report "
            f"for each; --partial scores only the others, as a test set of its own.{own}"
        )
    if empty := [study for study in raw if is_empty_report(raw[study])]:
        log.warning(
            f"{len(empty)} of {len(raw)} references have no words and are left out, first "
            f"{empty[0]}"
        )
        if len(empty) == len(raw):
            raise UserError("no reference has words; name others with --references")
    if extra := sum(study not in raw for study in generated):
        log.warning(f"{file}: {extra} studies that the references lack are left out")
    left_out = set(empty)
    kept = {s: generated[s] for s in raw if s in generated and s not in left_out}
    as_decoded = all(text == text.lower() for text in kept.values())
    if not as_decoded:
        clean = _cleaner(params)
        kept = {study: clean(text) for study, text in kept.items()}
        log.info(f"{file}: its reports have capitals, so they are cleaned as the references are")
    rows = [
        Prediction(study, raw[study], cleaned[study], text, _UNKNOWN)
        for study, text in kept.items()
    ]
    return rows, "decoded" if as_decoded else "cleaned"


def _cleaner(params: Params) -> Callable[[str], str]:
    """The cleaner, for texts whose sentences may end at a line break, as in ReXrank's."""
    clean = CLEANERS[params.report.cleaner]
    return lambda text: clean(" ".join(text.split()))


def _is_ours(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return '"reference"' in file.readline()
