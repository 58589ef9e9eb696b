"""Invented reports and drawn films in the layout that MIMIC-CXR has at PhysioNet.

    python -m pipeline.tools.physionet data/raw/mimic_cxr --studies 2000 --films mix

Nothing in it comes from a patient. Films and wording are the demo's, with the habits of real
reports added (headers in several spellings, notes below the text, `SHAPES`, studies without the
section, without a frontal film or without a report), so that every reason to leave a study out
occurs.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import typer
from PIL import Image

from uar.core.progress import progress
from uar.data.demo.dataset import DemoStudy, sample_study, write_dicom
from uar.data.demo.frontal import draw_frontal
from uar.data.demo.lateral import draw_lateral

SPLITS = {"train": "train", "val": "validate", "test": "test"}
HEADERS = ("FINDINGS", "FINDINGS", "Findings", "FINDING", "PA AND LATERAL VIEWS OF THE CHEST")
NOTES = (
    "",
    "",
    "\n Findings were discussed with Dr. ___ by telephone at 3:15 p.m. on ___.\n",
    "\n NOTIFICATION:  Dr. ___ was paged.\n",
)


FILM_HEADINGS = ("CHEST", "PA AND LATERAL VIEWS OF THE CHEST", "RIBS", "BONE WINDOW")
WRAPPED = "As before, see the\n comparison: nothing is new."
PLACEHOLDERS = ("nan", "NaN", "None", "None.")
LONE_NOTES = (
    "Dr. ___ was informed.",
    "Findings were called to Dr. ___ at 9:15.",
    "Dr. ___ was emailed.",
    "Results were posted to the dashboard.",
)
SHAPES = (
    "call in a finding",
    "empty findings",
    "wrapped word",
    "one line",
    "organs",
    "placeholder",
    "note alone",
)


def shape_of(index: int) -> str | None:
    """The odd shape, from `SHAPES`, of a study's report, if any: every third report has one."""
    return SHAPES[index // 3 % len(SHAPES)] if index % 3 == 2 else None


def write_tree(
    root: Path,
    studies: int = 2000,
    film_size: Annotated[int, typer.Option(help="Width in pixels.")] = 96,
    films: Annotated[str, typer.Option(help="jpg, dcm, or mix: every second film is dcm.")] = "jpg",
    seed: Annotated[int, typer.Option(help="Seed of findings, films and wording.")] = 0,
) -> None:
    """Write an invented MIMIC-CXR in PhysioNet's layout to the folder ROOT."""
    records: list[dict[str, str]] = []
    for index in progress(range(studies), "physionet tree", studies, unit="study"):
        study = sample_study(seed, index)
        subject, number = str(10_000_000 + index // 2 * 1009), str(50_000_000 + index * 17)
        folder = Path("files") / f"p{subject[:2]}" / f"p{subject}" / f"s{number}"
        (root / folder).mkdir(parents=True)
        if index % 40 != 23:
            (root / folder).with_suffix(".txt").write_text(
                write_report(study, index), encoding="utf-8"
            )
        for film, view in enumerate(_views(index)):
            digest = hashlib.sha256(f"{seed}/{index}/{film}".encode()).hexdigest()
            dicom_id = "-".join(digest[at : at + 8] for at in range(0, 40, 8))
            _write_film(
                root / folder / dicom_id,
                study,
                view,
                film_size=film_size,
                films=films,
                number=len(records),
            )
            records.append(
                {
                    "dicom_id": dicom_id,
                    "study_id": number,
                    "subject_id": subject,
                    "split": SPLITS[study.split],
                    "ViewPosition": view,
                    "path": f"{folder.as_posix()}/{dicom_id}.dcm",
                }
            )
    table = pd.DataFrame(records)
    reports = table.drop_duplicates("study_id").assign(
        path=lambda frame: frame["path"].str.rpartition("/")[0] + ".txt"
    )
    for name, rows, columns in (
        ("mimic-cxr-2.0.0-split", table, ["dicom_id", "study_id", "subject_id", "split"]),
        ("mimic-cxr-2.0.0-metadata", table, ["dicom_id", "subject_id", "study_id", "ViewPosition"]),
        ("cxr-record-list", table, ["subject_id", "study_id", "dicom_id", "path"]),
        ("cxr-study-list", reports, ["subject_id", "study_id", "path"]),
    ):
        rows[columns].to_csv(root / f"{name}.csv.gz", index=False)


def write_report(study: DemoStudy, index: int) -> str:
    """The demo's report of a study, laid out like a real one."""
    lines = _wrapped([study.report])
    impression = "No acute process." if not study.findings else "As described."
    opening = "                                 FINAL REPORT\n EXAMINATION:  Chest radiographs\n\n"
    if index % 20 == 9:
        return f"{opening} IMPRESSION:  {impression}\n"
    if index % 50 == 14:
        return f"{opening} FINDINGS AND IMPRESSION:\n{lines}\n"
    shape = shape_of(index)
    if shape is not None:
        sentences = re.split(r"(?<=\.) ", " ".join(study.report.split()))
        return opening + _oddly(shape, sentences, impression)
    header, note = HEADERS[index % len(HEADERS)], NOTES[index % len(NOTES)]
    ending = note if "NOTIFICATION" in note else f"{note}\n IMPRESSION:  {impression}\n"
    return f"{opening} COMPARISON:  ___.\n\n {header}:\n\n{lines}\n{ending}"


def _oddly(shape: str, sentences: list[str], impression: str) -> str:
    """Findings and impression of a report in one of `SHAPES`."""
    text, ending = _wrapped(sentences), f"\n\n IMPRESSION:  {impression}\n"
    any_of = len(sentences[0])  # picks one of several, practically at random
    match shape:
        case "call in a finding":  # the last sentence stands alone, with a clause about a call
            *first, last = sentences
            said = f"{last.rstrip('.')}, discussed with Dr. ___ by phone at 9:15."
            return f" FINDINGS:\n\n{_wrapped(first)}\n\n{_wrapped([said])}{ending}"
        case "empty findings":  # a heading that names the films holds the text
            heading = FILM_HEADINGS[any_of % len(FILM_HEADINGS)]
            return f" FINDINGS:\n\n {heading}:\n\n{text}{ending}"
        case "wrapped word":  # a line begins with a word and a colon that is no header
            return f" FINDINGS:  {WRAPPED}\n{text}{ending}"
        case "one line":
            return f" COMPARISON: None. FINDINGS: {' '.join(sentences)} IMPRESSION: {impression}\n"
        case "organs":  # headings in capitals within the findings
            heads = zip(("LUNGS", "HEART", "BONES"), sentences, strict=False)
            organs = "\n".join(f" {head}:  {sentence}" for head, sentence in heads)
            return f" FINDINGS:\n\n{organs}\n{_wrapped(sentences[3:])}{ending}"
        case "placeholder":  # a table's mark for missing text, in place of the findings
            placeholder = PLACEHOLDERS[any_of % len(PLACEHOLDERS)]
            return f" FINDINGS:  {placeholder}\n\n IMPRESSION: x\n"
        case _:  # a note alone: a paragraph only about what was done with the report
            return f" FINDINGS:\n\n{text}\n\n {LONE_NOTES[any_of % len(LONE_NOTES)]}\n"


def _wrapped(sentences: list[str]) -> str:
    text = " ".join(sentences)
    return textwrap.fill(text, 76, initial_indent=" ", subsequent_indent=" ")


def _views(index: int) -> list[Literal["PA", "AP", "LATERAL"]]:
    if index % 25 == 7:
        return ["LATERAL"]
    return ["PA", "LATERAL"] if index % 2 else ["AP", "PA"] if index % 10 == 4 else ["PA"]


def _write_film(
    stem: Path, study: DemoStudy, view: str, *, film_size: int, films: str, number: int
) -> None:
    lateral = view == "LATERAL"
    draw = draw_lateral if lateral else draw_frontal
    pixels, _ = draw(study.findings, study.poses[lateral], film_size)
    if films == "dcm" or (films == "mix" and number % 2):
        write_dicom(
            stem.with_suffix(".dcm"),
            pixels,
            view=int(lateral),
            photometric="MONOCHROME2",
            entropy=stem.name,
        )
    else:
        film = Image.fromarray((pixels * 255).round().astype(np.uint8))
        film.save(stem.with_suffix(".jpg"), quality=95)


if __name__ == "__main__":
    typer.run(write_tree)
