"""A text that METEOR cannot bear costs its own score at most."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from uar.evaluation import meteor


@pytest.mark.parametrize("bad", [{0}, {2}, {4}, {0, 4}, {1, 2}, {0, 1, 2, 3, 4}])
def test_only_the_bad_texts_have_zeros(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    def run(pairs: Sequence[str], *_: str) -> list[str]:
        if any("flood" in pair for pair in pairs):
            raise meteor.JavaError("java.lang.OutOfMemoryError: Java heap space")
        return [" ".join(["7"] * meteor.METEOR_STATISTICS) for _ in pairs]

    monkeypatch.setattr(meteor, "_run", run)
    texts = [f"flood {i}" if i in bad else f"clear {i}" for i in range(5)]
    counts = meteor.meteor_statistics(["normal"] * 5, texts)
    assert counts[:, 0].tolist() == [0 if i in bad else 7 for i in range(5)]


def test_other_failures_are_still_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(pairs: Sequence[str], *_: str) -> list[str]:
        raise meteor.JavaError("Java did not start")

    monkeypatch.setattr(meteor, "_run", run)
    with pytest.raises(meteor.JavaError, match="did not start"):
        meteor.meteor_statistics(["a", "b"], ["a", "b"])
