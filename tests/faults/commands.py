"""Commands other than stages: when the system refuses something, and two of them at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

from pipeline import paths
from tests.conftest import ROOT
from tests.faults.forked import IDENTICAL, REFUSED, Case, run_forked, start
from tests.faults.project import contents, copy_of

PRESETS = ("demo_dvae", "iu_xray_small")  # they agree in no value that they set


def commands(whole: Path) -> Iterator[Case]:
    """Run each command with a full disk, with a read-only tree and with an unreadable input."""
    film = min((whole / "data/raw/demo/images").rglob("*.png")).relative_to(whole)
    report = f"uar report {film} --bundle model.uar --device cpu --force"
    writers = {
        "use demo": paths.PARAMS,
        "score evaluation/predictions.jsonl --out scores.json": Path("scores.json"),
        "export_predictions --format rexrank --out rexrank.json": Path("rexrank.json"),
        f"{report} --heatmap seen.png": Path("seen.png"),
    }
    for command, out in writers.items():
        name = " ".join(word for word in command.split() if word != str(film))
        yield f"a full disk, {name}", partial(_refused, whole, command, out, _nothing, 0)
        yield f"all read-only, {name}", partial(_refused, whole, command, out, _read_only, None)
    for command, read in {
        "use demo": paths.PARAMS,
        "score evaluation/predictions.jsonl": paths.PARAMS,
        "score predictions.csv": Path("predictions.csv"),
        "doctor": paths.PARAMS,
        report: film,
    }.items():
        yield f"{read} unreadable, {command}", partial(_unreadable, whole, command, read)


def _copy(whole: Path, command: str) -> Path:
    """Copy the project, and add what commands read but stages do not."""
    folder = copy_of(whole)
    if command.startswith("use "):  # presets do not fit tiny sizes
        shutil.copy(ROOT / paths.PARAMS, folder)
    shutil.copytree(ROOT / paths.PRESETS, folder / paths.PRESETS)
    (folder / "predictions.csv").write_text("study_id,report\nx,clear lungs .\n", encoding="utf-8")
    return folder


def _refused(
    whole: Path, command: str, out: Path, change: Callable[[Path], None], limit: int | None
) -> str:
    """Check that a command is refused without changing anything, and works once there is room."""
    folder = _copy(whole, command)
    try:
        before = contents(folder, [out])
        change(folder)
        ending = run_forked(folder, command, limit=limit, barred=limit is None)
        _writable(folder)
        if ending.code != 1 or not ("cannot write" in ending.said and "Make room" in ending.said):
            return f"{ending.code}: {ending.said}"
        if contents(folder, [out]) != before or list(folder.rglob("*.partial")):
            return f"leaves something: {ending.said}"
        again = run_forked(folder, command)
        if again.code or not contents(folder, [out]):
            return f"does not work with room: {again.said}"
        return REFUSED
    finally:
        _writable(folder)
        shutil.rmtree(folder)


def _nothing(folder: Path) -> None:
    pass


def _read_only(folder: Path) -> None:
    subprocess.run(["chmod", "-R", "a-w", folder], check=True)


def _writable(folder: Path) -> None:
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)


def _unreadable(whole: Path, command: str, read: Path) -> str:
    folder = _copy(whole, command)
    try:
        os.chmod(folder / read, 0)
        ending = run_forked(folder, command, barred=True)
        if ending.code != 1 or str(read) not in ending.said or "Make room" in ending.said:
            return f"{ending.code}: {ending.said}"
        return REFUSED
    finally:
        _writable(folder)
        shutil.rmtree(folder)


def writers(pairs: int) -> Iterator[Case]:
    """Start two `use` at once: params.yaml must be what one, or both in turn, would write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / paths.PRESETS, folder / paths.PRESETS)
        fresh = (ROOT / paths.PARAMS).read_bytes()
        wanted = set()
        for order in [*product(PRESETS, repeat=1), *product(PRESETS, repeat=2)]:
            (folder / paths.PARAMS).write_bytes(fresh)
            for preset in order:
                if (ending := run_forked(folder, f"use {preset}")).code:
                    raise SystemExit(f"use {preset}: {ending.said}")
            wanted.add((folder / paths.PARAMS).read_bytes())
        for pair in range(pairs):
            yield f"use and use, pair {pair + 1}", partial(_both, folder, fresh, wanted)


def _both(folder: Path, fresh: bytes, wanted: set[bytes]) -> str:
    (folder / paths.PARAMS).write_bytes(fresh)
    endings = [running.wait() for running in [start(folder, f"use {name}") for name in PRESETS]]
    for ending in endings:
        locked = ending.code == 1 and "is already running in this folder" in ending.said
        if ending.code and not locked:
            return f"{ending.code}: {ending.said}"
    if all(ending.code for ending in endings):
        return "neither went through"
    if list(folder.glob(".*.partial")):
        return "leaves a temporary file"
    return IDENTICAL if (folder / paths.PARAMS).read_bytes() in wanted else "params.yaml is neither"
