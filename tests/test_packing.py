"""The packed array: rows, paths that lead outside, interruption, crashes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.film_files import save, save_dicom
from uar.data import packing
from uar.data.films import Film, read_film
from uar.data.packing import PackingResult, Slot, copy_studies, pack_films

SIZE, FILMS = 8, 12


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """`FILMS` films of noise, PNG and DICOM by turns."""
    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    for i in range(FILMS):
        pixels = rng.integers(0, 256, (20, 30), dtype=np.uint8)
        if i % 2:
            save_dicom(folder / f"{i}.dcm", pixels, ViewPosition="LL")
        else:
            save(folder / f"{i}.png", pixels)
    return folder


def slots_of(images: Path) -> list[Slot]:
    names = sorted((path.name for path in images.iterdir()), key=lambda n: int(n.split(".")[0]))
    return [Slot(name, row) for row, name in enumerate(names)]


def expected_rows(images: Path, slots: list[Slot]) -> np.ndarray:
    films = [Image.fromarray(read_film(images / slot.path).pixels) for slot in slots]
    return np.stack([film.resize((SIZE, SIZE), Image.Resampling.BOX) for film in films])


def pack(
    images: Path, slots: list[Slot], scratch: Path, workers: int = 1, films_per_task: int = 1
) -> PackingResult:
    return pack_films(
        images, slots, size=SIZE, scratch=scratch, workers=workers, films_per_task=films_per_task
    )


def test_rows_and_views_follow_the_slots(images: Path, tmp_path: Path) -> None:
    slots = slots_of(images)
    packed = pack(images, slots, tmp_path / "scratch", workers=2, films_per_task=5)
    rows = np.load(packed.array)
    assert rows.dtype == np.uint8
    np.testing.assert_array_equal(rows, expected_rows(images, slots))
    assert packed.views == ["unknown", "lateral"] * (FILMS // 2)
    assert packed.faults == {}


def test_a_row_holds_the_mean_of_each_block(tmp_path: Path) -> None:
    blocks = np.kron([[0, 60], [120, 180]], np.ones((4, 8))).astype(np.uint8)
    blocks[::2, ::2] += 4  # a quarter of each block: its mean rises by 1
    save(tmp_path / "a.png", blocks)
    packed = pack_films(
        tmp_path, [Slot("a.png", 0)], size=2, scratch=tmp_path / "scratch", workers=1
    )
    assert np.load(packed.array).tolist() == [[[1, 61], [121, 181]]]


def test_copies_and_blanks_fill_the_rows_after_a_film(tmp_path: Path) -> None:
    for name, value in (("a.png", 7), ("b.png", 9)):
        pixels = np.full((60, 60), value, dtype=np.uint8)
        pixels[-1, -1] += 1
        save(tmp_path / name, pixels)
    slots = [Slot("a.png", 0, copies=2), Slot("b.png", 2, blanks=1), Slot("a.png", 4)]
    packed = pack(tmp_path, slots, tmp_path / "scratch", films_per_task=3)
    assert np.load(packed.array)[:, 0, 0].tolist() == [7, 7, 9, 0, 7]


def test_faults_are_listed_together_in_order(images: Path, tmp_path: Path) -> None:
    slots = slots_of(images)
    (images / slots[9].path).write_text("not a film")
    (images / slots[2].path).unlink()
    packed = pack(images, slots, tmp_path / "scratch", workers=2)
    assert list(packed.faults.items()) == [
        (2, f"{images}/2.png: no such file"),
        (9, f"{images}/9.dcm: not a PNG, JPEG or DICOM file"),
    ]
    rows, good = np.load(packed.array), [i for i in range(FILMS) if i not in packed.faults]
    np.testing.assert_array_equal(rows[good], expected_rows(images, [slots[i] for i in good]))


def test_paths_and_links_that_lead_outside_are_faults(images: Path, tmp_path: Path) -> None:
    secret = save(tmp_path / "outside/secret.png", np.zeros((4, 4), dtype=np.uint8))
    (images / "link.png").symlink_to(secret)
    (images / "folder").symlink_to(secret.parent)
    (images / "inner.png").symlink_to(images / "0.png")
    names = ["../outside/secret.png", str(secret), "link.png", "folder/secret.png", "inner.png"]
    slots = [Slot(name, row) for row, name in enumerate(names)]
    packed = pack(images, slots, tmp_path / "scratch")
    assert packed.faults == {
        0: f"{images}/../outside/secret.png: the path leads out of {images}",
        1: f"{secret}: the path leads out of {images}",
        2: f"{images}/link.png: a link that leads out of {images}",
        3: f"{images}/folder/secret.png: a link that leads out of {images}",
    }


def test_the_folder_of_images_may_itself_be_a_link(images: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(images)
    packed = pack(tmp_path / "linked", slots_of(images), tmp_path / "scratch", films_per_task=9)
    assert packed.faults == {}


def test_copy_studies_keeps_the_rows_of_those_named(tmp_path: Path) -> None:
    rows = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 3, 3), dtype=np.uint8)
    np.save(tmp_path / "all.npy", rows)
    copy_studies(tmp_path / "all.npy", [1, 2, 4], images_per_study=2, out=tmp_path / "some.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "some.npy"), rows[[2, 3, 4, 5, 8, 9]])


# ---- a run that was cut off


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the films that are sent to workers, in order."""
    names: list[str] = []
    decode = packing._decode

    def recorded(tasks: Iterator[Any], workers: int) -> Iterator[Any]:
        def sent() -> Iterator[Any]:
            for task in tasks:
                names.extend(slot.path for slot in task.slots)
                yield task

        return decode(sent(), workers)

    monkeypatch.setattr(packing, "_decode", recorded)
    return names


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from uar.data import packing

