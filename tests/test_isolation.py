"""Films decoded in another process: hostile ones end that process alone."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.film_files import SYNTAXES, compress, save, save_dicom
from tests.hostile import CRASH, HANG, HUNGRY, LEAK, LOUD, hostile
from tests.test_bundle import film
from uar.core.errors import UserError
from uar.data.films import read_film, squash
from uar.data.isolation import FilmDecoder


@pytest.fixture(scope="module")
def decoder() -> Iterator[FilmDecoder]:
    made = FilmDecoder(40, memory=1_000_000_000, decode=hostile)
    yield made
    made.close()


def test_it_gives_what_ingest_packs(decoder: FilmDecoder, tmp_path: Path) -> None:
    paths = [
        save(tmp_path / "a.png", film(1)),
        save(tmp_path / "a.jpg", film(2)),
        save_dicom(tmp_path / "a.dcm", film(3).astype(np.uint16) * 100, ViewPosition="LL"),
        *(
            compress(save_dicom(tmp_path / f"{i}.dcm", film(4)), syntax)
            for i, syntax in enumerate(SYNTAXES)
        ),
    ]
    for path in paths:
        apart, here = decoder.decode(path.read_bytes(), "film 1"), read_film(path)
        np.testing.assert_array_equal(apart.pixels, squash(here.pixels, 40))
        assert (apart.view, apart.header_failed) == (here.view, here.header_failed)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (CRASH, "film 2: decoding it crashed or ran out of memory"),
        (HUNGRY, "film 2: decoding it crashed or ran out of memory"),
        (LEAK, "film 2: decoding it crashed or ran out of memory"),
        (b"junk", "film 2: not a PNG, JPEG or DICOM file"),
    ],
)
def test_a_hostile_film_is_refused_and_the_next_one_decoded(
    decoder: FilmDecoder, tmp_path: Path, data: bytes, reason: str
) -> None:
    with pytest.raises(UserError) as refusal:
        decoder.decode(data, "film 2")
    assert str(refusal.value) == reason
    good = save(tmp_path / "a.png", film(1))
    expected = squash(read_film(good).pixels, 40)
    np.testing.assert_array_equal(decoder.decode(good.read_bytes(), "film").pixels, expected)


def test_a_film_that_takes_too_long_is_refused_and_the_next_one_decoded(
    decoder: FilmDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = decoder._process
    with monkeypatch.context() as impatient:
        impatient.setattr(decoder, "_seconds", 0.5)
        with pytest.raises(UserError) as refusal:
            decoder.decode(HANG, "film 2")
    assert str(refusal.value) == "film 2: decoding it took more than 0.5 seconds"
    assert hung.returncode == -signal.SIGKILL
    assert decoder.decode(save(tmp_path / "a.png", film(1)).read_bytes(), "a").view == "unknown"


def test_a_process_that_was_killed_is_replaced(decoder: FilmDecoder, tmp_path: Path) -> None:
    decoder._process.kill()
    decoder._process.wait()
    assert decoder.decode(save(tmp_path / "a.png", film(1)).read_bytes(), "a").view == "unknown"


def test_it_says_nothing_on_the_terminal(
    decoder: FilmDecoder, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="not a PNG"):
        decoder.decode(LOUD, "film 1")
    assert capfd.readouterr() == ("", "")


def test_closing_ends_the_process() -> None:
    made = FilmDecoder(40)
    process = made._process
    made.close()
    assert process.returncode is not None


def test_closing_ends_a_film_that_is_being_decoded() -> None:
    made = FilmDecoder(40, decode=hostile)
    with ThreadPoolExecutor(1) as waiting:
        decoding = waiting.submit(made.decode, HANG, "film 1")
        while not (made._ready or decoding.done()):
            time.sleep(0.05)
        process = made._process
        made.close()
        with pytest.raises(UserError, match="film 1: decoding it crashed"):
            decoding.result()
        with pytest.raises(UserError, match="film 2: decoding it crashed"):
            made.decode(b"", "film 2")
    assert made._process is process and process.returncode == -signal.SIGKILL
