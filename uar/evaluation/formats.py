"""Reports in the file formats that others use: ReXrank's, RadEval's, R2Gen's, tables, lines.

- ReXrank (https://github.com/rajpurkarlab/ReXrank): JSON, `{study: {section_findings,
  section_impression, image_path, ..., model_prediction}}`; its evaluation script's CSV of
  `study_id` and `report`.
- RadEval (https://github.com/jbdel/RadEval): JSON `{"references": [...], "hypotheses": [...]}`,
  JSON lines of `ref` and `hyp`, CSV of `reference` and `hypothesis`, or lines of text.
- R2Gen's annotation.json: references only.
- `predictions.jsonl` of this project.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from uar.core.errors import UserError
from uar.core.files import existing, not_utf8, read_rows, write_json
from uar.core.sections import Sections, is_empty_report, read_sections
from uar.evaluation.predictions import Prediction, read_predictions, refuse_odd_text

Section = Literal["findings", "impression", "findings+impression"]
Format = Literal["rexrank", "radeval"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportFile:
    """The reports in a file.

    Attributes:
        generated: reports by study; empty if the file has only references.
        references: raw reference reports by study; empty if the file has none.
        named: whether studies have names; otherwise they are numbered by their place.
        splits: references by split, if the file has the training split too.
    """

    generated: dict[str, str]
    references: dict[str, str]
    named: bool = True
    splits: Mapping[str, dict[str, str]] | None = None


def read_reports(path: Path, section: Section) -> ReportFile:
    """Read any of the formats above, recognised by its content.

    Args:
        path: the file.
        section: which part of a report counts, if a format has sections.

    Raises:
        UserError: there is no such file, it has none of these formats, a report is not text, or a
            study occurs twice.
    """
    existing(path)
    readers: dict[str, Callable[[Path, Section], ReportFile]] = {
        ".json": _read_json, ".jsonl": _read_lines_of_json, ".csv": _read_csv,
        ".txt": _read_text, ".tok": _read_text,
    }  # fmt: skip
    if path.suffix not in readers:
        raise UserError(f"{path}: expected a file that ends in {', '.join(readers)}")
    try:
        return readers[path.suffix](path, section)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None
    except (ValueError, RecursionError) as error:  # endless numbers or nesting too
        raise UserError(f"{path}: {error}; restore the file") from None


def _read_json(path: Path, section: Section) -> ReportFile:
    raw = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique(path))
    if isinstance(raw, dict) and {"references", "hypotheses"} <= set(raw):
        return _numbered(path, raw["references"], raw["hypotheses"], names=raw.get("study_ids"))
    if isinstance(raw, dict) and {"train", "val", "test"} <= set(raw):
        splits = {split: _of_r2gen(path, split, raw[split]) for split in ("train", "val", "test")}
        return ReportFile({}, splits["test"], splits=splits)
    if isinstance(raw, dict) and raw and all(isinstance(of, dict) for of in raw.values()):
        return _of_rexrank(path, raw, section)
    raise UserError(
        f"{path}: contains neither ReXrank's studies with `model_prediction`, nor RadEval's "
        "`references` and `hypotheses`, nor R2Gen's `train`, `val` and `test`"
    )


def _of_r2gen(path: Path, split: str, studies: Any) -> dict[str, str]:
    if not isinstance(studies, list):
        raise UserError(f"{path}: {split} is not a list of studies")
    for place, study in enumerate(studies):
        if not (isinstance(study, dict) and isinstance(study.get("id"), str | int)):
            raise UserError(f"{path}: {split}, place {place}: not a study with an id")
    _refuse_twice(path, [str(study["id"]) for study in studies])
    return {str(s["id"]): _text(path, s["id"], s.get("report")) for s in studies}


def _of_rexrank(path: Path, raw: dict[str, dict[str, Any]], section: Section) -> ReportFile:
    generated, references = {}, {}
    for study, of in raw.items():
        if "model_prediction" in of:
            generated[study] = _text(path, study, of["model_prediction"])
        parts = [of.get(f"section_{name}") for name in section.split("+")]
        parts = [of.get(name) for name in section.split("+")] if parts == [None] else parts
        texts = [_text(path, study, part) for part in parts if isinstance(part, str)]
        if said := " ".join(text for text in texts if not is_empty_report(text)):
            references[study] = said
    if generated and len(generated) < len(raw):
        missing = next(study for study in raw if study not in generated)
        raise UserError(f"{path}: study {missing} has no model_prediction, but others do")
    if not generated and not references:
        sections = " or ".join(f"section_{name}" for name in section.split("+"))
        raise UserError(f"{path}: no study has a model_prediction or a {sections}")
    return ReportFile(_sections_of(path, generated, section), references)


def _read_lines_of_json(path: Path, section: Section) -> ReportFile:
    with path.open(encoding="utf-8-sig") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    if rows and isinstance(rows[0], dict) and {"ref", "hyp"} <= set(rows[0]):
        if not all(isinstance(row, dict) and {"ref", "hyp"} <= set(row) for row in rows):
            raise UserError(f"{path}: some lines have `ref` and `hyp`, others do not")
        return _numbered(path, [row["ref"] for row in rows], [row["hyp"] for row in rows])
    predictions = read_predictions(path)
    _refuse_twice(path, [p.study_id for p in predictions])
    return ReportFile(
        {p.study_id: p.generated for p in predictions},
        {p.study_id: p.report for p in predictions},
    )


def _read_csv(path: Path, section: Section) -> ReportFile:
    columns, rows = read_rows(path)
    if {"reference", "hypothesis"} <= set(columns):
        return _numbered(path, [r["reference"] for r in rows], [r["hypothesis"] for r in rows])
    if {"study_id", "report"} <= set(columns):
        _refuse_twice(path, [row["study_id"] for row in rows])
        texts = _sections_of(path, {row["study_id"]: row["report"] for row in rows}, section)
        return ReportFile(texts, texts)
    raise UserError(
        f"{path}: expected columns study_id and report (ReXrank), or reference and hypothesis "
        f"(RadEval), found {sorted(columns)}"
    )


def _read_text(path: Path, section: Section) -> ReportFile:
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    texts = {str(i): _text(path, i, line) for i, line in enumerate(filter(None, lines))}
    return ReportFile(texts, texts, named=False)


def _numbered(
    path: Path, references: Any, generated: Any, *, names: Any | None = None
) -> ReportFile:
    if not all(isinstance(part, list) for part in (references, generated, names or [])):
        raise UserError(f"{path}: references, hypotheses or study_ids are not lists")
    if len(references) != len(generated):
        raise UserError(f"{path}: {len(references)} references but {len(generated)} hypotheses")
    if names is not None and len(names) != len(generated):
        raise UserError(f"{path}: {len(names)} study_ids but {len(generated)} hypotheses")
    studies = [str(i) for i in range(len(generated))] if names is None else list(map(str, names))
    _refuse_twice(path, studies)
    return ReportFile(
        {s: _text(path, s, text) for s, text in zip(studies, generated, strict=True)},
        {s: _text(path, s, text) for s, text in zip(studies, references, strict=True)},
        named=names is not None,
    )


def section_of(text: str, section: Section) -> str | None:
    """A section of a generated text, as `read_sections` reads it; the whole text without headers.

    Sections with the same header are joined; text before the first header is the findings if no
    other text is; FINDINGS AND IMPRESSION serves as any of the three.

    Returns:
        The section's text; None if the text has headers, but not this section.
    """
    found = read_sections(text, repeated="join")
    return _chosen(found, section) if found else text


def _chosen(found: Sections, section: Section) -> str | None:
    joint = found.get("findings+impression", "")
    if joint and section != "impression" and not found.get("findings"):
        return joint
    texts = {"findings": found.before, **{name: text for name, text in found.items() if text}}
    return " ".join(texts[name] for name in section.split("+") if texts.get(name)) or None


def _sections_of(path: Path, texts: Mapping[str, str], section: Section) -> dict[str, str]:
    """Take `section_of` each text, and warn about what is not scored.

    Raises:
        UserError: no text has the section.
    """
    chosen: dict[str, str | None] = {}
    cut: list[str] = []
    for study, text in texts.items():
        found = read_sections(text, repeated="join")
        chosen[study] = _chosen(found, section) if found else text
        if found.before and found and found.before not in (chosen[study] or ""):
            cut.append(study)
    lacking = [study for study, text in chosen.items() if text is None]
    said = f"{len(lacking)} of {len(texts)} reports have no {section} section"
    advice = "score another section with dataset.section, or remove the headers"
    if lacking and len(lacking) == len(texts):
        raise UserError(f"{path}: {said} (first: {lacking[0]}); {advice}")
    if lacking:
        log.warning(f"{path}: {said} (first: {lacking[0]}) and count as empty; {advice}")
    if cut:
        log.warning(
            f"{path}: {len(cut)} of {len(texts)} reports have text before their first header, "
            f"which is not scored (first: {cut[0]})"
        )
    return {study: text or "" for study, text in chosen.items()}


def as_prose(report: str) -> str:
    """Turn decoded words, `the heart is normal . no edema .`, into sentences, `The heart is normal.
    No edema.`; cleaning gives the words back."""
    sentences: list[list[str]] = [[]]
    for word in report.split():
        if word == ".":
            sentences.append([])
        else:
            sentences[-1].append(word)
    texts = (" ".join(words) for words in sentences if words)
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in texts)


def write_rexrank(
    path: Path, predictions: Sequence[Prediction], studies: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write ReXrank's file: what is known of each study, and `model_prediction` as prose.

    Args:
        path: the file to write.
        predictions: one per study.
        studies: each study's other fields, by its name, as in ReXrank's own test file.
    """
    content = {
        p.study_id: {**studies[p.study_id], "model_prediction": as_prose(p.generated)}
        for p in predictions
    }
    write_json(path, content)


def write_radeval(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write RadEval's JSON: raw references, generated reports as prose, `study_ids`, in order."""
    content = {
        "references": [" ".join(p.report.split()) for p in predictions],
        "hypotheses": [as_prose(p.generated) for p in predictions],
        "study_ids": [p.study_id for p in predictions],
    }
    write_json(path, content)


def _text(path: Path, study: Any, value: Any) -> str:
    if not isinstance(value, str):
        shown = repr(value)[:60]
        raise UserError(f"{path}: study {study}: found {shown} where a report should be")
    refuse_odd_text(f"{path}: study {study}", value)
    return value


def _refuse_twice(path: Path, studies: Sequence[str]) -> None:
    seen: set[str] = set()
    for study in studies:
        if study in seen:
            raise UserError(f"{path}: study {study} occurs twice; keep only one of its reports")
        seen.add(study)


def _unique(path: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice(path, [key for key, _ in pairs])
        return dict(pairs)

    return build
