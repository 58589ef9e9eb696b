"""Merging a preset into params.yaml, keeping its comments."""

from __future__ import annotations

import io
import logging
import os
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.tokens import CommentToken

from pipeline import paths
from pipeline.run import alone
from uar.core.errors import UserError
from uar.core.files import write_text
from uar.core.params_file import load_params, params_text, parse_params, read_raw
from uar.data.readers import READERS, checked_layout

_COMMENTS = 30  # column of params.yaml's comments

log = logging.getLogger(__name__)


@alone("use")
def use(
    preset: Annotated[str, typer.Argument(help="Name of a file in presets/, without .yaml.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder of the raw data set; stored as an absolute path.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="The layout of its files, if not the preset's.")
    ] = None,
) -> None:
    """Merge a preset into params.yaml; comments and keys the preset does not name stay.

    A root or layout that is named must fit; otherwise nothing is written. A preset whose own root
    is not there yet is merged, and the last line says what to do.
    """
    source = paths.PRESETS / f"{preset}.yaml"
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in paths.PRESETS.glob("*.yaml")))
        raise UserError(f"no preset {preset!r} in {paths.PRESETS}/; available: {known}.")
    load_params(paths.PARAMS)
    editor = YAML()  # keeps comments and number formats; as `dvc exp run -S` has it
    editor.default_flow_style = False
    read_raw(source)  # refuses what is no mapping
    overlay = editor.load(source.read_text(encoding="utf-8"))
    chosen = overlay.setdefault("dataset", {})
    if root is not None:
        # An experiment of --queue or --temp, or a copy of the project, runs in another folder.
        chosen["root"] = os.path.abspath(root.expanduser())
    if layout is not None:
        offered = READERS.get(chosen.get("name"), {}).get(layout)
        if offered is not None and chosen.get("split") not in offered.splits:
            chosen["split"] = offered.splits[0]
        chosen["layout"] = layout
    document = editor.load(params_text(paths.PARAMS))
    changes = merge(document, overlay)
    _align_comments(document)
    text = io.StringIO()
    editor.dump(document, text)
    params = parse_params(yaml.safe_load(text.getvalue()), f"{paths.PARAMS} with {source}")
    if root is not None or layout is not None or params.dataset.root.exists():
        checked_layout(params.dataset)
    write_text(paths.PARAMS, text.getvalue())
    log.info(_about(source.read_text(encoding="utf-8")))
    for key, old, new in changes:
        log.info(f"{key}: {_as_yaml(old)} -> {_as_yaml(new)}")
    next_step = "dvc repro"
    if params.dataset.name != "demo" and not params.dataset.root.exists():
        next_step = (
            f"put the data set into {params.dataset.root}, or name its folder with "
            f"`python -m pipeline use {preset} --root FOLDER`; then dvc repro"
        )
    log.info(f"{paths.PARAMS} now uses {preset} ({len(changes)} keys changed). Next: {next_step}")


def _about(preset: str) -> str:
    """The comment that a preset begins with, in one line."""
    lines = takewhile(lambda line: line.startswith("#"), preset.splitlines())
    return " ".join(line.strip("# ") for line in lines)


def merge(
    document: dict[str, Any], overlay: dict[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Write `overlay`'s values into the nested `document`; return changes as (key, old, new)."""
    changes: list[tuple[str, Any, Any]] = []
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            changes += merge(document[key], value, f"{prefix}{key}.")
        elif document.get(key) != value:
            changes.append((prefix + key, document.get(key), value))
            document[key] = list(value) if isinstance(value, list) else value  # one value per line
    return changes


def _as_yaml(value: Any) -> str:
    """A value as params.yaml spells it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _align_comments(document: CommentedMap) -> None:
    """Put all comments at line ends back into their column, from which long values moved them."""
    for key, value in document.items():
        for token in document.ca.items.get(key, []):
            if isinstance(token, CommentToken) and token.start_mark.column > 0:
                token.column = _COMMENTS
        if isinstance(value, CommentedMap):
            _align_comments(value)
