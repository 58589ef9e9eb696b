"""`python -m benchmarks.likeness PROJECT [--strangers FOLDER]`: which pictures get no report.

PROJECT holds what `dvc repro export` makes: model.uar and data/. Its test films show the share that
is refused in error; altered films are made from its validation films. FOLDER holds films of other
data sets, with one folder per study.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom.data
from PIL import Image, ImageDraw

import uar
from uar.bundle.doubts import likeness_doubts, view_doubts
from uar.bundle.reporter import Reporter
from uar.core.errors import UserError
from uar.data.films import Film, read_film, squash
from uar.data.study import IMAGE_SUFFIXES
from uar.evaluation.calibration import wilson

_LARGE = (2000, 2000)
_KINDS = {  # how a doubt begins, after the film's name
    "its header": "header",
    "a colour": "colour",
    "taken as": "swapped",
    "it looks": "turned",
    "unlike": "unlike",
}
_KINDS_OF_LIKENESS = ("swapped", "turned", "unlike")

Study = Sequence[Film]


def quarter(pixels: np.ndarray) -> np.ndarray:
    """The film's upper left quarter, enlarged to the film's size."""
    half = len(pixels) // 2
    return np.asarray(Image.fromarray(pixels[:half, :half]).resize(pixels.shape[::-1]))


ALTERED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "inverted": lambda film: 255 - film,
    "mirrored": np.fliplr,
    "upside down": lambda film: film[::-1, ::-1],
    "turned by 90°": np.rot90,
    "a quarter of each": quarter,
    "over-exposed, half of the range lost": lambda film: np.minimum(film, 127) * 2,
}


def rows_of(project: Path, split: str) -> list[list[int]]:
    """For each study of a split, the rows of its films in the packed array."""
    table = pd.read_parquet(project / "data/reports.parquet")
    per_study = len(np.load(project / "data/images.npy", mmap_mode="r")) // len(table)
    return [
        [i * per_study + view for view in range(min(len(table["views"].iloc[i]), per_study))]
        for i in np.flatnonzero(table["split"] == split)
    ]


def studies_of(project: Path, split: str) -> Iterator[Study]:
    """Yield the packed films of each study of a split."""
    films = np.load(project / "data/images.npy", mmap_mode="r")
    for rows in rows_of(project, split):
        yield [Film(np.array(films[row]), "unknown") for row in rows]


def altered(studies: Sequence[Study], change: Callable[[np.ndarray], np.ndarray]) -> list[Study]:
    """The studies with every film changed."""
    return [
        [replace(film, pixels=np.ascontiguousarray(change(film.pixels))) for film in study]
        for study in studies
    ]


def of_folder(folder: Path, views: int, most: int) -> list[Study]:
    """Films of another data set: up to `views` from each of `most` folders, one per study."""
    studies = []
    for inside in sorted({path.parent for path in folder.rglob("*") if path.is_file()}):
        paths = [p for p in sorted(inside.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
        if paths:
            studies.append([read_film(path) for path in paths[:views]])
        if len(studies) == most:
            break
    return studies


def of_pydicom() -> dict[str, list[Study]]:
    """pydicom's own test files that hold a single picture, by the modality in their headers."""
    found: dict[str, list[Study]] = {}
    root = Path(pydicom.data.__file__).parent / "test_files"
    for path in sorted(root.rglob("*")):
        try:
            film = read_film(path)
        except UserError:
            continue
        kind = film.modality if film.modality in ("CT", "MR", "US", "NM") else "another or none"
        found.setdefault(f"pydicom's test files, {kind}", []).append([film])
    return found