if __name__ == "__main__":
    images, scratch, films, tasks = sys.argv[1:]
    packing._SYNC_SECONDS = 0
    add, done = packing._Journal.add, []

    def add_and_die(*arguments):
        add(*arguments)
        done.append(arguments)
        if len(done) == int(tasks):
            os.kill(os.getpid(), signal.SIGKILL)

    packing._Journal.add = add_and_die
    names = [f"{i}.dcm" if i % 2 else f"{i}.png" for i in range(int(films))]
    slots = [packing.Slot(name, row) for row, name in enumerate(names)]
    packing.pack_films(
        Path(images), slots, size=8, scratch=Path(scratch), workers=1, films_per_task=1
    )
"""


def test_a_killed_run_goes_on_where_it_stopped(
    images: Path, tmp_path: Path, decoded: list[str]
) -> None:
    slots, scratch = slots_of(images), tmp_path / "scratch"
    whole = pack(images, slots, tmp_path / "whole", films_per_task=FILMS)
    (tmp_path / "run.py").write_text(KILLED_RUN)
    killed = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), str(images), str(scratch), str(FILMS), "5"],
        env={**os.environ, "PYTHONPATH": str(Path(packing.__file__).parents[2])},
        capture_output=True,  # returns when the workers too have ended
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len((scratch / "journal.jsonl").read_text().splitlines()) == 1 + 5

    decoded.clear()
    packed = pack(images, slots, scratch, workers=2)
    assert len(set(decoded)) == len(decoded) == FILMS - 5
    assert packed.array.read_bytes() == whole.array.read_bytes()
    assert packed.views == whole.views


def test_only_films_that_changed_are_decoded_again(
    images: Path, tmp_path: Path, decoded: list[str]
) -> None:
    slots, scratch = slots_of(images), tmp_path / "scratch"
    pack(images, slots, scratch)
    save(images / "4.png", np.eye(20, 30, dtype=np.uint8) * 99)
    decoded.clear()
    packed = pack(images, slots, scratch)
    assert decoded == ["4.png"]
    np.testing.assert_array_equal(np.load(packed.array), expected_rows(images, slots))


def test_a_film_that_was_bad_is_decoded_again(
    images: Path, tmp_path: Path, decoded: list[str]
) -> None:
    slots, scratch = slots_of(images), tmp_path / "scratch"
    whole = (images / "4.png").read_bytes()
    (images / "4.png").write_bytes(whole[:100])
    assert list(pack(images, slots, scratch).faults) == [4]
    (images / "4.png").write_bytes(whole)
    decoded.clear()
    packed = pack(images, slots, scratch)
    assert decoded == ["4.png"] and packed.faults == {}
    np.testing.assert_array_equal(np.load(packed.array), expected_rows(images, slots))


@pytest.mark.parametrize("change", ["size", "rows", "versions", "no array", "no journal"])
def test_another_run_begins_anew(
    change: str,
    images: Path,
    tmp_path: Path,
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots, scratch, size = slots_of(images), tmp_path / "scratch", SIZE
    pack(images, slots, scratch, films_per_task=4)
    if change == "size":
        size = SIZE + 1
    elif change == "rows":
        slots = slots[:-4]
    elif change == "versions":
        monkeypatch.setattr(packing, "version", lambda name: "another")
    else:
        name = "images.npy" if change == "no array" else "journal.jsonl"
        (scratch / name).unlink()
    decoded.clear()
    packed = pack_films(images, slots, size=size, scratch=scratch, workers=1, films_per_task=4)
    assert decoded == [slot.path for slot in slots]
    assert np.load(packed.array).shape == (len(slots), size, size)


def test_a_torn_line_of_the_journal_is_not_believed(
    images: Path, tmp_path: Path, decoded: list[str]
) -> None:
    slots, scratch = slots_of(images), tmp_path / "scratch"
    pack(images, slots, scratch)
    journal = scratch / "journal.jsonl"
    identity, *lines = journal.read_text().splitlines(keepends=True)
    assert json.loads(identity)["rows"] == FILMS
    journal.write_text(identity + "".join(lines[:3]) + lines[3][:40])
    decoded.clear()
    pack(images, slots, scratch)
    assert len(decoded) == FILMS - 3
    pack(images, slots, scratch)
    assert len(decoded) == FILMS - 3  # the journal is whole again


# ---- a decoder that takes its process down


def _crash_on_mark() -> None:
    def read(path: Path) -> Film:
        if path.name == "5.dcm":
            os._exit(11)
        return read_film(path)

    packing.read_film = read


def test_a_crash_is_a_fault_of_one_film(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashing_pool(workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_crash_on_mark)

    monkeypatch.setattr(packing, "_pool", crashing_pool)
    slots = slots_of(images)
    packed = pack(images, slots, tmp_path / "scratch", films_per_task=2)
    why = f"{images}/5.dcm: decoding it crashed, needed more than 3 GB of memory or took more than "
    why += "30 seconds"
    assert packed.faults == {5: why}
    rows, good = np.load(packed.array), [i for i in range(FILMS) if i != 5]
    np.testing.assert_array_equal(rows[good], expected_rows(images, [slots[i] for i in good]))
    assert packed.views[6:8] == ["unknown", "lateral"]
