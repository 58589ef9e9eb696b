"""Progress bars that are a line a minute where nobody watches a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

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
