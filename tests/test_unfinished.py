"""Work that a kill interrupts, in an array that goes on being filled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uar.core.unfinished import UnfinishedArray


def five(folder: Path, dtype: type = np.uint16) -> UnfinishedArray:
    return UnfinishedArray(folder / "scratch", "tokens", shape=(5, 1, 4), dtype=dtype, per_batch=2)


@pytest.mark.parametrize("dtype", [np.uint16, np.float16, np.float64])
def test_batches_lie_in_their_place(tmp_path: Path, dtype: type) -> None:
    array, values = five(tmp_path, dtype), np.arange(20).reshape(5, 1, 4) / 2
    for number in array.open({})[::-1]:
        array.write(number, values[2 * number : 2 * number + 2])
    found = np.load(array.array)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values.astype(dtype))
    assert len(array.open({})) == 0


def test_another_runs_unfinished_array_is_not_used(tmp_path: Path) -> None:
    array = five(tmp_path)
    assert array.open({"seed": 1}).tolist() == [0, 1, 2]
    array.write(2, np.full((1, 1, 4), 7))
    assert array.open({"seed": 1}).tolist() == [0, 1]
    assert np.load(array.array)[4].tolist() == [[7, 7, 7, 7]]
    assert array.open({"seed": 2}).tolist() == [0, 1, 2]
    assert not np.load(array.array).any()


@pytest.mark.parametrize("at", [0, 1])
def test_a_batch_is_done_only_once_its_values_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Killed before either of its two writes: what is marked is never zeros."""
    array = five(tmp_path)
    array.open({})
    opened, real = [], Path.open

    def killed(path: Path, mode: str = "r", **options: Any) -> Any:
        if mode == "r+b":
            opened.append(path)
            if len(opened) > at:
                raise KeyboardInterrupt
        return real(path, mode, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", killed)
        with pytest.raises(KeyboardInterrupt):
            array.write(1, np.full((2, 1, 4), 7))
    assert len(opened) == at + 1
    remaining = array.open({})
    values = np.load(array.array)
    for number in {0, 1, 2} - set(remaining.tolist()):
        assert values[2 * number : 2 * number + 2].all(), number
    assert 1 in remaining
    array.write(1, np.full((2, 1, 4), 7))
    assert array.open({}).tolist() == [0, 2]


Damage = Callable[[UnfinishedArray], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda a: a.done.write_bytes(b"\x01\x01"),
        lambda a: a.done.write_bytes(b""),
        lambda a: a.done.write_bytes(b"\x01\x07\x00"),
        lambda a: a.done.unlink(),
        lambda a: a.identity.write_text('{"run": '),
        lambda a: a.identity.write_bytes(b"\xff\xfe"),
        lambda a: a.array.unlink(),
        lambda a: a.array.write_bytes(a.array.read_bytes()[:-9]),
        lambda a: a.array.write_bytes(b""),
        lambda a: np.save(a.array, np.zeros((5, 2, 4), np.uint16)),
        lambda a: np.save(a.array, np.zeros((5, 1, 4), np.int32)),
        lambda a: np.save(a.array, np.array([{}]), allow_pickle=True),
    ],
)
def test_damaged_unfinished_work_is_moved_aside_and_begun_anew(
    tmp_path: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    array = five(tmp_path)
    array.open({"run": 1})
    array.write(0, np.full((2, 1, 4), 7))
    assert array.open({"run": 1}).tolist() == [1, 2]
    damage(array)
    assert array.open({"run": 1}).tolist() == [0, 1, 2]
    assert not np.load(array.array).any()
    assert (tmp_path / "scratch.damaged").is_dir()
    assert "the work starts again" in caplog.text


def test_the_log_says_in_what_another_run_differs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = five(tmp_path)
    array.open({"code": {"uar/tokens/cache.py": "a"}, "params": {"seed": 0, "image.crop": 16}})
    array.open({"code": {"uar/tokens/cache.py": "b"}, "params": {"seed": 1, "image.crop": 16}})
    assert "differs in: code uar/tokens/cache.py, params seed" in caplog.text
