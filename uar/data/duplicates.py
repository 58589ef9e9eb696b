"""Films that occur in a data set more than once, found by their packed pixels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from uar.data.packing import Slot
from uar.data.study import SPLITS, Study


@dataclass(frozen=True)
class Duplicates:
    """Identical films, described in sentences that name both studies.

    Attributes:
        across_splits: films in studies of different splits.
        across_studies: films in different studies of one split.
        within_studies: films that occur twice in one study.
        leaking: positions of the studies that share a film with a later split, with the reason.
    """

    across_splits: list[str] = field(default_factory=list)
    across_studies: list[str] = field(default_factory=list)
    within_studies: list[str] = field(default_factory=list)
    leaking: dict[int, str] = field(default_factory=dict)


def find_duplicates(
    array: np.ndarray,
    slots: Sequence[Slot],
    studies: Sequence[Study],
    *,
    per_study: int,
    unreadable: set[int],
) -> Duplicates:
    """Compare all films by hashes of their packed pixels.

    Args:
        array: packed films `(N, size, size)` uint8; each is read once.
        slots: each film's place in it; a row that repeats a film for a missing view does not count.
        studies: in the order of the rows, `per_study` rows each.
        per_study: number of rows per study.
        unreadable: positions of the films that could not be decoded.
    """
    films: defaultdict[bytes, list[int]] = defaultdict(list)
    for i, slot in enumerate(slots):
        if i not in unreadable:
            films[hashlib.blake2b(array[slot.row].tobytes(), digest_size=16).digest()].append(i)
    found = Duplicates()
    for equal in films.values():
        by_split = sorted(
            equal, key=lambda i: SPLITS.index(studies[slots[i].row // per_study].split)
        )
        for one, other in pairwise(by_split):
            first, second = (slots[i].row // per_study for i in (one, other))
            a, b = studies[first], studies[second]
            said = (
                f"study {a.study_id} ({a.split}) and study {b.study_id} ({b.split}) share a film: "
                f"{slots[one].path}, {slots[other].path}"
            )
            if first == second:
                found.within_studies.append(
                    f"study {a.study_id} ({a.split}) has the same film twice: {slots[one].path}, "
                    f"{slots[other].path}"
                )
            elif a.split == b.split:
                found.across_studies.append(said)
            else:
                found.across_splits.append(said)
        last = studies[slots[by_split[-1]].row // per_study]
        for i in by_split:
            study = slots[i].row // per_study
            if studies[study].split != last.split:
                found.leaking[study] = f"{slots[i].path} is also in {last.study_id} ({last.split})"
    return found