def drawn() -> dict[str, list[Study]]:
    """Generated pictures, of kinds that no data set holds."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (512, 512), np.uint8) for _ in range(20)]
    clouds = [
        Image.fromarray(rng.integers(0, 256, (6, 6), np.uint8)).resize((512, 512)) for _ in noise
    ]
    screens = []
    for _ in noise:
        screen = Image.new("L", (640, 480), 240)
        draw = ImageDraw.Draw(screen)
        draw.rectangle((0, 0, 640, 24), fill=60)
        for line in range(int(rng.integers(8, 20))):
            words = "word " * int(rng.integers(2, 16))
            draw.text((int(rng.integers(10, 60)), 40 + 20 * line), words, fill=20)
        screens.append(np.asarray(screen))
    plain = {
        "noise": noise,
        "clouds (noise of 6 x 6, smoothed)": [np.asarray(cloud) for cloud in clouds],
        "gray screenshots": screens,
    }
    return {kind: [[Film(p, "unknown")] for p in pictures] for kind, pictures in plain.items()}


def count(reporter: Reporter, name: str, studies: Sequence[Study]) -> None:
    """Print a row for studies, prepared as for a report."""
    outcomes = []
    for study in studies:
        doubts = reporter.prepare(study).doubts
        bare = [replace(f, modality="", body_part="", coloured=0, shape=_LARGE) for f in study]
        alone = [d for d in doubts if kind_of(d) in _KINDS_OF_LIKENESS]
        if doubts and not alone and reporter.bundle.likeness is not None:
            alone = list(reporter.prepare(bare).doubts)
        outcomes.append((doubts, alone))
    row(name, outcomes)


def count_test_films(reporter: Reporter, project: Path) -> None:
    """Print the row for the test studies, measured with their cached tokens."""
    likeness, outcomes, films, noted = reporter.bundle.likeness, [], 0, 0
    if likeness is None:
        raise UserError(f"{project}/model.uar cannot tell: too few training films")
    cache = (
        np.load(project / "data/tokens.npy", mmap_mode="r")
        if likeness.token_costs is not None
        else None
    )
    for rows, study in zip(rows_of(project, "test"), studies_of(project, "test"), strict=True):
        found = [
            likeness.measure(
                film.pixels, None if cache is None else np.array(cache[rows[view], 0]), view
            )
            for view, film in enumerate(study)
        ]
        doubts = [d for f in found for d in likeness_doubts(f, "film", "")]
        noted += sum(f.other_view is not None for f in found)
        doubts += view_doubts(found, ("film", "film"), ("frontal", "lateral"))[0]
        films += len(study)
        outcomes.append((doubts, doubts))
    refused = sum(len(doubts) for doubts, _ in outcomes)
    row(f"test films, as they are ({refused} of {films} films; {noted} noted)", outcomes)


def kind_of(doubt: str) -> str:
    """What a doubt is about."""
    reason = doubt.split(": ", 1)[1]
    return next((kind for start, kind in _KINDS.items() if reason.startswith(start)), "few pixels")


def row(name: str, outcomes: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
    """Print a row: studies, how many are refused in all and by likeness alone, and why."""
    refused = sum(bool(doubts) for doubts, _ in outcomes)
    unlike = sum(bool(alone) for _, alone in outcomes)
    why = Counter(kind for doubts, _ in outcomes for kind in {kind_of(d) for d in doubts})
    low, high = wilson(refused, len(outcomes))
    said = ", ".join(f"{kind} {number}" for kind, number in why.most_common())
    share = f"{refused / len(outcomes):.1%} ({low:.1%} to {high:.1%})"
    print(f"| {name} | {len(outcomes)} | {refused} | {share} | {unlike} | {said} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--strangers", type=Path, action="append", default=[])
    parser.add_argument("--studies", type=int, default=60, help="of each alteration and stranger")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    reporter = uar.load(asked.project / "model.uar")
    settings = reporter.bundle.preprocessing
    print("| pictures | studies | refused | share (95 % interval) | by likeness alone | why |")
    print("|---|---|---|---|---|---|")
    count_test_films(reporter, asked.project)
    validation = list(islice(studies_of(asked.project, "val"), asked.studies))
    for name, change in ALTERED.items():
        count(reporter, name, altered(validation, change))
    if settings.views == 2:
        swapped = [study[::-1] for study in validation if len(study) == 2]
        count(reporter, "frontal and lateral swapped", swapped)
        alone = [reporter.prepare(study[:1]) for study in swapped]
        notes = sum(any("looks like" in note for note in a.notes) for a in alone)
        row(f"the lateral alone ({notes} noted)", [(a.doubts, a.doubts) for a in alone])
    side = settings.crop // 4
    small = [[replace(f, pixels=squash(f.pixels, side)) for f in study] for study in validation]
    count(reporter, f"thumbnails of {side} pixels", small)
    for folder in asked.strangers:
        count(
            reporter,
            f"films of {folder.parent.name}",
            of_folder(folder, settings.views, asked.studies),
        )
    for name, studies in (of_pydicom() | drawn()).items():
        count(reporter, name, studies)


if __name__ == "__main__":
    main()
