"""The rows of the paper's tables, and the runs that they call for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import paths
from uar.core.errors import UserError, plainly
from uar.core.params_file import parse_params

SEED = "train.seed"


class Table(BaseModel):
    """A table of the paper.

    Attributes:
        title: its heading.
        published: its name in `uar.evaluation.published`.
        rows: name -> overrides of params.yaml.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    published: str
    rows: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Ablations:
    """The whole model, and the tables; every row names each key that any row changes."""

    whole: dict[str, Any]
    tables: dict[str, Table]

    @classmethod
    def load(cls, path: Path = paths.ABLATIONS) -> Ablations:
        """Read the YAML file that names the rows.

        Raises:
            UserError: it is absent or not laid out as in version control.
        """
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
            whole = dict(raw["uar"])
            tables = {name: Table.model_validate(table) for name, table in raw["tables"].items()}
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValidationError) as error:
            raise UserError(f"{path}: {plainly(error)}. Restore it from version control.") from None
        for name, table in tables.items():
            for row, overrides in table.rows.items():
                if unknown := sorted(set(overrides) - set(whole)):
                    raise UserError(
                        f"{path}: row {row} of {name} changes {unknown[0]}, which the whole model, "
                        "`uar`, does not name. Add it there."
                    )
                table.rows[row] = whole | overrides
        return cls(whole, tables)

    def models(self, tables: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Overrides of the distinct models in these tables, each under its first name in any."""
        wanted = [row for table in tables for row in self.tables[table].rows.values()]
        named: dict[str, dict[str, Any]] = {}
        for table in self.tables.values():
            for name, row in table.rows.items():
                if row not in named.values():
                    named[name] = row
        return {name: row for name, row in named.items() if row in wanted}

    def name_of(self, params: dict[str, Any]) -> str | None:
        """The name of the model that flat `params` describe; None if they match no row."""
        for name, row in self.models(self.tables).items():
            if all(params.get(key) == value for key, value in row.items()):
                return name
        return None


@dataclass(frozen=True)
class Run:
    """One row with one seed, as an experiment."""

    name: str  # ends with a hash of parameters and code
    model: str
    seed: int
    overrides: dict[str, Any] = field(hash=False)


def plan_runs(
    models: dict[str, dict[str, Any]],
    *,
    seeds: Iterable[int],
    extra: dict[str, Any],
    raw: dict[str, Any],
    tracked: Collection[str],
    code: str,
) -> list[Run]:
    """Plan a run of every model with every seed.

    An experiment's name says what it depends on, so that one with the same name need not run again.

    Args:
        models: name -> overrides.
        seeds: seeds of the training stages.
        extra: overrides that all runs share.
        raw: params.yaml.
        tracked: its keys that decide what the stages compute.
        code: hash of the stages' code.

    Raises:
        UserError: an unknown key or a value out of range, or `extra` changes what tells the runs
            apart.
    """
    apart = {key for row in models.values() for key in row} | {SEED}
    if clash := sorted(apart & set(extra)):
        raise UserError(f"--set {clash[0]}: the rows and --seeds set this key. Leave it out.")
    runs: list[Run] = []
    for seed in seeds:
        for model, row in models.items():
            overrides = {**extra, **row, SEED: seed}
            where = f"{paths.PARAMS} with {model}"
            params = flat(parse_params(overridden(raw, overrides), where).model_dump(mode="json"))
            runs.append(
                Run(run_name(model, params, tracked=tracked, code=code), model, seed, overrides)
            )
    return runs


def run_name(model: str, params: dict[str, Any], *, tracked: Collection[str], code: str) -> str:
    """A row's name with its seed and a hash of the code and of its flat `params` in `tracked`."""
    decisive = {key: params[key] for key in sorted(tracked)}
    return f"{model}-s{params[SEED]}-{digest([decisive, code])}"


def choose_rows(models: dict[str, dict[str, Any]], wanted: str | None) -> dict[str, dict[str, Any]]:
    """The models that `wanted` names, as in `base,a,uar`; all models if it is None.

    Raises:
        UserError: no model has one of the names.
    """
    names = models.keys() if wanted is None else [name.strip() for name in wanted.split(",")]
    if unknown := [name for name in names if name not in models]:
        raise UserError(
            f"--rows: no row {unknown[0]!r}; available: {', '.join(models)}. Rows that are the "
            "same model go by the first one's name."
        )
    return {name: models[name] for name in names}


def parse_seeds(text: str) -> list[int]:
    """Parse seeds: `3` means three seeds from 0 on, `1,5` (or `7,`) just these.

    Raises:
        UserError: the text is something else, or has a seed twice.
    """
    try:
        if "," in text:
            seeds = [int(part) for part in text.split(",") if part.strip()]
        else:
            seeds = list(range(int(text)))
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds: found {text!r}, expected a count (3) or a list (0,1,5).")
    return seeds


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Parse `key=value` texts, whose values are YAML.

    Raises:
        UserError: a text has no `=`, or its value is not YAML.
    """
    overrides: dict[str, Any] = {}
    for text in texts:
        key, found, value = text.partition("=")
        try:
            overrides[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            found = ""
        if not found:
            raise UserError(
                f"--set: found {text!r}, expected KEY=VALUE, such as train.batch_size=8."
            )
    return overrides


def overridden(raw: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested `raw` with dotted keys set, whether or not they were there."""
    result = deepcopy(raw)
    for dotted, value in overrides.items():
        *sections, key = dotted.split(".")
        section = result
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return result


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested sections into dotted keys."""
    values: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values


def digest(value: Any) -> str:
    """Eight hex digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
