"""Progress bars (one line a minute outside a terminal) and forecasts of how long work takes."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

log = logging.getLogger(__name__)

_STEPS_A_LINE = 50
_SECONDS_BETWEEN_LINES = 60.0
_MEASURED = 10.0  # seconds of work from which the rest is estimated
_LONG = 60.0  # seconds left that are worth a line


class Forecast:
    """Logs once how long a task will take, estimated from its first seconds.

    Args:
        what: names the task.
        total: number of units of work.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self.done = 0
        self.began = time.monotonic()
        self.logged = False

    def advance(self, units: int = 1) -> None:
        """Count more units as done."""
        self.done += units
        spent = time.monotonic() - self.began
        if self.logged or spent < _MEASURED:
            return
        self.logged = True
        seconds = spent / self.done * self.total
        if seconds - spent >= _LONG:
            log.info(f"{self.what}: about {in_words(seconds)} on this machine")


def in_words(seconds: float) -> str:
    """A duration in words: `40 seconds`, `12 minutes`, `3.5 hours`."""
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


class _Bar(tqdm):  # type: ignore[type-arg]  # not generic at run time
    """A bar that also advances a forecast."""

    forecast: Forecast | None = None

    def update(self, n: float | None = 1) -> bool | None:
        if self.forecast is not None and not self.disable:
            self.forecast.advance(int(n or 0))
        return super().update(n)


def progress_bar(
    title: str,
    total: int,
    unit: str = "batch",
    *,
    shown: bool = True,
    forecast: Forecast | None = None,
) -> tqdm[Any]:
    """Make a bar that the caller advances (`update`) and closes (`with`).

    After ten seconds the log says how long it will take, if more than a minute is left.

    Args:
        title: names the work.
        total: how many units it has.
        unit: what they are.
        shown: true on the first rank only.
        forecast: for a longer task that this one is part of; by default, for this one.
    """
    watched = sys.stderr.isatty()
    bar = _Bar(
        desc=title,
        total=total,
        unit=unit,
        disable=not shown,
        mininterval=0.1 if watched else _SECONDS_BETWEEN_LINES,
        maxinterval=10.0 if watched else _SECONDS_BETWEEN_LINES,
    )
    bar.forecast = forecast or Forecast(title, total)
    return bar


def progress(items: Iterable[T], title: str, total: int, unit: str = "batch") -> Iterator[T]:
    """Yield the items, advancing a bar."""
    with progress_bar(title, total, unit=unit) as bar:
        for item in items:
            yield item
            bar.update()


def log_steps(steps: Iterable[Mapping[str, Any]]) -> None:
    """Run a training to its end, logging every 50th step's values and waiting only for those."""
    for number, values in enumerate(steps, 1):
        if number % _STEPS_A_LINE == 0:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            log.info("step %d: %s", number, shown)
