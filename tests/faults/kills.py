"""Runs that are killed before a file operation or during a write, and then run again."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.provenance import Stage, stages
from tests.faults.forked import NOT_READ, Case, run_forked
from tests.faults.project import (
    contents,
    copy_of,
    outputs_of,
    remove,
    same_after,
    state_of,
    without,
)


def kills(whole: Path, names: list[str], most: int) -> Iterator[Case]:
    """Kill each stage before file operations and during writes, run it again, compare outputs.

    Every second time its outputs are removed in between, as DVC does.

    Args:
        most: kills per stage, spread over its operations.
    """
    for name in names:
        stage = stages()[name]
        expected = contents(whole, outputs_of(stage))
        before = without(whole, stage)
        count = run_forked(copied := copy_of(before), name).operations
        shutil.rmtree(copied)
        for at in sorted({round(i * (count - 1) / (most - 1)) for i in range(most)}):
            case = f"{name}, before operation {at} of {count}"
            yield case, partial(_killed, before, stage, {"at": at}, expected)
        for limit in (0, 3_000, 30_000) if most > 2 else ():
            case = f"{name}, in the write of byte {limit}"
            how = {"limit": limit, "killed_by_limit": True}
            yield case, partial(_killed, before, stage, how, expected)
        shutil.rmtree(before)


def _killed(before: Path, stage: Stage, how: dict[str, Any], expected: dict[str, bytes]) -> str:
    folder = copy_of(before)
    try:
        killed = run_forked(folder, stage.name, **how)
        if killed.code not in (-signal.SIGKILL, -signal.SIGXFSZ):
            if "limit" in how and not killed.code:
                return NOT_READ
            return f"was not killed: {killed.code} {killed.said}"
        if how.get("at", 0) % 2:
            remove(folder, outputs_of(stage))
        return same_after(folder, stage, expected)
    finally:
        shutil.rmtree(folder)


def moments(whole: Path, names: list[str]) -> Iterator[Case]:
    """Run each stage from what a kill before each of its file operations would leave.

    The disk is copied before each of them while the stage runs once. Every second time its outputs
    are removed, as DVC does. Copies with the same bytes under the same names are run from once.
    """
    for name in names:
        stage = stages()[name]
        expected = contents(whole, outputs_of(stage))
        before = without(whole, stage)
        with tempfile.TemporaryDirectory(dir=whole.parent) as copies:
            ending = run_forked(before, name, moments=Path(copies))
            if ending.code:
                raise SystemExit(f"{name} does not run:\n{ending.said}")
            seen: dict[str, str] = {}
            for at, folder in enumerate(sorted(Path(copies).iterdir())):
                case = f"{name}, at operation {at} of {ending.operations}"
                yield case, partial(_from, folder, stage, bool(at % 2), expected, seen)
                shutil.rmtree(folder)
        shutil.rmtree(before)


def _from(
    folder: Path, stage: Stage, removed: bool, expected: dict[str, bytes], seen: dict[str, str]
) -> str:
    if removed:
        remove(folder, outputs_of(stage))
    state = state_of(folder)
    if state not in seen:
        seen[state] = same_after(folder, stage, expected)
    return seen[state]
