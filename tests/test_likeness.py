"""Films unlike those of training are told from those like them, and how they are turned."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bundles import chest
from uar.bundle.doubts import header_notes, of_form, of_header, of_views
from uar.bundle.likeness import LEAST, SIDE, FilmLikeness, FilmSet, Likeness
from uar.core.errors import UserError
from uar.data.films import Film, squash

CODEBOOK = 5


def film_set(first: int, studies: int, tokens: bool = True) -> FilmSet:
    """Two films a study; token p of a film of view v is v in seven of eight places."""
    films = np.stack([chest(first + i, v) for i in range(studies) for v in (0, 1)])
    rng = np.random.default_rng(first)
    views = np.tile([0, 1], studies)[:, None, None]
    odd = rng.random((2 * studies, 2, 16)) < 1 / 8
    cached = np.where(odd, rng.integers(0, CODEBOOK, odd.shape), views).astype(np.uint16)
    rows = np.arange(2 * studies).reshape(-1, 2)
    return FilmSet(films, cached if tokens else None, rows, np.ones_like(rows, bool))


@pytest.fixture(scope="module", params=[True, False], ids=["tokens", "pixels"])
def likeness(request: pytest.FixtureRequest) -> Likeness:
    return Likeness.of(
        film_set(0, 150, request.param), film_set(1000, 100, request.param), CODEBOOK
    )


def judged(likeness: Likeness, film: np.ndarray, view: int = 0, token: int = 0) -> FilmLikeness:
    tokens = None if likeness.token_costs is None else np.full(16, token)
    return likeness.judge(film, tokens, view)


def test_films_of_the_same_kind_are_alike(likeness: Likeness) -> None:
    unlike = [judged(likeness, chest(5000 + i, v), v, v).unlike for i in range(50) for v in (0, 1)]
    assert sum(unlike) <= 5


@pytest.mark.parametrize(
    ("way", "turn"),
    [
        ("mirrored", np.fliplr),
        ("upside down", lambda film: film[::-1, ::-1]),
        ("upside down and mirrored", np.flipud),
        ("turned by 90° to the left", np.rot90),
        ("turned by 90° to the right", lambda film: np.rot90(film, -1)),
        ("turned by 90° and mirrored", np.transpose),
        ("mirrored and turned by 90°", lambda film: film[::-1, ::-1].T),
        ("inverted, bone dark", lambda film: 255 - film),
    ],
)
def test_a_turned_film_is_told_and_how(likeness: Likeness, way: str, turn) -> None:  # type: ignore[no-untyped-def]
    for number in range(5000, 5005):
        found = judged(likeness, np.ascontiguousarray(turn(chest(number))))
        assert found.unlike
        assert found.turned == way


def test_other_pictures_are_unlike(likeness: Likeness) -> None:
    rng = np.random.default_rng(0)
    board = (np.indices((64, 64)).sum(axis=0) // 8 % 2 * 255).astype(np.uint8)
    for picture in (rng.integers(0, 256, (64, 64), np.uint8), board, chest(1)[:32, :32]):
        found = judged(likeness, picture)
        assert found.unlike and found.turned is None and found.other_view is None


def test_a_film_in_the_other_slot_is_told(likeness: Likeness) -> None:
    lateral, frontal = (judged(likeness, chest(5000, v), view=1 - v, token=v) for v in (1, 0))
    assert (lateral.other_view, frontal.other_view) == (1, 0)
    assert not lateral.unlike  # it is a film of another view
    names, views = ("a", "b"), ("frontal", "lateral")
    assert of_views([lateral, frontal], names, views) == (
        ["a: taken as frontal, but it and b look swapped."],
        [],
    )
    own = judged(likeness, chest(5000, 1), view=1, token=1)
    assert of_views([lateral, own], names, views) == (
        [],
        ["a: taken as frontal, but it looks like a lateral film."],
    )
    assert of_views([lateral], names[:1], views)[1] and own.other_view is None


def test_validation_films_in_the_wrong_slot_set_no_limit() -> None:
    """Two frontal films of a study, as data sets have them, do not make the second slot lenient."""
    training, validation = film_set(0, 150), film_set(1000, 100)
    mixed = FilmSet(
        validation.films.copy(),
        validation.tokens.copy(),
        validation.rows,
        validation.held,  # type: ignore[union-attr]
    )
    assert mixed.tokens is not None
    for array in (mixed.films, mixed.tokens):
        array[mixed.rows[:5, 1]] = array[mixed.rows[:5, 0]]
    whole, parts = (Likeness.of(training, v, CODEBOOK) for v in (validation, mixed))
    assert parts.limit[1] * parts.scale[1].max() <= 1.5 * whole.limit[1] * whole.scale[1].max()
    assert judged(parts, chest(5000, 0), view=1, token=0).other_view == 0


def test_tokens_alone_can_tell() -> None:
    likeness = Likeness.of(film_set(0, 150), film_set(1000, 100), CODEBOOK)
    film = chest(5000)
    usual, rare = (likeness.judge(film, np.full(16, token), 0) for token in (0, 4))
    assert not usual.unlike and rare.unlike
    assert rare.scores["thumbnail"] == usual.scores["thumbnail"]


def test_scores_by_hand() -> None:
    """Each of the formulas of the module, once more in plain loops."""
    training, validation = film_set(0, 150), film_set(1000, 100)
    likeness = Likeness.of(training, validation, CODEBOOK)

    def thumbnail(film: np.ndarray) -> np.ndarray:
        small = squash(film, SIDE).astype(float).ravel()
        return (small - small.mean()) / small.std()

    t = np.stack([thumbnail(film) for film in training.films[0::2]])
    mean, cov = t.mean(axis=0), np.cov(t.T)
    shrunk = 0.9 * cov + 0.1 * np.trace(cov) / 256 * np.eye(256)
    x, tokens = thumbnail(chest(7)), np.arange(16) % CODEBOOK
    distance = math.sqrt((x - mean) @ np.linalg.solve(shrunk, x - mean))
    assert training.tokens is not None
    of_view = training.tokens[0::2].reshape(-1, 16)  # whole films and crops
    cost = np.mean(
        [
            -math.log(((of_view[:, p] == k).sum() + 0.5) / (len(of_view) + 0.5 * CODEBOOK))
            for p, k in enumerate(tokens)
        ]
    )
    scores = likeness.judge(chest(7), tokens, 0).scores
    assert scores["tokens"] == pytest.approx(cost, rel=1e-3)  # kept in half precision
    assert scores["thumbnail"] == pytest.approx(distance, rel=1e-4)
    assert scores["correlation"] == pytest.approx(-np.corrcoef(x, mean)[0, 1], abs=1e-5)


def test_the_limit_is_validations(likeness: Likeness) -> None:
    """Of its own validation films at most the one of each slot beyond the 99.5th percentile."""
    validation = film_set(1000, 100, likeness.token_costs is not None)
    for view in (0, 1):
        rows = validation.rows[:, view]
        tokens = None if validation.tokens is None else validation.tokens[rows, 0]
        strange = likeness.strangeness(validation.films[rows], tokens, view)
        assert (strange > 1 + 1e-5).sum() == 0
        assert strange.max() == pytest.approx(1, abs=1e-4)


def test_films_that_only_stand_in_are_left_out() -> None:
    """Where a second film is missing, what fills its place says nothing of second films."""
    whole = film_set(0, 150)
    held = whole.held.copy()
    held[:75, 1] = False
    films = whole.films.copy()
    films[whole.rows[:75, 1]] = films[whole.rows[:75, 0]]
    parts = FilmSet(films, whole.tokens, whole.rows, held)
    assert parts.of_view(1).tolist() == whole.rows[75:, 1].tolist()
    assert parts.fewest == 75 > LEAST


def test_it_survives_the_file(likeness: Likeness, tmp_path: Path) -> None:
    likeness.save(tmp_path / "a.safetensors")
    loaded = Likeness.load(tmp_path / "a.safetensors")
    assert judged(loaded, chest(3)) == judged(likeness, chest(3))


def test_parts_that_do_not_belong_together_are_refused(likeness: Likeness) -> None:
    with pytest.raises(UserError, match=r"likeness has tensors .*expected"):
        Likeness(**{**vars(likeness), "limit": torch.ones(3)})


# ---- headers and forms


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"modality": "DX", "body_part": "CHEST"}, []),
        ({"modality": "CT"}, ["f: its header says CT (computed tomography), not a radiograph."]),
        ({"coloured": 0.04}, []),
        ({"coloured": 0.4}, ["f: a colour picture (40% of its pixels), not a film."]),
        ({"shape": (3, 3)}, ["f: 3 pixels along its shorter side; the model reads 56."]),
        ({"shape": (30, 900)}, []),
    ],
)
def test_doubts_of_header_and_form(changes: dict, said: list[str]) -> None:  # type: ignore[type-arg]
    film = Film(chest(0), "unknown", **changes)
    assert of_header(film, "f") + of_form(film, "f", 56) == said


def test_what_is_noted_of_a_header() -> None:
    film = Film(chest(0), "unknown", modality="another", body_part="HAND")
    assert header_notes(film, "f") == [
        "f: its header names a modality other than a radiograph's (CR, DX).",
        "f: its header says HAND, not chest.",
    ]
    assert header_notes(Film(chest(0), "unknown"), "f") == []
