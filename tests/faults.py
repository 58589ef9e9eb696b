"""What happens when runs are killed, files damaged or mixed, loads hostile and disks full.

    python -m tests.faults                        # some of each kind, about a minute
    python -m tests.faults --long --log FILE      # every case; interrupted, it goes on from FILE

A demo of twenty studies runs once, whole. Then each case works on a copy of it in a process of its
own, forked. The table that is printed at the end is in docs/faults.md; the exit status is 1 if any
case ended otherwise than it should.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import io
import json
import logging
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pipeline import paths
from pipeline.__main__ import app
from pipeline.provenance import Stage, makers, stages
from tests.conftest import ROOT, TINY, override
from tests.hostile_bundles import hostile_bundles, measured
from tests.hostile_weights import weight_files
from tests.test_hostile_weights import LOADERS
from uar.core.errors import UserError
from uar.core.files import sha256

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
# So that a case takes seconds: figures are coarse, and METEOR's Java does not start.
CHEAP = {"evaluate.meteor": False, "evaluate.resamples": 100}
DPI = 20
NOT_READ = "the stage has no part in it"  # no case

Case = tuple[str, Callable[[], str]]  # what is done, and doing it: how it ended


@dataclass(frozen=True)
class Ending:
    """How a forked run ended."""

    code: int  # 0 whole, 1 refused by a sentence, 2 a traceback, -9 killed
    said: str
    operations: int  # on files, that change them


@dataclass(frozen=True)
class Running:
    """A forked run that has not been waited for."""

    pid: int
    reading: int

    def wait(self) -> Ending:
        """Its end."""
        with os.fdopen(self.reading, encoding="utf-8") as pipe:
            text = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        told = json.loads(text.splitlines()[-1]) if text.endswith("\n") else ["", 0]
        return Ending(os.waitstatus_to_exitcode(status), *told)


def run_forked(folder: Path, stage: str, **options: Any) -> Ending:
    """Run a stage in a copy of this process: `start`'s options."""
    return start(folder, stage, **options).wait()


def start(
    folder: Path,
    stage: str,
    at: int | None = None,
    signal_there: signal.Signals = signal.SIGKILL,
    limit: int | None = None,
    killed_by_limit: bool = False,
    moments: Path | None = None,
    barred: bool = False,
) -> Running:
    """Start a stage, or a command with its arguments, in a copy of this process.

    Args:
        barred: whether files that their owner may not read or write are so for root, too.
        at: the operation on a file, counted from 0, before which the run gets `signal_there`.
        limit: largest file in bytes that the process may write.
        killed_by_limit: a write beyond it kills, in its middle; else it fails as on a full disk.
        moments: folder for copies of the disk before each operation: what a kill there leaves.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return Running(child, reading)
    code = 2
    said = io.StringIO()
    count = 0
    try:
        os.close(reading)
        os.chdir(folder)
        here = str(folder.resolve())
        # Processes that a stage starts need not import this module.
        main_module = sys.modules["__main__"]
        main_module.__spec__ = main_module.__file__ = None

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event == "open":
                if not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                    return
            elif event not in WRITES:
                return
            place = arguments[0]
            if isinstance(place, str | os.PathLike) and os.path.abspath(place).startswith(here):
                if count == at:
                    os.kill(os.getpid(), signal_there)
                if moments is not None:
                    subprocess.run(["cp", "-a", here, moments / f"{count:04}"], check=True)
                count += 1

        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            sys.addaudithook(watch)
            if limit is not None:
                handler = signal.SIG_DFL if killed_by_limit else signal.SIG_IGN
                signal.signal(signal.SIGXFSZ, handler)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            if barred and os.getuid() == 0:
                give_up_privileges()
            app(stage.split(), standalone_mode=False)
        code = 0
    except UserError as error:
        code = 1
        said.write(str(error))
    except BaseException:
        said.write(traceback.format_exc())
    finally:
        with contextlib.suppress(BaseException):
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        os.write(writing, (json.dumps([said.getvalue()[-3000:], count]) + "\n").encode())
        os._exit(code)


def contents(folder: Path, names: list[Path]) -> dict[str, bytes]:
    """Every file under `names` and its bytes."""
    files = [f for name in names for f in ([folder / name] if (folder / name).is_file()
             else (folder / name).rglob("*")) if f.is_file()]  # fmt: skip
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def outputs_of(stage: Stage) -> list[Path]:
    """Files and folders that a run of the stage leaves."""
    return [*stage.outs, stage.record]


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


# ---- kills


def kills(whole: Path, names: list[str], most: int) -> Iterator[Case]:
    """Kill each stage before its operations on files and in writes, run it again, compare all.

    Every second time its outputs are removed in between, as DVC does.

    Args:
        most: kills a stage, spread over its operations.
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
        return _same_after(folder, stage, expected)
    finally:
        shutil.rmtree(folder)


