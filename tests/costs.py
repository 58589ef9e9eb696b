"""CPU seconds and memory that some work takes in a process of its own."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from typing import NamedTuple


class Cost(NamedTuple):
    """How some work ended, and what it took."""

    ended: str
    seconds: float  # of CPU
    memory: int  # bytes, beyond what the process had before


def cost_of(work: Callable[[], str], who: int = resource.RUSAGE_SELF) -> Cost:
    """Do some work in a forked process and measure its cost.

    Args:
        work: returns how it ended.
        who: `RUSAGE_CHILDREN` where the work is done by processes that it starts and waits for.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        return Cost(*json.loads(said)) if said else Cost("killed", 0, 0)
    try:
        before = resource.getrusage(who)
        ended = work()
        after = resource.getrusage(who)
        seconds = sum(after[:2]) - sum(before[:2])
        memory = (after.ru_maxrss - before.ru_maxrss) * 1024
        os.write(writing, json.dumps([ended, seconds, memory]).encode())
    finally:
        os._exit(0)
