"""Reading and validating params.yaml, with messages for its faults.

`load_params` refuses a key that no section knows (and names the nearest one it does know), a value
of the wrong type and a value out of range, before any work starts.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from uar.core.config import Params, Section
from uar.core.errors import UserError, form_of
from uar.core.files import not_utf8

_REMOVED = {  # keys of earlier versions: what replaces them
    "workers": "Remove it; `python -m pipeline ingest --workers N` sets it for one run",
    "analyze": "Remove the section: the figures show three studies",
    "dataset.preset": "Remove it",
    "dvae.train.kl_weight": "Remove it: the loss has no KL term, as with 0",
    "model.tir_mask": "Move its value to model.tir: none, static or predicted",
    "train.global_loss": "Remove it: train.lambda2 0 leaves the global loss out",
    "train.negatives": "Remove it: train.smoothness 0 takes the hardest negatives",
    "train.stage_one.steps": "Remove it: train.stage_one.epochs sets the length",
    "train.stage_two.steps": "Remove it: train.stage_two.epochs sets the length",
    "train.strategy": "Remove it; `train_stage_one --strategy fsdp` sets it for one run",
    "evaluate.labellers": "Remove it: CheXbert is used if evaluate.chexbert names its weights",
    "evaluate.graphs": "Remove it: RadGraph is used if evaluate.radgraph names its weights",
    "evaluate.page_studies": "Remove it: the page shows up to 600 studies",
}


def load_params(path: Path) -> Params:
    """Read and validate params.yaml.

    Raises:
        UserError: the file is absent or not YAML, or a key is unknown, missing, of the wrong type
            or out of range. Every such key is named in one message.
    """
    return parse_params(read_raw(path), source=str(path))


def read_raw(path: Path) -> dict[str, Any]:
    """The sections of params.yaml as written. Raises UserError if it is absent or not YAML."""
    try:
        raw = yaml.load(params_text(path), _KeysOnce)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for params.yaml.") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds {form_of(raw)}, expected the sections of params.yaml.")
    return raw


class _KeysOnce(yaml.SafeLoader):
    """A loader that refuses a key given twice; PyYAML itself would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node. Raises ConstructorError if a key occurs twice."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice[0]} is given twice; keep one", node.start_mark
            )
        return super().construct_mapping(node, deep)


def params_text(path: Path) -> str:
    """The text of params.yaml. Raises UserError if the file is absent or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Run from the project's folder.") from None
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None


def parse_params(raw: dict[str, Any], source: str) -> Params:
    """Validate a nested mapping; `source` names it in errors."""
    try:
        return Params.model_validate(raw)
    except ValidationError as invalid:
        lines = [_explain(error) for error in invalid.errors()]
        raise UserError(f"{source}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def known_keys(section: type[BaseModel] = Params, prefix: str = "") -> list[str]:
    """Every dotted key of params.yaml that holds a value."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def nearest_key(key: str) -> str | None:
    """The known key or section most like `key`, else the key with the most similar last part."""
    keys = known_keys()
    sections = {known.rpartition(".")[0] for known in keys}
    by_whole = difflib.get_close_matches(key, [*keys, *sorted(sections)], n=1, cutoff=0.7)
    if by_whole:
        return by_whole[0]
    leaves = {known.rsplit(".", 1)[-1]: known for known in keys}
    by_leaf = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(leaves), n=1, cutoff=0.6)
    return leaves[by_leaf[0]] if by_leaf else None


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        if key in _REMOVED:
            return f"{key}: no longer a parameter. {_REMOVED[key]}."
        nearest = nearest_key(key)
        hint = f" Did you mean {nearest}?" if nearest else " Remove it."
        return f"{key}: unknown key.{hint}"
    if error["type"] == "missing":
        return f"{key}: missing. Add it; params.yaml in version control shows where."
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}: {message}." if key else f"{message}."
    return f"{key}: found {error['input']!r}. {message}."
