"""Films unlike those of training are told from those like them, and how they are turned."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bundles import chest
from uar.bundle.doubts import form_doubts, header_doubts, header_notes, view_doubts
from uar.bundle.likeness import LEAST, SIDE, FilmLikeness, FilmSet, Likeness, tails
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
    return Likeness.of(film_set(0, 200, request.param), CODEBOOK)


def judged(likeness: Likeness, film: np.ndarray, view: int = 0, token: int = 0) -> FilmLikeness:
    tokens = None if likeness.token_costs is None else np.full(16, token)
    return likeness.measure(film, tokens, view)


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
        ("inverted (bones dark)", lambda film: 255 - film),
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
    assert view_doubts([lateral, frontal], names, views) == (
        ["a: taken as frontal, but it and b look swapped."],
        [],
    )
    own = judged(likeness, chest(5000, 1), view=1, token=1)
    assert view_doubts([lateral, own], names, views) == (
        [],
        ["a: taken as frontal, but it looks like a lateral film."],
    )
    assert view_doubts([lateral], names[:1], views)[1] and own.other_view is None


def test_training_films_in_the_wrong_slot_set_no_limit() -> None:
    """Two frontal films of a study, as data sets have them, do not make the second slot lenient."""
    training = film_set(0, 200)
    assert training.tokens is not None
    mixed = replace(training, films=training.films.copy(), tokens=training.tokens.copy())
    for array in (mixed.films, mixed.tokens):
        array[mixed.rows[:8, 1]] = array[mixed.rows[:8, 0]]  # type: ignore[index]
    whole, parts = (Likeness.of(films, CODEBOOK) for films in (training, mixed))
    assert parts.limit <= 1.5 * whole.limit
    assert judged(parts, chest(5000, 0), view=1, token=0).other_view == 0


def test_codes_that_no_training_film_has_are_told_wherever_they_are() -> None:
    """Each place of the training films has a token of its own: here all tell, there none does."""
    training = film_set(0, 150)
    tokens = np.tile(np.arange(16) % 4, (300, 2, 1)).astype(np.uint16)
    likeness = Likeness.of(replace(training, tokens=tokens), CODEBOOK)
    film, usual = chest(5000), np.arange(16) % 4
    own, moved, new = (
        likeness.measure(film, read, 0).scores for read in (usual, usual[::-1], np.full(16, 4))
    )
    assert own["codes"] == pytest.approx(moved["codes"]) and own["tokens"] < moved["tokens"]
    assert new["codes"] > 2 * own["codes"]
    assert new["tokens"] == pytest.approx(moved["tokens"], rel=1e-3)  # as rare there


def test_tokens_alone_can_tell() -> None:
    likeness = Likeness.of(film_set(0, 150), CODEBOOK)
    film = chest(5000)
    usual, rare = (likeness.measure(film, np.full(16, token), 0) for token in (0, 4))
    assert not usual.unlike and rare.unlike
    assert rare.scores["thumbnail"] == usual.scores["thumbnail"]


def test_scores_by_hand() -> None:
    """Each of the formulas of the module, once more in plain loops."""
    training = film_set(0, 150)
    likeness = Likeness.of(training, CODEBOOK)

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

    def share(place: int, token: int) -> float:
        return ((of_view[:, place] == token).sum() + 0.5) / (len(of_view) + 0.5 * CODEBOOK)

    cost = np.mean([-math.log(share(p, k)) for p, k in enumerate(tokens)])
    anywhere = [np.mean([share(q, k) for q in range(16)]) for k in tokens]
    scores = likeness.measure(chest(7), tokens, 0).scores
    assert scores["tokens"] == pytest.approx(cost, rel=1e-3)  # kept in half precision
    assert scores["codes"] == pytest.approx(-np.log(anywhere).mean(), rel=1e-3)
    assert scores["thumbnail"] == pytest.approx(distance, rel=1e-4)
    assert scores["correlation"] == pytest.approx(-np.corrcoef(x, mean)[0, 1], abs=1e-5)


def test_the_limit_is_of_films_that_the_fit_has_not_seen(likeness: Likeness) -> None:
    """A half per cent of the training studies are beyond it, each by a fit without its fold."""
    training = film_set(0, 200, likeness.token_costs is not None)
    beyond = 0
    for fold in range(5):
        inside = np.arange(200) % 5 != fold
        held_in = replace(training, rows=training.rows[inside], held=training.held[inside])
        parts = Likeness.of(held_in, CODEBOOK)
        others = replace(
            parts, **{k: getattr(likeness, k) for k in ("start", "scale", "shape", "limit")}
        )
        strange = []
        for view in (0, 1):
            rows = training.rows[~inside, view]
            tokens = None if training.tokens is None else training.tokens[rows, 0]
            strange.append(others.strangeness(training.films[rows], tokens, view))
        beyond += int((np.max(strange, axis=0) > 1 - 1e-4).sum())
    assert 1 <= beyond <= 2  # of 200: the 99.5th percentile itself, and perhaps a neighbour


def test_tails_by_hand() -> None:
    """Excesses whose mean and variance are known give the distribution that has them."""
    rng = np.random.default_rng(0)
    share = rng.random(200_000)
    for shape in (-0.3, 1e-9, 0.2):  # of a generalised Pareto distribution of scale 2
        scores = 5 + 2 * (share**-shape - 1) / shape
        [start], [scale], [found] = tails(scores[:, None])
        over = 2 + shape * (start - 5)  # the scale of what exceeds the start
        assert scale == pytest.approx(over, rel=0.05)
        assert found == pytest.approx(shape, abs=0.04)
    [_], [scale], [found] = tails(np.ones((100, 1)))  # nothing exceeds anything
    assert (scale, found) == (pytest.approx(1e-6), 0)


def test_scores_become_shares_of_their_tails(likeness: Likeness) -> None:
    """z is minus the log of the share beyond: monotonous, 0 at the start, large at a tail's end."""
    count = len(likeness.names)
    bent = replace(
        likeness,
        start=torch.full((2, count), 3.0),
        scale=torch.full((2, count), 2.0),
        shape=torch.tensor([[-0.5] * count, [0.0] * count]),
    )
    scores = np.array([[1.0], [3], [5], [6.9], [7], [50]]) * np.ones((1, count))
    short, plain = bent.tails_beyond(scores, 0)[:, 0], bent.tails_beyond(scores, 1)[:, 0]
    assert plain.tolist() == pytest.approx([-1, 0, 1, 1.95, 2, 23.5], rel=1e-4)
    assert short[:4].tolist() == pytest.approx(
        [-1, 0, -2 * math.log(0.5), -2 * (math.log(0.1) - 0.75)]
    )
    assert short[4] < short[5]  # a bounded tail ends at 7; what is beyond is stranger still


