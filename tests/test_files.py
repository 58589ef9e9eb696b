"""Files that take their name when whole, and readers that refuse by a sentence."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT
from uar.core.errors import UserError
from uar.core.files import (
    allocate,
    atomic_write,
    give_name,
    open_array,
    read_json,
    read_table,
    require_room,
    set_aside,
    write_csv,
    write_json,
    write_table,
)


def test_a_file_has_its_old_content_or_its_new(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x"
    with atomic_write(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["x"]


def test_what_the_system_refuses_names_the_file_and_not_a_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(path):
        raise OSError(errno.ENOSPC, "No space left on device")  # as of a write, without a name
    assert caught.value.filename == str(path)
    path.mkdir()
    with pytest.raises(IsADirectoryError) as renamed, atomic_write(path) as temporary:
        temporary.touch()
    assert renamed.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as another, atomic_write(path):
        open("none").close()
    assert another.value.filename == "none"


def test_two_writers_at_once_leave_a_whole_file_each(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic_write(path) as one, atomic_write(path) as other:
        one.write_text("one")
        other.write_text("other")
        assert one != other
    assert path.read_text() == "one"  # the last to take the name
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


WRITER = """
import sys, time
from pathlib import Path
from uar.core.files import atomic_write
with atomic_write(Path("x")) as temporary:
    temporary.write_text("half")
    print("written", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER]
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE}
    with (
        subprocess.Popen(command, **options) as killed,
        subprocess.Popen(command, **options) as living,
    ):
        for process in (killed, living):
            assert process.stdout is not None and process.stdout.readline() == b"written\n"
        killed.kill()
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 2
        (tmp_path / ".x.elsewhere-1-0.partial").touch()  # of another machine
        write_json(tmp_path / "x", 1)
        left = {path.name for path in tmp_path.iterdir()}
        assert len(left) == 3 and {"x", ".x.elsewhere-1-0.partial"} < left
        assert any(f"-{living.pid}-" in name for name in left)
        living.kill()


def test_bytes_are_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_json(tmp_path / "x", 1)
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("links", [True, False])
def test_a_given_name_leaves_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("content")
    (tmp_path / "b").write_text("earlier")
    give_name(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "content"
    assert (tmp_path / "a").samefile(tmp_path / "b") == links


def test_what_is_damaged_is_kept_aside_once(tmp_path: Path) -> None:
    for content in ("one", "two"):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "x").write_text(content)
        aside = set_aside(tmp_path / "folder")
    assert (aside / "x").read_text() == "two"
    (tmp_path / "file").write_text("x")
    assert set_aside(tmp_path / "file").read_text() == "x"


READERS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "json": (read_json, lambda path: write_json(path, {"a": [1, 2, 3]})),
    "parquet": (read_table, lambda path: write_table(path, pd.DataFrame({"a": [1, 2]}))),
    "npy": (open_array, lambda path: np.save(path, np.arange(99))),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "cut": lambda content: content[: len(content) // 2],
    "last byte gone": lambda content: content[:-2],  # JSON ends with a line break
    "random": lambda content: np.random.default_rng(0).bytes(len(content)),
    "pickle": lambda content: pickle.dumps({"a": 1}),
    "zip": lambda content: b"PK\x05\x06" + bytes(18),
    "nested": lambda content: b"[" * 200_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, kind: str, damage: str) -> None:
    read, write = READERS[kind]
    path = tmp_path / f"x.{kind}"
    write(path)
    read(path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError, match=rf"x\.{kind}.*Restore it"):
        read(path)
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        read(path)


def test_objects_are_no_array(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UserError, match="not a complete array"):
        open_array(tmp_path / "x.npy")


@pytest.mark.parametrize("mark", ["=", "+", "-", "@", "\t"])
def test_no_text_in_a_csv_file_is_a_formula(tmp_path: Path, mark: str) -> None:
    table = pd.DataFrame(
        {"study_id": [f"{mark}1+1", "s-1", ""], "score": [-1.5, 2.0, float("nan")]}
    )
    write_csv(tmp_path / "x.csv", table)
    read = pd.read_csv(tmp_path / "x.csv", keep_default_na=False)
    assert read["study_id"].tolist() == [f"'{mark}1+1", "s-1", ""]
    assert read["score"].tolist() == ["-1.5", "2.0", ""]


def test_no_room_for_long_work_is_known_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "not" / "yet" / "there"
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5_000))
    require_room(path, 5_000)
    with pytest.raises(OSError, match="5,001 bytes are needed") as caught:
        require_room(path, 5_001)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))


def test_an_arrays_room_is_taken_at_once_or_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as it comes, without a name

    path = tmp_path / "array"
    with path.open("wb") as stream:
        stream.truncate(100_000)
    allocate(path)
    assert path.stat().st_blocks * 512 >= 100_000
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="100,000 bytes are needed") as caught:
        allocate(path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