def moments(whole: Path, names: list[str]) -> Iterator[Case]:
    """Run each stage from what a kill before each of its operations on files would leave.

    The disk is copied at every one while the stage runs once. Every second time its outputs are
    removed, as DVC does. The same bytes under the same names are run from once.
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
        seen[state] = _same_after(folder, stage, expected)
    return seen[state]


def _same_after(folder: Path, stage: Stage, expected: dict[str, bytes]) -> str:
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
    return f"leaves {left}" if left else "identical"


def state_of(folder: Path) -> str:
    """Hash of what lies in a folder; the process id in a lock does not count."""
    digest = hashlib.blake2b()
    for path in sorted(folder.rglob("*")):
        linked = path.is_file() and path.stat().st_nlink
        digest.update(f"{path.relative_to(folder)}\0{linked}\0".encode())
        if path.is_file() and path.suffix != ".lock":
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def copy_of(folder: Path) -> Path:
    """A copy beside it."""
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


# ---- damaged and mixed files


def damages(path: Path) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Ways to damage any file, by name."""

    def flipped(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) * 2 // 3] ^= 1
        path.write_bytes(content)

    yield "empty", lambda path: path.write_bytes(b"")
    yield (
        "cut to half",
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    )
    yield "last bytes gone", lambda path: path.write_bytes(path.read_bytes()[:-2])
    yield "a bit flipped", flipped
    yield (
        "random bytes",
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size)),
    )
    yield "of a pickle", lambda path: path.write_bytes(pickle.dumps({"a": [1, 2]}))


