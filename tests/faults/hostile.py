"""Files that would run code, tried wherever a file is loaded."""

from __future__ import annotations

import io
import pickle
import shutil
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.forked import REFUSED, Case
from tests.faults.project import copy_of
from tests.hostile_weights import Bomb, weight_files
from tests.test_chexbert import write_chexbert
from tests.test_hostile_weights import CPU, LOADERS
from tests.test_radgraph import write_radgraph
from uar.core.errors import UserError
from uar.core.files import open_array, read_json, read_table
from uar.evaluation.clinical.chexbert import WEIGHTS, Chexbert
from uar.evaluation.clinical.radgraph import INSTALLED, RadGraph


def hostile(whole: Path) -> Iterator[Case]:
    """Load files that would run a command or overwrite a file, by every loader: none may do so."""
    folder = copy_of(whole)
    trace = folder / "it-ran"
    bomb = Bomb(trace)
    array = io.BytesIO()
    np.save(array, np.array([bomb], dtype=object), allow_pickle=True)
    payloads = {
        **{name: content for name, (content, _) in weight_files(folder).items()},
        **{f"pickle protocol {n}": pickle.dumps(bomb, protocol=n) for n in range(6)},
        "pickle in a dict": pickle.dumps({"weights": bomb}),
        "pickle in a list": pickle.dumps([0, [bomb]]),
        "object array": array.getvalue(),
        "YAML tag": f"!!python/object/apply:os.system ['touch {trace}']".encode(),
        "shell in text": f"$(touch {trace})`touch {trace}`;touch {trace}".encode(),
    }
    loaders: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "array": ("x.npy", open_array),
        "table": ("x.parquet", read_table),
        "JSON": ("x.json", read_json),
        **LOADERS,
        **of_labellers(folder),
    }
    cases = [(w, p, n, load) for w, p in payloads.items() for n, load in loaders.items()]
    victim = folder / "victim"  # that the TorchScript archives target
    before = victim.read_bytes()

    def attack(payload: bytes, file: str, load: Callable[[Path], Any]) -> str:
        path = folder / file
        path.write_bytes(payload)
        try:
            load(path)
            ended = "accepted"
        except UserError as error:
            told = "weights_only=False" in str(error) or "allow_pickle=True" in str(error)
            ended = "advises to switch safety off" if told else REFUSED
        except Exception:
            ended = "traceback: " + traceback.format_exc()[-600:]
        if trace.exists() or victim.read_bytes() != before or list(folder.glob("*.patch")):
            ended = "the code ran"
            trace.unlink(missing_ok=True)
            victim.write_bytes(before)
        path.unlink()
        return ended

    for what, payload, name, (file, load) in cases:
        yield f"{what} as {name}", partial(attack, payload, file, load)
    shutil.rmtree(folder)


def of_labellers(folder: Path) -> dict[str, tuple[str, Callable[[Path], Any]]]:
    """Loaders of networks that label reports: a file in the network's folder, and its loader."""
    write_chexbert(folder / "chexbert")
    loaders = {"chexbert": (f"chexbert/{WEIGHTS}", lambda p: Chexbert(p.parent, CPU))}
    if INSTALLED:
        write_radgraph(folder / "radgraph")
        loaders["radgraph"] = ("radgraph/weights.th", lambda p: RadGraph(p.parent, CPU))
    return loaders
