"""Preparing the next items while the current one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def prefetch(items: Iterable[T], device: torch.device, depth: int = 2) -> Iterator[T]:
    """Yield the items in order, up to `depth` of them prepared ahead by one thread.

    An error in preparing an item is raised when that item is due.

    Args:
        device: uses the items. For a CPU, nothing is prepared ahead: the thread would compete for
            its cores and cost tokenization a sixth of its speed.
    """
    if device.type == "cpu":
        yield from items
        return
    iterator = iter(items)
    end: Any = object()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as pool:
        waiting = deque(pool.submit(next, iterator, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, iterator, end))
            yield item
