"""What the system refuses: missing permissions, the wrong kind of path, full disks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.provenance import stages
from tests.conftest import ROOT
from tests.faults.forked import IDENTICAL, NOT_READ, REFUSED, Case, Ending, run_forked
from tests.faults.project import contents, copy_of, outputs_of, same_after, without


def system(whole: Path, names: list[str]) -> Iterator[Case]:
    """Run stages with unreadable inputs, with read-only folders and with an odd params.yaml.

    Root, who may do everything, gives up its privileges first.
    """
    for name in names:
        stage = stages()[name]
        for path in (paths.PARAMS, *stage.inputs):
            yield f"{path} unreadable, {name}", partial(_barred, whole, name, path, 0)
        yield f"all read-only, {name}", partial(_barred, whole, name, Path(), 0o500)
    for what, damage in {
        "a folder": lambda p: (p.unlink(), p.mkdir()),
        "a link to itself": lambda p: (p.unlink(), p.symlink_to(p.name)),
        "nested 5,000 deep": lambda p: p.write_text("[" * 5000),
        "a key twice": lambda p: p.write_text("seed: 0\nseed: 1\n"),
        "no UTF-8": lambda p: p.write_bytes(b"a: caf\xe9"),
    }.items():
        for command in ("use demo", *names):
            yield f"params.yaml {what}, {command}", partial(_odd_params, whole, command, damage)


def _odd_params(whole: Path, command: str, damage: Callable[[Path], Any]) -> str:
    folder = copy_of(whole)
    try:
        shutil.copytree(ROOT / paths.PRESETS, folder / paths.PRESETS)
        damage(folder / paths.PARAMS)
        return _sentence(run_forked(folder, command), "params.yaml")
    finally:
        shutil.rmtree(folder)


def _barred(whole: Path, stage: str, path: Path, mode: int) -> str:
    folder = copy_of(without(whole, stages()[stage]))
    try:
        for place in (folder, *folder.rglob("*")) if mode else (folder / path,):
            if mode == 0 or place.is_dir():
                os.chmod(place, mode)
        named = str(path) if mode == 0 else "cannot write"
        return _sentence(run_forked(folder, stage, barred=True), named)
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", folder], check=True)
        shutil.rmtree(folder)


def _sentence(ending: Ending, named: str) -> str:
    if ending.code != 1 or named not in ending.said:
        return f"{ending.code}: {ending.said}"
    asks = "Make room" in ending.said and named != "cannot write"
    return f"asks for room: {ending.said}" if asks else REFUSED


def full(whole: Path, names: list[str], limits: list[int]) -> Iterator[Case]:
    """Run each stage with a limit on file size: a sentence must refuse it, and then it goes on."""
    for name in names:
        for limit in limits:
            yield f"{name}, files up to {limit} bytes", partial(_full, whole, name, limit)


def _full(whole: Path, name: str, limit: int) -> str:
    stage = stages()[name]
    expected = contents(whole, outputs_of(stage))
    folder = without(whole, stage)
    try:
        ending = run_forked(folder, name, limit=limit)
        again = same_after(folder, stage, expected)
        if again != IDENTICAL:
            return f"does not recover: {again}"
        if ending.code == 1 and "bytes are free" not in ending.said:
            return f"refused for another reason: {ending.said}"
        return {0: NOT_READ, 1: REFUSED}.get(ending.code, f"{ending.code}: {ending.said}")
    finally:
        shutil.rmtree(folder)
