"""Preset merging: one overlay into params.yaml, comments kept."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from ruamel.yaml import YAML, RoundTripRepresenter
from ruamel.yaml.nodes import ScalarNode

from pipeline import paths
from uar.core.config import load_params, params_text, parse_params
from uar.core.errors import UserError
from uar.core.files import whole_file

log = logging.getLogger(__name__)


def use(
    preset: Annotated[str, typer.Argument(help="Name of a file in presets/, without .yaml.")],
    root: Annotated[Path | None, typer.Option(help="Folder of the raw data set.")] = None,
    layout: Annotated[
        str | None, typer.Option(help="How its files lie, if not as the preset has it.")
    ] = None,
) -> None:
    """Merge a preset into params.yaml; comments and keys the preset does not name stay."""
    source = paths.PRESETS / f"{preset}.yaml"
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in paths.PRESETS.glob("*.yaml")))
        raise UserError(f"no preset {preset!r} in {paths.PRESETS}/; there are: {known}.")
    load_params(paths.PARAMS)
    editor = YAML()  # keeps comments, quotes and number formats
    editor.preserve_quotes = True
    editor.width = 4096
    editor.representer.add_representer(type(None), _null)
    overlay = editor.load(source.read_text())
    if root is not None:
        overlay.setdefault("dataset", {})["root"] = str(root)
    if layout is not None:
        overlay.setdefault("dataset", {})["layout"] = layout
    document = editor.load(params_text(paths.PARAMS))
    changes = merge(document, overlay)
    text = io.StringIO()
    editor.dump(document, text)
    parse_params(yaml.safe_load(text.getvalue()), f"{paths.PARAMS} with {source}")
    with whole_file(paths.PARAMS) as temporary:
        temporary.write_text(text.getvalue())
    for key, old, new in changes:
        log.info(f"{key}: {old} -> {new}")
    log.info(f"{paths.PARAMS} now uses {preset} ({len(changes)} keys changed). Next: dvc repro")


def merge(
    document: dict[str, Any], overlay: dict[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Write `overlay`'s values into the nested `document`; what changed as (key, old, new)."""
    changes: list[tuple[str, Any, Any]] = []
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            changes += merge(document[key], value, f"{prefix}{key}.")
        elif document.get(key) != value:
            changes.append((prefix + key, document.get(key), value))
            document[key] = value
    return changes


def _null(representer: RoundTripRepresenter, _: None) -> ScalarNode:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")
