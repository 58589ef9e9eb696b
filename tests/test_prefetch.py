"""Items made ahead: order, how far, and what making one raises."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from uar.core.prefetch import prefetch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_items_come_in_order_and_all(device: torch.device) -> None:
    assert list(prefetch(iter(range(50)), device)) == list(range(50))
    assert list(prefetch([], device)) == []
    assert list(prefetch([None, 0, False], device)) == [None, 0, False]


def test_for_a_cpu_nothing_is_made_ahead_and_by_no_other_thread() -> None:
    made: list[int] = []

    def items() -> Iterator[threading.Thread]:
        for number in range(3):
            made.append(number)
            yield threading.current_thread()

    coming = prefetch(items(), CPU)
    assert next(coming) is threading.current_thread()
    assert made == [0]


@pytest.mark.parametrize("depth", [1, 3])
def test_at_most_depth_items_are_made_ahead_by_another_thread(depth: int) -> None:
    made: list[int] = []
    last = threading.Event()

    def items() -> Iterator[threading.Thread]:
        for number in range(10):
            made.append(number)
            if number == depth:
                last.set()
            yield threading.current_thread()

    coming = prefetch(items(), GPU, depth)
    assert not made  # nothing before the first is asked for
    assert next(coming) is not threading.current_thread()
    assert last.wait(timeout=10)  # as soon as one is taken, the next is made
    assert len(made) == depth + 1
    coming.close()  # type: ignore[attr-defined]


def test_an_error_comes_where_the_item_would_have() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("third")

    coming = prefetch(items(), GPU, 4)
    assert [next(coming), next(coming)] == [1, 2]
    with pytest.raises(KeyError, match="third"):
        next(coming)
