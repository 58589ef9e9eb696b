"""A project of twenty studies in which every stage has run, and copies of it to be damaged."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import yaml

from pipeline import paths
from pipeline.provenance import Stage, makers, stages
from tests.conftest import ROOT, TINY, override
from tests.faults.forked import IDENTICAL, run_forked

# So that a case takes seconds: figures are coarse, and METEOR's Java does not start.
CHEAP = {"evaluate.meteor": False, "evaluate.resamples": 100}
DPI = 20


def preload() -> None:
    """Import what the stages import, so that forks need not."""

    for name in stages():
        import_module(f"pipeline.stages.{name}")
    vars(import_module("uar.analysis.saving"))["_DPI"] = DPI
    logging.disable(logging.NOTSET)


@contextlib.contextmanager
def whole_project(kept: Path | None) -> Iterator[Path]:
    """A folder in which every stage has run.

    Args:
        kept: where an interrupted run has left it, or where to leave it.
    """
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name) / "whole"
        if kept is not None and kept.is_dir():
            shutil.copytree(kept, folder)
            yield folder
            return
        folder.mkdir()
        raw = yaml.safe_load((ROOT / "params.yaml").read_text())
        for key, value in (TINY | CHEAP).items():
            override(raw, key, value)
        (folder / "params.yaml").write_text(yaml.safe_dump(raw))
        for stage in stages():
            ending = run_forked(folder, stage)
            if ending.code:
                raise SystemExit(f"{stage} does not run at all:\n{ending.said}")
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, kept.with_suffix(".partial"), dirs_exist_ok=True)
            os.replace(kept.with_suffix(".partial"), kept)
        yield folder


def another(whole: Path) -> Path:
    """A project with other seeds and other films, run up to its checkpoints."""
    folder = copy_of(whole)
    raw = yaml.safe_load((folder / paths.PARAMS).read_text())
    for key, value in (("dataset.demo.seed", 7), ("seed", 3), ("train.seed", 5)):
        override(raw, key, value)
    (folder / paths.PARAMS).write_text(yaml.safe_dump(raw))
    for stage in list(stages())[:-3]:
        ending = run_forked(folder, stage)
        if ending.code:
            raise SystemExit(ending.said)
    return folder


def contents(folder: Path, names: list[Path]) -> dict[str, bytes]:
    """The bytes of every file under `names`, by name."""
    files = [f for name in names for f in ([folder / name] if (folder / name).is_file()
             else (folder / name).rglob("*")) if f.is_file()]  # fmt: skip
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def outputs_of(stage: Stage) -> list[Path]:
    """Files and folders that a run of the stage leaves."""
    return [*stage.outs, stage.record]


def copy_of(folder: Path) -> Path:
    """Copy a folder to a new one next to it."""
    copy = Path(tempfile.mkdtemp(dir=folder.parent))
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    return copy


def without(whole: Path, stage: Stage) -> Path:
    """A folder with what the stage reads and compares, and nothing else."""
    folder = Path(tempfile.mkdtemp(dir=whole.parent))
    for path in read_by(stage.name):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (whole / path).is_dir() else shutil.copy)(whole / path, folder / path)
    return folder


def remove(folder: Path, names: list[Path]) -> None:
    for name in names:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def read_by(name: str) -> set[Path]:
    """What a stage reads or compares: its inputs, params.yaml, and records of earlier stages."""
    inputs = stages()[name].inputs
    earlier = {makers()[str(path)] for path in inputs}
    return {paths.PARAMS, *inputs, *(stages()[stage].record for stage in earlier)}.union(
        *(read_by(stage) - set(stages()[stage].inputs) for stage in earlier)
    )


def readers(path: Path) -> list[str]:
    """Stages that read a file."""
    return [name for name, stage in stages().items() if path in stage.inputs]


def state_of(folder: Path) -> str:
    """Hash of what is in a folder, except for the process ids in locks."""
    digest = hashlib.blake2b()
    for path in sorted(folder.rglob("*")):
        linked = path.is_file() and path.stat().st_nlink
        digest.update(f"{path.relative_to(folder)}\0{linked}\0".encode())
        if path.is_file() and path.suffix != ".lock":
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def same_after(folder: Path, stage: Stage, expected: dict[str, bytes]) -> str:
    """Run the stage, and compare what it leaves."""
    again = run_forked(folder, stage.name)
    if again.code:
        return f"does not go on: {again.said}"
    new = contents(folder, outputs_of(stage))
    if new != expected:
        return (
            f"other bytes: {sorted(n for n in {*new, *expected} if new.get(n) != expected.get(n))}"
        )
    left = [str(p.relative_to(folder)) for p in folder.rglob("*.partial")]
    return f"leaves {left}" if left else IDENTICAL