def mixed(other: Path) -> dict[str, Callable[[], None]]:
    """Ways to bring together what does not belong together; the folder is the current one."""

    def taken(*names: Path) -> Callable[[], None]:
        def take() -> None:
            for name in names:
                shutil.copy(other / name, name)

        return take

    def array(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], None]:
        return lambda: np.save(path, change(np.load(path)))

    def table(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[], None]:
        return lambda: change(pd.read_parquet(path)).to_parquet(path, index=False)

    def words(change: Callable[[list[str]], list[str]]) -> Callable[[], None]:
        def make() -> None:
            raw = json.loads(paths.VOCABULARY.read_text())
            paths.VOCABULARY.write_text(json.dumps(raw | {"words": change(raw["words"])}))

        return make

    def knob(key: str, value: Any) -> Callable[[], None]:
        def turn() -> None:
            raw = yaml.safe_load(paths.PARAMS.read_text())
            override(raw, key, value)
            paths.PARAMS.write_text(yaml.safe_dump(raw))

        return turn

    def nan_checkpoint(path: Path, drop: str | None = None) -> Callable[[], None]:
        def make() -> None:
            from uar.model.checkpoint import Checkpoint

            checkpoint = Checkpoint.load(path)
            name = next(n for n in checkpoint.weights if (drop or "") in n)
            if drop:
                del checkpoint.weights[name]
            else:
                checkpoint.weights[name].fill_(float("nan"))
            checkpoint.save(path)

        return make

    generator = np.random.default_rng(0)
    cases = {
        "another run's vocabulary": taken(paths.VOCABULARY),
        "another run's vocabulary with its record": taken(
            paths.VOCABULARY, Path("provenance/vocabulary.json")
        ),
        "a shorter vocabulary": words(lambda w: w[:-3]),
        "a longer vocabulary": words(lambda w: [*w, "zebra"]),
        "a shuffled vocabulary": words(lambda w: w[::-1]),
        "another run's tokens": taken(paths.TOKENS),
        "another run's tokens and JSON": taken(paths.TOKENS, paths.TOKENS_INFO),
        "another run's tokens, JSON and record": taken(
            paths.TOKENS, paths.TOKENS_INFO, Path("provenance/tokenize.json")
        ),
        "shuffled tokens": array(paths.TOKENS, lambda a: generator.permutation(a)),
        "tokens of fewer studies": array(paths.TOKENS, lambda a: a[:-2]),
        "tokens of another type": array(paths.TOKENS, lambda a: a.astype(np.int32)),
        "another run's reports": taken(paths.REPORTS),
        "reports short of a row": table(paths.REPORTS, lambda t: t[1:]),
        "reports in another order": table(paths.REPORTS, lambda t: t[::-1]),
        "studies short of a row": table(paths.STUDIES, lambda t: t[:-1]),
        "studies in another order": table(paths.STUDIES, lambda t: t[::-1]),
        "another run's studies": taken(paths.STUDIES),
        "another run's images": taken(paths.IMAGES),
        "images of another size": array(paths.IMAGES, lambda a: a[:, :16, :16]),
        "images not square": array(paths.IMAGES, lambda a: a[:, :16]),
        "images in float32": array(paths.IMAGES, lambda a: a.astype(np.float32)),
        "shuffled images": array(paths.IMAGES, lambda a: generator.permutation(a)),
        "another run's encoder": taken(paths.DVAE_ENCODER),
        "another run's decoder": taken(paths.DVAE_DECODER),
        "another run's stage one": taken(paths.STAGE_ONE),
        "another run's stage two": taken(paths.STAGE_TWO),
        "another run's stage two and record": taken(
            paths.STAGE_TWO, Path("provenance/train_stage_two.json")
        ),
        "stage one in place of two": lambda: shutil.copy(paths.STAGE_ONE, paths.STAGE_TWO),
        "NaN in stage one": nan_checkpoint(paths.STAGE_ONE),
        "NaN in stage two": nan_checkpoint(paths.STAGE_TWO),
        "stage two without a refiner": nan_checkpoint(paths.STAGE_TWO, ".refiner."),
        "another crop": knob("image.crop", 16),
        "one image a study": knob("dataset.images_per_study", 1),
        "another seed of the crops": knob("seed", 1),
        "another report length": knob("report.max_length", 12),
        "another way with missing views": knob("dataset.missing_view", "mask"),
        "no tokens": lambda: paths.TOKENS.unlink(),
        "no record of the tokens": lambda: Path("provenance/tokenize.json").unlink(),
        "other boxes": taken(paths.BOXES),
    }
    return cases  # type: ignore[return-value]


def read_by(name: str) -> set[Path]:
    """What a stage reads or compares: its inputs, params.yaml, the records of all before it."""
    inputs = stages()[name].inputs
    earlier = {makers()[str(path)] for path in inputs}
    return {paths.PARAMS, *inputs, *(stages()[stage].record for stage in earlier)}.union(
        *(read_by(stage) - set(stages()[stage].inputs) for stage in earlier)
    )


def readers(path: Path) -> list[str]:
    """Stages that read a file."""
    return [name for name, stage in stages().items() if path in stage.inputs]


