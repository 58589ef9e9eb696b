"""Progress bars that are a line a minute where nobody watches a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

log = logging.getLogger(__name__)

_STEPS_A_LINE = 50
_SECONDS_BETWEEN_LINES = 60.0


def progress_bar(title: str, total: int, unit: str = "batch", *, shown: bool = True) -> tqdm[Any]:
    """A bar to be moved by hand (`update`), to be closed (`with`).

    Args:
        title: names the work.
        total: how many units it has.
        unit: what they are.
        shown: false on all ranks but the first.
    """
    watched = sys.stderr.isatty()
    return tqdm(
        desc=title,
        total=total,
        unit=unit,
        disable=not shown,
        mininterval=0.1 if watched else _SECONDS_BETWEEN_LINES,
        maxinterval=10.0 if watched else _SECONDS_BETWEEN_LINES,
    )


def progress(
    items: Iterable[T], title: str, total: int, unit: str = "batch", *, shown: bool = True
) -> Iterator[T]:
    """The same items, with a bar."""
    with progress_bar(title, total, unit, shown=shown) as bar:
        for item in items:
            yield item
            bar.update()


def log_steps(steps: Iterable[Mapping[str, Any]]) -> None:
    """Take a training's steps, and log the values of every 50th; only these are waited for."""
    for number, values in enumerate(steps, 1):
        if number % _STEPS_A_LINE == 0:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            log.info("step %d: %s", number, shown)
