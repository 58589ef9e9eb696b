"""Every stage's record: what dvc.yaml says it reads, makes and depends on, with hashes."""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from pipeline import paths
from uar.core.config import Params
from uar.core.files import sha256
from uar.core.params_file import known_keys
from uar.core.provenance import Record, Scratch, check_origins

ROOT = Path(__file__).parents[1]  # holds dvc.yaml and the code
_CODE = ("uar/", "pipeline/")
_LIBRARIES = ("torch", "numpy", "safetensors")
# How validation writes and chooses reports: evaluate may write them differently.
MAY_DIFFER = ("decode.", "train.select_by")
# Parameters that name files from outside version control.
OUTSIDE = (
    "dvae.encoder",
    "dvae.decoder",
    "dvae.distill.weights",
    "model.extractor.weights",
    "train.teachers",
    "decode.ensemble",
    "evaluate.chexbert",
    "evaluate.radgraph",
)


@dataclass(frozen=True)
class Stage:
    """A stage as dvc.yaml describes it."""

    name: str
    code: tuple[Path, ...]  # files and folders, relative to the project's folder
    inputs: tuple[Path, ...]
    outs: tuple[Path, ...]  # with metrics that a stage reads, without its record
    params: tuple[str, ...]  # dotted keys

    @property
    def record(self) -> Path:
        """The path of its record."""
        return paths.PROVENANCE / f"{self.name}.json"

    def values(self, params: Params) -> dict[str, Any]:
        """Its parameters by dotted key."""
        return values_of(params, self.params)

    def check(self, params: Params) -> None:
        """Compare its inputs with their records, and params.yaml with the parameters in them.

        Raises:
            UserError: as in `uar.core.provenance.check_origins`.
        """
        compared = [key for key in known_keys() if not key.startswith(MAY_DIFFER)]
        expected = values_of(params, compared)
        check_origins(self.inputs, expected, makers=makers(), records=paths.PROVENANCE)

    def write_record(self, params: Params) -> None:
        """Write what it read and made."""
        made_from = {str(path): sha256(path) for path in self.inputs}
        made = {str(path): sha256(path) for path in self.outs}
        made_from |= self._outside(params)
        record = Record(self.name, self.values(params), made_from, made, self.code_hash())
        record.save(self.record)

    def identity(self, params: Params) -> dict[str, Any]:
        """All that its result depends on: a resumed run must share it."""
        return {
            "code": self.code_files(),
            "params": self.values(params),
            "input": {str(path): sha256(path) for path in self.inputs} | self._outside(params),
            "version": {name: version(name) for name in _LIBRARIES},
        }

    def scratch(self, params: Params) -> Scratch:
        """Where its unfinished work is kept."""
        return Scratch(paths.SCRATCH / self.name, self.identity(params))

    def code_files(self, root: Path = ROOT) -> dict[str, str]:
        """SHA-256 of each file of its code, which is in `root`."""
        return {
            file.relative_to(root).as_posix(): sha256(file)
            for path in self.code
            for file in _python_files(root / path)
        }

    def code_hash(self, root: Path = ROOT) -> str:
        """One SHA-256 for all files of its code."""
        return hashlib.sha256(json.dumps(self.code_files(root)).encode()).hexdigest()

    def _outside(self, params: Params) -> dict[str, str]:
        values = self.values(params)
        named = [name for key in OUTSIDE for name in listed(values.get(key))]
        found = {name: paths.external(name) for name in named}
        return {name: sha256(path) for name, path in found.items() if path.exists()}


def listed(value: str | list[str] | None) -> list[str]:
    """The paths in the value of one of `OUTSIDE`."""
    return value if isinstance(value, list) else [value] if value else []


@cache
def stages(root: Path = ROOT) -> dict[str, Stage]:
    """Every stage of the dvc.yaml in `root`, by name."""
    read = yaml.safe_load((root / paths.DVC).read_text(encoding="utf-8"))["stages"]
    used = {path for spec in read.values() for path in spec["deps"]}
    return {name: _stage(name, spec, used) for name, spec in read.items()}


def tracked_keys(root: Path = ROOT) -> set[str]:
    """Keys of params.yaml that decide what some stage computes."""
    return {key for stage in stages(root).values() for key in stage.params}


@cache
def makers(root: Path = ROOT) -> dict[str, str]:
    """Output path -> the stage that makes it."""
    return {str(out): stage.name for stage in stages(root).values() for out in stage.outs}


def code_up_to(name: str) -> list[Path]:
    """Code, as dvc.yaml names it, of a stage and of all stages that its inputs depend on."""
    waiting, seen = [name], {name}
    code: set[Path] = set()
    while waiting:
        stage = stages()[waiting.pop()]
        code.update(stage.code)
        earlier = {makers()[str(path)] for path in stage.inputs if str(path) in makers()}
        waiting += earlier - seen
        seen |= earlier
    return sorted(code)


def commit(name: str) -> str | None:
    """The last commit that changed code of the stages up to `name`; None outside a git repository.

    A later commit, of dvc.lock say, does not change it, so that the same result is the same file.
    As with `git describe`, "-dirty" marks uncommitted changes.
    """
    last = _last_commit("%H", name)
    if last is None:
        return None
    compared = ["git", "diff", "--quiet", "HEAD", "--", *map(str, code_up_to(name))]
    return last + ("" if subprocess.run(compared).returncode == 0 else "-dirty")


def code_date(name: str) -> str | None:
    """The date of the commit that `commit` names, as `2026-11-30`.

    No file says when a model was trained, so that a repeated run gives the same bytes.
    """
    return _last_commit("%cs", name)


def _last_commit(form: str, name: str) -> str | None:
    command = ["git", "log", "-1", f"--format={form}", "--", *map(str, code_up_to(name))]
    last = subprocess.run(command, capture_output=True, text=True)
    return last.stdout.strip() or None if last.returncode == 0 else None


def _stage(name: str, spec: dict[str, Any], used: set[str]) -> Stage:
    """The stage that `spec` describes; `used` are the paths that stages read."""
    code = [path for path in spec["deps"] if path.startswith(_CODE)]
    metrics = [path for metric in spec.get("metrics", ()) for path in metric if path in used]
    outs = [Path(out if isinstance(out, str) else next(iter(out))) for out in spec["outs"]]
    outs += map(Path, metrics)
    return Stage(
        name=name,
        code=tuple(map(Path, code)),
        inputs=tuple(Path(path) for path in spec["deps"] if path not in code),
        outs=tuple(out for out in outs if out.parent != paths.PROVENANCE),
        params=tuple(spec.get("params", ())),
    )


def _python_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def values_of(params: Params, keys: Iterable[str]) -> dict[str, Any]:
    """Parameters by dotted key."""
    whole = params.model_dump(mode="json")
    return {key: functools.reduce(operator.getitem, key.split("."), whole) for key in keys}