def test_films_that_only_stand_in_are_left_out() -> None:
    """Where a second film is missing, what fills its place says nothing of second films."""
    whole = film_set(0, 150)
    held = whole.held.copy()
    held[:75, 1] = False
    films = whole.films.copy()
    films[whole.rows[:75, 1]] = films[whole.rows[:75, 0]]
    parts = FilmSet(films, whole.tokens, whole.rows, held)
    assert parts.studies_with(1).tolist() == list(range(75, 150))
    [rows] = parts.blocks(1, parts.studies_with(1))
    assert rows.tolist() == whole.rows[75:, 1].tolist()
    assert parts.fewest == 75 > LEAST


def test_it_survives_the_file(likeness: Likeness, tmp_path: Path) -> None:
    likeness.save(tmp_path / "a.safetensors")
    loaded = Likeness.load(tmp_path / "a.safetensors")
    assert judged(loaded, chest(3)) == judged(likeness, chest(3))


def test_parts_that_do_not_belong_together_are_refused(likeness: Likeness) -> None:
    with pytest.raises(UserError, match=r"likeness has tensors .*expected"):
        Likeness(**{**vars(likeness), "limit": torch.ones(2)})


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
    assert header_doubts(film, "f") + form_doubts(film, "f", 56) == said


def test_what_is_noted_of_a_header() -> None:
    film = Film(chest(0), "unknown", modality="another", body_part="HAND")
    assert header_notes(film, "f") == [
        "f: its header names a modality other than a radiograph's (CR, DX).",
        "f: its header names HAND, not the chest.",
    ]
    assert header_notes(Film(chest(0), "unknown"), "f") == []
