"""Files that are damaged or mixed from two runs, before a stage that reads them."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pipeline import paths
from pipeline.provenance import stages
from tests.conftest import override
from tests.faults.forked import NOT_READ, REFUSED, Case, run_forked
from tests.faults.project import another, contents, copy_of, read_by


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
    """Ways to mix files that do not belong together, in the current folder, by name."""

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
        "another run's stage three": taken(paths.STAGE_THREE),
        "another run's stage two and record": taken(
            paths.STAGE_TWO, Path("provenance/train_stage_two.json")
        ),
        "stage one in place of two": lambda: shutil.copy(paths.STAGE_ONE, paths.STAGE_TWO),
        "NaN in stage one": nan_checkpoint(paths.STAGE_ONE),
        "NaN in stage two": nan_checkpoint(paths.STAGE_TWO),
        "NaN in stage three": nan_checkpoint(paths.STAGE_THREE),
        "stage three without a refiner": nan_checkpoint(paths.STAGE_THREE, ".refiner."),
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


def readers(path: Path) -> list[str]:
    """Stages that read a file."""
    return [name for name, stage in stages().items() if path in stage.inputs]


def refused(whole: Path, most: int | None) -> Iterator[Case]:
    """Damage or mix files before a stage that reads them: each must be refused by a sentence.

    Args:
        most: about how many cases; None for all.
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
    """Damage a file, or the first file in a folder."""
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
        ended = {0: "accepted", 1: REFUSED, 2: "traceback"}.get(ending.code, str(ending.code))
        return ended if ended == REFUSED else f"{ended}: {ending.said}"
    finally:
        shutil.rmtree(folder)


def all_bytes(folder: Path) -> dict[str, bytes]:
    """The bytes of every file that a stage may read, by name."""
    names = [Path(n) for n in ("params.yaml", "data", "models", "provenance", "dvclive")]
    return {n: b for n, b in contents(folder, names).items() if not n.startswith("data/raw")}
