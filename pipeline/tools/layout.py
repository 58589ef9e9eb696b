"""A drawing of which room imports which; `[tool.importlinter]` in pyproject.toml says which may."""

from __future__ import annotations

import logging
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Annotated

import typer

log = logging.getLogger(__name__)

Arrow = tuple[str, str]  # importing room, imported room


def layout(
    out: Annotated[Path, typer.Argument(help="The picture, .svg or .png.")] = Path(
        "docs/images/layout.svg"
    ),
) -> None:
    """Draw which room of the package imports which."""
    arrows = read_arrows()
    draw(arrows, out)
    log.info(
        f"{len({room for arrow in arrows for room in arrow})} rooms, {len(arrows)} arrows: {out}"
    )


def read_arrows() -> Counter[Arrow]:
    """Count imports of a module by one in another room; a room is `uar.data`, for example."""
    from grimp import build_graph  # comes with import-linter, which enforces the arrows

    graph = build_graph("uar", "pipeline", cache_dir=None)
    arrows: Counter[Arrow] = Counter()
    for module in sorted(graph.modules):
        for imported in graph.find_modules_directly_imported_by(module):
            source, target = (".".join(name.split(".")[:2]) for name in (module, imported))
            if source != target and "uar" not in (source, target):  # version and entry point
                arrows[source, target] += 1
    return arrows


def draw(arrows: Counter[Arrow], out: Path) -> None:
    """Draw rooms by height, the lowest at the bottom; an arrow's width shows how many imports."""
    from matplotlib.figure import Figure

    rows: dict[int, list[str]] = {}
    for room, level in _levels(arrows).items():
        rows.setdefault(level, []).append(room)
    place = {
        room: ((i + 0.5) / len(row), level)
        for level, row in rows.items()
        for i, room in enumerate(row)
    }
    figure = Figure(figsize=(9, 1.0 * len(rows) + 0.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    for (source, target), count in sorted(arrows.items()):
        axes.annotate(
            "",
            xy=place[target],
            xytext=place[source],
            arrowprops={
                "arrowstyle": "-|>",
                "color": "#2a6f97" if source.startswith("uar") else "#9aa5b1",
                "linewidth": 0.5 + 0.5 * count**0.5,
                "alpha": 0.6,
                "shrinkA": 16,
                "shrinkB": 16,
                "connectionstyle": "arc3,rad=0.12",
            },
        )
    for room, (x, y) in place.items():
        axes.text(
            x, y, room.removeprefix("pipeline.__main__") or "python -m pipeline",
            ha="center", va="center", fontsize=10,
            bbox={
                "boxstyle": "round,pad=0.45",
                "facecolor": "#e3f0f7" if room.startswith("uar") else "#f1f3f5",
                "edgecolor": "#495057",
            },
        )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


def _levels(arrows: Counter[Arrow]) -> dict[str, int]:
    """The height of each room: one above the highest room that it imports."""
    below: dict[str, list[str]] = {}
    for source, target in sorted(arrows):
        below.setdefault(source, []).append(target)
    levels: dict[str, int] = {}
    for room in TopologicalSorter(below).static_order():
        levels[room] = 1 + max((levels[target] for target in below.get(room, ())), default=-1)
    return levels
