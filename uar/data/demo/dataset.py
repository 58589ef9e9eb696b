"""The demo data set as files: the R2Gen packaging and a table of boxes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pydicom.dataset import Dataset as Dicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from uar.core.errors import UserError
from uar.core.files import write_json, write_table
from uar.core.progress import progress
from uar.data.demo.canvas import Pixels, Pose
from uar.data.demo.findings import Finding, sample_findings
from uar.data.demo.frontal import draw_frontal
from uar.data.demo.lateral import draw_lateral
from uar.data.demo.wording import write_report
from uar.data.study import BOX_COLUMNS, SPLITS, Box, Split

# 70 / 10 / 20 within every ten studies.
_SPLIT_OF: dict[str, Split] = {"r": "train", "v": "val", "t": "test"}
SPLIT_CYCLE = tuple(_SPLIT_OF[letter] for letter in "rrtrrvrtrr")

_DRAW: tuple[Callable[..., tuple[Pixels, dict[Finding, Box]]], ...] = (draw_frontal, draw_lateral)


@dataclass(frozen=True)
class DemoStudy:
    """Everything that determines a study's files."""

    study_id: str  # demo0001, ...
    split: Split
    findings: tuple[Finding, ...]  # drawn and reported; none in a normal study
    report: str  # raw text
    poses: tuple[Pose, Pose]  # of the frontal and the lateral film
    formats: tuple[str, str]  # likewise: png | MONOCHROME1 | MONOCHROME2


def sample_study(seed: int, index: int) -> DemoStudy:
    """Study number `index` (from 0) of the data set with this seed; its films are not drawn yet."""
    # One stream each, so that wording and film are related only through the findings.
    streams = np.random.SeedSequence([seed, index]).spawn(4)
    what, how, words, files = (np.random.default_rng(stream) for stream in streams)
    findings = sample_findings(what)
    frontal = Pose.sample(how)
    lateral = replace(Pose.sample(how), wander=frontal.wander)  # the same lesion
    formats = files.choice(["png", "MONOCHROME1", "MONOCHROME2"], size=2, p=[0.5, 0.25, 0.25])
    return DemoStudy(
        study_id=f"demo{index + 1:04d}",
        split=SPLIT_CYCLE[index % len(SPLIT_CYCLE)],
        findings=findings,
        report=write_report(findings, words),
        poses=(frontal, lateral),
        formats=(str(formats[0]), str(formats[1])),
    )


def write_dataset(root: Path, *, studies: int, film_size: int, seed: int) -> None:
    """Write the data set to the folder `root`, replacing an earlier one.

    Args:
        root: holds `annotation.json`, `images/` and `boxes.parquet` once complete.
        studies: number of studies.
        film_size: width of a film in pixels; half of the films are up to 15% taller.
        seed: for findings, films and wording.

    Raises:
        UserError: `root` holds something other than a generated data set.
    """
    if root.exists() and not (root / "boxes.parquet").is_file() and any(root.iterdir()):
        raise UserError(
            f"dataset.root: {root} holds files but no generated data set (boxes.parquet). "
            "The demo would replace them. Name an empty or new folder."
        )
    partial, earlier = (root.with_name(f".{root.name}.{state}") for state in ("partial", "earlier"))
    for left in (partial, earlier):  # left by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    annotation: dict[Split, list[dict[str, object]]] = {split: [] for split in SPLITS}
    boxes: list[tuple[object, ...]] = []
    for index in progress(range(studies), "demo", studies, unit="study"):
        study = sample_study(seed, index)
        folder = partial / "images" / study.study_id
        folder.mkdir(parents=True)
        names: list[str] = []
        drawn = zip(_DRAW, study.poses, study.formats, strict=True)
        for view, (draw, pose, form) in enumerate(drawn):
            pixels, found = draw(study.findings, pose, film_size)
            name = f"{view}.png" if form == "png" else f"{view}.dcm"
            if form == "png":
                Image.fromarray((pixels * 255).round().astype(np.uint8)).save(folder / name)
            else:
                write_dicom(
                    folder / name, pixels, view=view, photometric=form, entropy=f"{seed}/{index}"
                )
            names.append(f"{study.study_id}/{name}")
            boxes += [(study.study_id, view, key.name, *box) for key, box in found.items()]
        annotation[study.split].append(
            {
                "id": study.study_id,
                "report": study.report,
                "image_path": names,
                "split": study.split,
            }
        )
    write_json(partial / "annotation.json", annotation)
    write_table(partial / "boxes.parquet", pd.DataFrame(boxes, columns=BOX_COLUMNS))
    if root.exists():
        root.rename(
            earlier
        )  # not deleted in place: half a data set would look like someone else's files
    partial.rename(root)
    shutil.rmtree(earlier, ignore_errors=True)


def write_dicom(path: Path, pixels: Pixels, *, view: int, photometric: str, entropy: str) -> None:
    """Write uncompressed DICOM: 12 bits in uint16, UIDs from `entropy`, no patient data."""
    inverted = photometric == "MONOCHROME1"
    stored = (256 + pixels * 3583).round().astype(np.uint16)
    if inverted:
        stored = 4095 - stored

    def uid(*level: str) -> str:
        return generate_uid(entropy_srcs=["demo", entropy, *level])

    film = Dicom()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.SOPInstanceUID = uid("instance", str(view))
    film.StudyInstanceUID = uid("study")
    film.SeriesInstanceUID = uid("series", str(view))
    film.PatientName = film.PatientID = film.PatientBirthDate = film.PatientSex = ""
    film.StudyDate = film.StudyTime = film.AccessionNumber = film.ReferringPhysicianName = ""
    film.StudyID = film.Manufacturer = ""
    film.SeriesNumber = film.InstanceNumber = view + 1
    film.Modality = "DX"
    film.PresentationIntentType = "FOR PRESENTATION"
    film.BodyPartExamined = "CHEST"
    film.ViewPosition = ("PA", "LL")[view]
    film.PatientOrientation = (["L", "F"], ["P", "F"])[view]
    film.ImageLaterality = "U"
    film.BurnedInAnnotation = "NO"
    film.SamplesPerPixel = 1
    film.PhotometricInterpretation = photometric
    film.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    film.PixelIntensityRelationship = "LOG"
    film.PixelIntensityRelationshipSign = 1 if inverted else -1
    film.Rows, film.Columns = stored.shape
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
    film.PixelRepresentation = 0
    film.RescaleSlope, film.RescaleIntercept, film.RescaleType = 1, 0, "US"
    film.WindowCenter, film.WindowWidth = 2048, 3584
    film.PixelData = stored.astype("<u2").tobytes()
    film.save_as(path, enforce_file_format=True)
