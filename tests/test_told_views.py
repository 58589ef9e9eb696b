"""The view of films that no table states, told from their pixels."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.film_files import save, save_dicom
from tests.test_iu_xray import lay_out
from uar.core.config import DatasetParams
from uar.data.films import standardised
from uar.data.readers import Dataset, read_dataset
from uar.data.readers.iu_xray import r2gen_studies, uid_of
from uar.data.readers.told_views import LEAST, Discriminant, tell_views
from uar.data.study import Split, Study, View

GRID = np.linspace(-1, 1, 32)
SHAPES = {  # what tells the views apart: two fields beside a column, or one field
    "frontal": 90 * np.exp(-(((np.abs(GRID) - 0.5) / 0.3) ** 2))[None, :] * np.ones((32, 1)),
    "lateral": 90 * np.exp(-((GRID / 0.4) ** 2))[:, None] * np.ones((1, 32)),
}


def film(view: str, seed: int) -> np.ndarray:
    """An invented film, `(32, 32)` uint8."""
    noise = np.random.default_rng(seed).normal(120, 25, (32, 32))
    return np.clip(noise - SHAPES[view], 0, 255).astype(np.uint8)


def films(view: str, count: int, seed: int = 0) -> np.ndarray:
    return standardised(np.stack([film(view, 1000 * seed + i) for i in range(count)]))


def test_a_film_standardised_has_mean_0_and_deviation_1() -> None:
    rows = standardised(np.stack([film("frontal", 0), np.full((32, 32), 7, np.uint8)]))
    assert rows.shape == (2, 1024)
    np.testing.assert_allclose(rows.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(rows.std(axis=1), [1, 0], atol=1e-12)


def test_a_discriminant_tells_films_that_it_has_not_seen() -> None:
    learnt = Discriminant.between(films("frontal", 60), films("lateral", 70, 1))
    assert learnt.views(films("frontal", 40, 2)) == ["frontal"] * 40
    assert learnt.views(films("lateral", 40, 3)) == ["lateral"] * 40


def dataset_of(folder: Path, known: int, split: Split = "train") -> Dataset:
    """`known` studies of stated views, and three whose films lie lateral first, unstated."""
    studies = []
    views: tuple[View, View] = ("frontal", "lateral")
    for i in range(known):
        paths = (f"{i}/a.png", f"{i}/b.png")
        for path, view in zip(paths, views, strict=True):
            save(folder / path, film(view, 2 * i))
        studies.append(Study(f"s{i}", split, "Clear.", paths, views))
    for name in ("x", "y", "z"):
        paths = (f"{name}/a.png", f"{name}/b.png")
        for path, view in zip(paths, views[::-1], strict=True):
            save(folder / path, film(view, ord(name)))
        studies.append(Study(name, "test", "Clear.", paths, ("unknown", "unknown")))
    return Dataset(studies, folder)


def test_unstated_views_are_told_and_stated_ones_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = dataset_of(tmp_path, LEAST)
    (tmp_path / "z/a.png").write_bytes(b"no film")
    with caplog.at_level(logging.INFO):
        told = tell_views(dataset, workers=1)
    assert [s.views for s in told.studies[:-3]] == [("frontal", "lateral")] * LEAST
    assert [s.views for s in told.studies[-3:-1]] == [("lateral", "frontal")] * 2
    assert told.studies[-1].views == ("unknown", "frontal")  # what cannot be read stays unknown
    assert "the views of 5 films are told from their pixels" in caplog.text
    assert "3 frontal, 2 lateral" in caplog.text


@pytest.mark.parametrize(("known", "split"), [(LEAST - 1, "train"), (LEAST, "val")])
def test_few_stated_views_of_training_studies_tell_nothing(
    tmp_path: Path, known: int, split: Split
) -> None:
    dataset = dataset_of(tmp_path, known, split)
    assert tell_views(dataset, workers=1) is dataset


def test_films_that_are_all_stated_are_not_decoded(tmp_path: Path) -> None:
    stated = [
        Study(f"s{i}", "train", "Clear.", ("nowhere.png",) * 2, ("frontal", "lateral"))
        for i in range(LEAST)
    ]
    dataset = Dataset(stated, tmp_path)
    assert tell_views(dataset, workers=1) is dataset


def open_i(root: Path, per_study: int) -> DatasetParams:
    """Open-i's layout with DICOM films whose headers say PA of each, of the random split."""
    listed = [(uid_of(i), s.views) for i, s in r2gen_studies().items()][:160]
    views: dict[int, tuple[View, View]] = dict(listed)
    views |= {uid: ("lateral", "frontal") for uid in range(90_001, 90_006)}
    reports = {uid: ("Clear.", "", [f"{uid}_IM-1-1", f"{uid}_IM-1-2"]) for uid in views}
    params = lay_out(root, "openi, dcm", reports)
    for uid, of_study in views.items():
        for name, view in zip(reports[uid][2], of_study, strict=True):
            path = root / f"NLMCXR_dcm/{uid}/{name}.dcm"
            save_dicom(path, film(view, uid).astype(np.uint16), ViewPosition="PA")
    return params.model_copy(update={"split": "random", "images_per_study": per_study})


@pytest.mark.parametrize("per_study", [1, 2])
def test_of_other_open_i_studies_the_frontal_film_is_taken(tmp_path: Path, per_study: int) -> None:
    studies = {s.study_id: s for s in read_dataset(open_i(tmp_path, per_study), workers=1).studies}
    for uid in range(90_001, 90_006):
        study = studies[f"CXR{uid}"]
        assert study.image_paths[0] == f"{uid}/{uid}_IM-1-2.dcm"
        assert study.views == ("frontal", "lateral")[:per_study]