def refused(whole: Path, most: int | None) -> Iterator[Case]:
    """Damage or mix files before a stage that reads them: a sentence must refuse each.

    Args:
        most: cases; None for all.
    """
    other = another(whole)
    cases: list[tuple[str, str, Callable[[], None]]] = []
    files = sorted({path for stage in stages().values() for path in stage.inputs})
    for path in files:
        for what, damage in damages(path):
            for stage in readers(path)[-2:]:
                cases.append((f"{path} {what}", stage, partial(_damage, path, damage)))
    for name in ("ingest", "preprocess", "vocabulary", "tokenize", "train_stage_two"):
        record = stages()[name].record
        for what, damage in damages(record):
            cases.append((f"{record} {what}", "evaluate", partial(damage, record)))
    for what, mix in mixed(other).items():
        cases += [(what, stage, mix) for stage in ("train_stage_two", "evaluate", "analyze")]
    if most is not None:
        cases = cases[:: max(1, len(cases) // most)]
    for what, stage, change in cases:
        yield f"{what}, {stage}", partial(_refused, whole, stage, change)


def _damage(path: Path, damage: Callable[[Path], None]) -> None:
    """Damage a file, or a folder's first."""
    damage(min(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else path)


def _refused(whole: Path, stage: str, change: Callable[[], None]) -> str:
    folder = copy_of(whole)
    try:
        with contextlib.chdir(folder):
            before = all_bytes(folder)
            change()
            after = all_bytes(folder)
            changed = {Path(p) for p in {*before, *after} if before.get(p) != after.get(p)}
        if not changed & read_by(stage):
            return NOT_READ
        ending = run_forked(folder, stage)
        ended = {0: "accepted", 1: "refused", 2: "traceback"}.get(ending.code, str(ending.code))
        return ended if ended == "refused" else f"{ended}: {ending.said}"
    finally:
        shutil.rmtree(folder)


def all_bytes(folder: Path) -> dict[str, bytes]:
    """Every file that a stage may read."""
    names = [Path(n) for n in ("params.yaml", "data", "models", "provenance", "dvclive")]
    return {n: b for n, b in contents(folder, names).items() if not n.startswith("data/raw")}


# ---- hostile loads


class Bomb:
    """Pickled, it writes a file when it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def hostile(whole: Path, most: int | None) -> Iterator[Case]:
    """Give pickles that run a command wherever a file is loaded: none may run."""
    import torch

    from uar.core.files import open_array, read_json, read_table
    from uar.core.weights import read_weights
    from uar.model.checkpoint import Checkpoint
    from uar.tokens.loading import load_tokenizer

    folder = copy_of(whole)
    trace = folder / "it-ran"
    bomb = Bomb(f"touch {trace}")

    def zipped(content: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    def in_array() -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, np.array([bomb], dtype=object), allow_pickle=True)
        return buffer.getvalue()

    payloads = {
        **{name: content for name, (content, _) in weight_files(folder).items()},
        **{f"pickle protocol {n}": pickle.dumps(bomb, protocol=n) for n in range(6)},
        "pickle in a dict": pickle.dumps({"weights": bomb}),
        "pickle in a list": pickle.dumps([0, [bomb]]),
        "torch.save": zipped(bomb),
        "torch.save in a dict": zipped({"identity": {}, "weights": {"x": bomb}}),
        "object array": in_array(),
        "YAML tag": f"!!python/object/apply:os.system ['touch {trace}']".encode(),
        "shell in text": f"$(touch {trace})`touch {trace}`;touch {trace}".encode(),
    }
    loaders: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "checkpoint": ("x.safetensors", Checkpoint.load),
        "checkpoint named .pt": ("x.pt", Checkpoint.load),
        "resume file": ("x.safetensors", lambda p: read_weights(p, "resume file")),
        "array": ("x.npy", open_array),
        "table": ("x.parquet", read_table),
        "JSON": ("x.json", read_json),
        **LOADERS,
        "dVAE": ("x.safetensors", lambda p: load_tokenizer(p)),
        "dVAE's pickle": ("x.pkl", lambda p: load_tokenizer(p)),
    }
    cases = [(w, p, n, load) for w, p in payloads.items() for n, load in loaders.items()]
    victim = folder / "victim"  # of the TorchScript archives
    before = victim.read_bytes()

    def attack(payload: bytes, file: str, load: Callable[[Path], Any]) -> str:
        path = folder / file
        path.write_bytes(payload)
        try:
            load(path)
            ended = "accepted"
        except UserError as error:
            told = "weights_only=False" in str(error) or "allow_pickle=True" in str(error)
            ended = "advises to switch safety off" if told else "refused"
        except Exception:
            ended = "traceback: " + traceback.format_exc()[-600:]
        if trace.exists() or victim.read_bytes() != before or list(folder.glob("*.patch")):
            ended = "the code ran"
            trace.unlink(missing_ok=True)
            victim.write_bytes(before)
        path.unlink()
        return ended

    for what, payload, name, (file, load) in cases[: None if most is None else most]:
        yield f"{what} as {name}", partial(attack, payload, file, load)
    shutil.rmtree(folder)


# ---- bundles from others


def bundles(step: int) -> Iterator[Case]:
    """Open bundles whose makers mean harm: refused by name, in little memory."""
    for name, make in list(hostile_bundles())[::step]:
        yield name, partial(_opened, make)


def _opened(make: Callable[[], bytes]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "their.uar"
        path.write_bytes(make())
        ended, _, memory = measured(path)
    return f"takes {memory:,} bytes" if memory > MOST_MEMORY else ended


MOST_MEMORY = 1_000_000_000  # bytes


# ---- what the system refuses


def system(whole: Path, names: list[str]) -> Iterator[Case]:
    """Inputs that may not be read, folders that may not be written, paths that are something else.

    Root, who may all, gives up its privileges first.
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
    return f"asks for room: {ending.said}" if asks else "refused"


def give_up_privileges() -> None:
    """Let modes of files hold for root as for anybody: Linux's capabilities, all of them, go."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()):
        raise SystemExit("root cannot give up its privileges here")


# ---- DVC ends, its stage must too


def orphans(whole: Path, seconds: tuple[float, ...]) -> Iterator[Case]:
    """Stop a `dvc repro` alone, start another at once, compare dvc.lock with what lies there."""
    for after in seconds:
        yield f"train_stage_one, {after:g} s after its start", partial(_orphan, whole, after)


def _orphan(whole: Path, after: float) -> str:
    folder = copy_of(whole)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
    environment.pop("DVC_STAGE", None)

    def dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["dvc", *arguments], cwd=folder, env=environment, capture_output=True, text=True
        )

    try:
        shutil.copy(ROOT / paths.DVC, folder)
        for name in ("uar", "pipeline"):
            (folder / name).symlink_to(ROOT / name)
        dvc("init", "--no-scm")
        first = dvc("commit", "-f")
        if first.returncode:
            return f"dvc commit: {first.stderr[-500:]}"
        command = ["dvc", "repro", "-f", "-s", "train_stage_one"]
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as stopped:  # fmt: skip
            lock = folder / paths.SCRATCH / "train_stage_one.lock"
            while not (lock.is_file() and lock.read_text()) and stopped.poll() is None:
                time.sleep(0.05)
            time.sleep(after)
            stopped.terminate()
        begun = time.monotonic()
        while True:  # a lock that is still held for a moment is refused by a sentence
            second = dvc("repro", "-s", "train_stage_one")
            if "is running in this folder already" not in second.stdout + second.stderr:
                break
            if time.monotonic() - begun > 60:
                return "its stage lives on"
        if second.returncode:
            return f"does not go on: {second.stderr[-500:]}"
        time.sleep(2)
        status = dvc("status", "train_stage_one")
        if "up to date" not in status.stdout:
            return f"dvc.lock is of other bytes: {status.stdout[-500:]}"
        expected = contents(whole, [paths.STAGE_ONE])
        return "identical" if contents(folder, [paths.STAGE_ONE]) == expected else "other bytes"
    finally:
        shutil.rmtree(folder)


# ---- full disks


def full(whole: Path, names: list[str], limits: list[int]) -> Iterator[Case]:
    """Run each stage where no file may grow beyond a limit: a sentence, and then it goes on."""
    for name in names:
        for limit in limits:
            yield f"{name}, files up to {limit} bytes", partial(_full, whole, name, limit)


def _full(whole: Path, name: str, limit: int) -> str:
    stage = stages()[name]
    expected = contents(whole, outputs_of(stage))
    folder = without(whole, stage)
    try:
        ending = run_forked(folder, name, limit=limit)
        again = _same_after(folder, stage, expected)
        if again != "identical":
            return f"does not recover: {again}"
        if ending.code == 1 and "bytes are free" not in ending.said:
            return f"refused for another reason: {ending.said}"
        return {0: NOT_READ, 1: "refused"}.get(ending.code, f"{ending.code}: {ending.said}")
    finally:
        shutil.rmtree(folder)


# ---- the table

GOOD = ("identical", "refused")


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="every case")
    parser.add_argument("--only", nargs="*", help="kinds, as the table has them")
    parser.add_argument("--stages", nargs="*", help="those that are killed and get a full disk")
    parser.add_argument("--log", type=Path, help="where endings are kept; those there are not run")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    preload()
    log = Log(arguments.log)
    names = arguments.stages or list(stages())
    long = arguments.long
    short = arguments.stages or ["preprocess", "vocabulary", "tokenize", "train_stage_one"]
    with whole_project(log.project) as whole:
        kinds: dict[str, Iterator[Case]] = {
            "kills": kills(whole, names if long else short, 20 if long else 2),
            "refused": refused(whole, None if long else 20),
            "hostile": hostile(whole, None),
            "bundles": bundles(1 if long else 12),
            "system": system(whole, names if long else ["tokenize"]),
            "orphans": orphans(whole, (0.0, 1.0, 3.0, 6.0) if long else (1.0,)),
            "full": full(whole, names if long else short[:3], [0, 2_000, 50_000] if long else [0]),
        }
        if long:
            kinds["moments"] = moments(whole, names)
        for kind, cases in kinds.items():
            if arguments.only and kind not in arguments.only:
                continue
            for case, run in cases:
                if (kind, case) not in log.endings:
                    begun = time.monotonic()
                    log.add(kind, case, run(), time.monotonic() - begun)
    print(log.table())
    sys.exit(bool(log.failed()))


class Log:
    """How cases ended, kept in a file a line each; those of other code do not count."""

    def __init__(self, path: Path | None) -> None:
        """Read what an interrupted run has left at `path`."""
        code = [ROOT / "params.yaml", ROOT / "dvc.yaml"]
        code += sorted(path for name in ("uar", "pipeline") for path in (ROOT / name).rglob("*.py"))
        self.identity = hashlib.sha256("".join(map(sha256, code)).encode()).hexdigest()[:12]
        self.path = path
        self.project = path and path.with_name(f"{path.name}-{self.identity}")
        self.endings: dict[tuple[str, str], tuple[str, float]] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                identity, kind, case, ended, seconds = json.loads(line)
                if identity == self.identity:
                    self.endings[kind, case] = (ended, seconds)

    def add(self, kind: str, case: str, ended: str, seconds: float) -> None:
        """Keep a case's end; what is wrong is said at once."""
        self.endings[kind, case] = (ended, seconds)
        if ended not in (*GOOD, NOT_READ):
            print(f"{kind}: {case}: {ended}", file=sys.stderr, flush=True)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(
                    json.dumps([self.identity, kind, case, ended, round(seconds, 2)]) + "\n"
                )

    def failed(self) -> list[tuple[str, str]]:
        """Cases that ended otherwise than they should."""
        return [case for case, (end, _) in self.endings.items() if end not in (*GOOD, NOT_READ)]

    def table(self) -> str:
        """A row a kind."""
        lines = ["| kind | cases | identical | refused by a sentence | otherwise | s |"]
        lines += ["|---|---|---|---|---|---|"]
        for kind in dict.fromkeys(kind for kind, _ in self.endings):
            ends = [
                (e, s) for (k, _), (e, s) in self.endings.items() if k == kind and e != NOT_READ
            ]
            counts = Counter(e if e in GOOD else "otherwise" for e, _ in ends)
            columns = [len(ends), *(counts[name] for name in (*GOOD, "otherwise"))]
            columns.append(round(sum(seconds for _, seconds in ends)))
            lines.append(f"| {kind} | {' | '.join(map(str, columns))} |")
        total = sum(seconds for _, seconds in self.endings.values())
        return "\n".join([*lines, "", f"{total / 60:.0f} minutes in all"])


def preload() -> None:
    """Import what the stages import, so that forks need not."""
    from importlib import import_module

    for name in stages():
        import_module(f"pipeline.stages.{name}")
    vars(import_module("uar.analysis.saving"))["_DPI"] = DPI
    logging.disable(logging.NOTSET)


def another(whole: Path) -> Path:
    """A project of another seed and other films up to its checkpoints."""
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


if __name__ == "__main__":
    main()
