"""Draft reports on films, written by an exported model."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer

import uar
from uar.command.options import BUNDLE, BundlePath, Device
from uar.core.errors import UserError
from uar.core.files import read_rows

if TYPE_CHECKING:
    from uar.bundle.report import Report
    from uar.bundle.reporter import Prepared
    from uar.data.study import View

log = logging.getLogger(__name__)

_BATCH = 16  # studies
_DOUBTFUL = 3  # exit status if films are doubtful and no study failed
_COLUMNS = ("study", "frontal", "lateral")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", "")


class RequestedStudy(NamedTuple):
    """A study to report on."""

    name: str
    films: Sequence[Path | bytes]
    views: Sequence[View] | None = None  # if a table states them


def report(
    films: Annotated[
        list[str],
        typer.Argument(
            help="One or two films of a study (PNG, JPEG, DICOM; frontal first), - to read one "
            "from stdin, a folder, or a CSV with columns study, frontal, lateral."
        ),
    ],
    bundle: BundlePath = BUNDLE,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="JSON, with sentences and findings; one line per study if several."
        ),
    ] = False,
    heatmap: Annotated[
        Path | None,
        typer.Option(help="Picture to write: where the model looked per sentence; one study only."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Report even on films unlike those used in training."),
    ] = False,
    device: Device = "auto",
) -> None:
    """Write draft reports of films. Research use only."""
    many = len(films) == 1 and (Path(films[0]).is_dir() or films[0].lower().endswith(".csv"))
    if many and heatmap:
        raise UserError("--heatmap draws only one study; name its film or films.")
    requested = _of_many(Path(films[0])) if many else iter([_one(films)])
    reporter = uar.load(bundle, device)
    failed = doubtful = 0
    while batch := list(islice(requested, 1 if not many else _BATCH)):
        ready = []
        for study in batch:
            try:
                names = [study.name if isinstance(f, bytes) else str(f) for f in study.films]
                prepared = reporter.prepare(study.films, names, study.views)
            except UserError as reason:
                failed += 1
                log.error(f"{study.name}: {reason}" if many else str(reason))
                continue
            if prepared.doubts and not force:
                doubtful += 1
                _refuse(study.name, prepared, many=many, as_json=as_json)
            else:
                ready.append((study.name, prepared))
        if not ready:
            continue
        written = reporter.write([prepared for _, prepared in ready])
        for (name, _), result in zip(ready, written, strict=True):
            _show(name, result, many=many, as_json=as_json)
            if heatmap:
                _draw(result, heatmap)
    if failed or doubtful:
        raise typer.Exit(1 if failed else _DOUBTFUL)


def _one(films: Sequence[str]) -> RequestedStudy:
    name = " ".join(films)
    if name == "-":
        return RequestedStudy("stdin", [sys.stdin.buffer.read()])
    return RequestedStudy(name, [Path(film) for film in films])


def _of_many(source: Path) -> Iterator[RequestedStudy]:
    """Yield the studies of a folder (one subfolder or one film each) or of a CSV."""
    if not source.is_dir():
        yield from _of_table(source)
        return
    found = False
    for path in sorted(source.iterdir()):
        if path.name.startswith("."):
            continue
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        films = [file for file in inside if file.suffix.lower() in _SUFFIXES and file.is_file()]
        if films:
            found = True
            yield RequestedStudy(path.name, films)
    if not found:
        raise UserError(f"{source}: found no film; expected PNG, JPEG or DICOM files")


def _of_table(table: Path) -> Iterator[RequestedStudy]:
    """Yield the studies of a table, whose paths are relative to its folder."""
    if not table.is_file():
        raise UserError(f"{table}: no such file")
    columns, rows = read_rows(table)
    if not {"study", "frontal"} <= set(columns):
        raise UserError(
            f"{table}: found columns {', '.join(columns)}; expected {', '.join(_COLUMNS)} (lateral "
            "may be left out or empty)"
        )
    for row in rows:
        films = {view: row.get(view) for view in ("frontal", "lateral")}
        given: dict[View, Path] = {
            cast("View", view): table.parent / film for view, film in films.items() if film
        }
        yield RequestedStudy(row["study"], list(given.values()), list(given))


def _refuse(name: str, prepared: Prepared, *, many: bool, as_json: bool) -> None:
    """Say why there is no report."""
    for doubt in prepared.doubts:
        log.error(f"{name}: no report. {doubt}" if many else f"No report. {doubt}")
    if not many:
        log.error("Use --force to write one anyway.")
    if as_json:
        _echo(name, prepared.refusal_json(), many)


def _echo(name: str, entry: dict[str, Any], many: bool) -> None:
    entry = ({"study": name} if many else {}) | entry
    typer.echo(json.dumps(entry, indent=None if many else 2, ensure_ascii=False))


def _show(name: str, result: Report, *, many: bool, as_json: bool) -> None:
    for said in result.caveats if not many else (*result.notes, *result.doubts):
        log.warning(f"{name}: {said}" if many else said)
    if as_json:
        _echo(name, result.as_json(), many)
    else:
        typer.echo(f"{name}: {result.text}" if many else result.text)


def _draw(result: Report, out: Path) -> None:
    from uar.core.files import atomic_write
    from uar.viewer.heatmap import heatmap

    with atomic_write(out) as temporary:
        heatmap(result).save(temporary, "PNG")
