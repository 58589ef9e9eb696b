"""Which room imports which: the arrows of the layout, drawn, and those that run the wrong way."""

from __future__ import annotations

import ast
import logging
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from uar.core.errors import UserError

log = logging.getLogger(__name__)

# From the ground up; a room may import what stands before it.
ROOMS = (
    "uar.core",
    "uar.data",
    "uar.networks",
    "uar.tokens",
    "uar.model",
    "uar.evaluation",
    "uar.inference",
    "uar.training",
    "uar.analysis",
    "uar.bundle",
    "uar.viewer",
    "pipeline.paths",
    "pipeline.provenance",
    "pipeline.run",
    "pipeline.inputs",
    "pipeline.console",
    "pipeline.measures",
    "pipeline.training",
    "pipeline.page",
    "pipeline.stages",
    "pipeline.experiments",
    "pipeline.tools",
    "pipeline.__main__",
)
# Nor may these, whatever their height: evaluation knows predictions, never what made them.
FORBIDDEN = {
    ("uar.model", "uar.data"),
    ("uar.model", "uar.tokens"),
    ("uar.evaluation", "uar.data"),
    ("uar.evaluation", "uar.tokens"),
    ("uar.evaluation", "uar.model"),
    ("uar.inference", "uar.tokens"),
    ("uar.training", "uar.tokens"),
    ("uar.analysis", "uar.training"),
}

Arrow = tuple[str, str]  # importing room, imported room


def layout(
    out: Annotated[Path, typer.Argument(help="The picture, .svg or .png.")] = Path(
        "docs/images/layout.svg"
    ),
) -> None:
    """Draw which room of the package imports which."""
    arrows = read_arrows(Path())
    draw(arrows, out)
    log.info(
        f"{len({room for arrow in arrows for room in arrow})} rooms, {len(arrows)} arrows: {out}"
    )


def read_arrows(root: Path) -> Counter[Arrow]:
    """Import statements from one room to another, counted; those within a room do not count.

    Args:
        root: the project's folder.

    Raises:
        UserError: a module of no known room.
    """
    arrows: Counter[Arrow] = Counter()
    for folder in ("uar", "pipeline"):
        for path in sorted((root / folder).rglob("*.py")):
            importer = ".".join(path.relative_to(root).with_suffix("").parts)
            if importer in ("uar.__init__", "pipeline.__init__"):
                continue
            for imported in _imports(path, root):
                arrow = _room(importer, path), _room(imported, path)
                if arrow[0] != arrow[1]:
                    arrows[arrow] += 1
    return arrows


def upward(arrows: Counter[Arrow]) -> list[Arrow]:
    """Arrows that run up, or that `FORBIDDEN` names."""
    height = {room: i for i, room in enumerate(ROOMS)}
    return sorted(a for a in arrows if height[a[0]] < height[a[1]] or a in FORBIDDEN)


def _imports(path: Path, root: Path) -> list[str]:
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                exists = (root / f"{inner.replace('.', '/')}.py").is_file()
                modules.append(inner if exists else node.module)
    ours = (module for module in modules if module.startswith(("uar.", "pipeline.")))
    return sorted(set(ours))


def _room(module: str, path: Path) -> str:
    room = ".".join(module.split(".")[:2])
    if room not in ROOMS:
        raise UserError(f"{path}: {module} is in no room of the layout. Add {room} to ROOMS.")
    return room


def draw(arrows: Counter[Arrow], out: Path) -> None:
    """Rooms by height, the ground below; an arrow's width says how many imports it stands for."""
    from matplotlib.figure import Figure

    levels = _levels(arrows)
    rows: dict[int, list[str]] = {}
    for room in ROOMS:
        if room in levels:
            rows.setdefault(levels[room], []).append(room)
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
    """Height of each room: one above the highest that it imports."""
    levels: dict[str, int] = {}
    for room in ROOMS:
        below = [levels[target] for source, target in arrows if source == room and target in levels]
        if below or any(room == target for _, target in arrows):
            levels[room] = 1 + max(below, default=-1)
    return levels
