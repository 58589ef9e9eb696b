"""Bundles and films made to exhaust memory or time: they must be refused, and cheaply."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.costs import Cost
from tests.faults.forked import REFUSED, Case
from tests.faults.server import measure_end
from tests.hostile_bundles import cost_of_opening, hostile_bundles, sealed, whole_parts
from tests.hostile_films import FILMS, cost_of_decoding

MOST_MEMORY = 1_000_000_000  # bytes
# The bundles that the table lists one by one; the rest share one row.
NAMED = (
    "card.md, deflated", "manifest.json, deflated", "a part over another", "image_size 100000",
    "beam_size 2000", "length_penalty 1e+308", "guidance 0.5", "manifest: provenance 5",
    "model.encoder_layers 1000000000", "model.d_model 64000", "weights zero", "weights times 1e30",
    "weights NaN", "a header of millions of tensors", "a card that is no UTF-8",
)  # fmt: skip


def bundles(step: int) -> Iterator[Case]:
    """Open bundles: each must be refused by name, in little memory."""
    for name, make in list(hostile_bundles())[::step]:
        yield name, partial(_cheap, lambda make=make: opened(make()))


def films(step: int) -> Iterator[Case]:
    """Decode films as `serve`, `report` and Python do: refuse each by name, in little memory."""
    for name, make in list(FILMS.items())[::step]:
        yield name, partial(_cheap, lambda make=make: cost_of_decoding(make()))


def _cheap(do: Callable[[], Cost]) -> str:
    cost = do()
    if cost.memory > MOST_MEMORY:
        return f"takes {cost.memory:,} bytes"
    return REFUSED if cost.ended.partition(":")[0] == REFUSED else cost.ended


def opened(content: bytes) -> Cost:
    """What opening a bundle of these bytes costs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "their.uar"
        path.write_bytes(content)
        return cost_of_opening(path)


def measure() -> None:
    """Print what each bundle and film costs, and the end of `serve` during uploads."""
    print("| bundle | ended | s of CPU | MB |\n|---|---|---|---|")
    print(_row("a whole one", opened(sealed(whole_parts()))))
    rest: list[Cost] = []
    hostile = dict(hostile_bundles(3_000_000_000))
    assert set(NAMED) <= set(hostile)
    for name, make in hostile.items():
        if name in NAMED:
            print(_row(name, opened(make())), flush=True)
        elif "deflated" not in name:  # one of this kind takes long enough to make
            rest.append(opened(make()))
    ended = ", ".join(sorted({cost.ended for cost in rest}))
    most = Cost(ended, max(c.seconds for c in rest), max(c.memory for c in rest))
    print(_row(f"{len(rest)} others, the most of each", most))
    print(flush=True)
    subprocess.run([sys.executable, "-m", "tests.hostile_films"], check=True)
    print("\n| uploads at Ctrl-C | exit status | s to the last answer | s of CPU to the end |")
    print("|---|---|---|---|")
    for uploads in (0, 16):
        print(measure_end(uploads), flush=True)


def _row(name: str, cost: Cost) -> str:
    return f"| {name} | {cost.ended} | {cost.seconds:.2f} | {cost.memory / 1e6:.0f} |"
