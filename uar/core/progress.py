"""Progress bars, which outside a terminal become one line a minute."""

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
    """A bar that the caller advances (`update`) and closes (`with`).

    Args:
        title: names the work.
        total: how many units it has.
        unit: what they are.
        shown: true on the first rank only.
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
    with progress_bar(title, total, unit=unit, shown=shown) as bar:
        for item in items:
            yield item
            bar.update()


def log_steps(steps: Iterable[Mapping[str, Any]]) -> None:
    """Run a training to its end and log the values of every 50th step, waiting for these only."""
    for number, values in enumerate(steps, 1):
        if number % _STEPS_A_LINE == 0:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            log.info("step %d: %s", number, shown)
