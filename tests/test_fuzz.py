"""Any input to the report cleaner, the section parser, the annotation and the film reader.

A few hundred inputs each; `HYPOTHESIS_PROFILE=thorough pytest tests/test_fuzz.py` tries 10,000.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import dataset_params
from tests.film_files import lut, save, save_dicom
from uar.core.config import DatasetParams
from uar.core.errors import UserError
from uar.core.sections import read_sections
from uar.data.films import decode_film
from uar.data.readers import Dataset, read_dataset
from uar.data.study import SPLITS, leaves_folder
from uar.data.text import clean_iu_xray, clean_mimic_cxr

HEADERS = ["FINDINGS:", "Findings", "IMPRESSION:", "FINDINGS AND IMPRESSION:", "PA VIEW:", "HEART:"]
BREAKS = ["\n", "\r\n", "\n\n", " ", "\t", "____", ". ", "..", " 2. ", "1. ", "\u2028", ":"]
WORDS = ["Clear", "lungs", "T11", "<5", "Dr. ___ was paged.", "\u0130", "\ud800"]
PIECES = st.sampled_from([*HEADERS, *BREAKS, *WORDS])
REPORTS = st.one_of(st.text(), st.lists(PIECES | st.text(max_size=4), max_size=40).map("".join))
LONG = {
    "one letter": "A" * 1_000_000,
    "blanks": " " * 1_000_000,
    "lines": "\n" * 1_000_000,
    "headers": "FINDINGS:" * 100_000,
    "header lines": "FINDINGS: clear\n" * 60_000,
    "unknown headers": "".join(f"{'ABCDEFGHIJ'[i % 10] * (i % 79 + 1)}:\n" for i in range(60_000)),
    "one paragraph": "FINDINGS:\n" + "clear\n" * 150_000,
    "notes": "FINDINGS: clear" + "\n\nDr. ___ was paged" * 50_000,
    "stops": "." * 1_000_000,
    "underscores": "_" * 1_000_000,
    "numbers": " 2. 1. . 3. " * 80_000,
}


def check_cleaned(cleaned: str) -> None:
    assert cleaned.endswith(" .")
    assert not set(cleaned) & set(",?;*!%^&_+():<=>@[]{}\"'/\\")
    assert all(word == "." or "." not in word for word in cleaned.split())


@given(REPORTS)
def test_cleaner_takes_any_report(report: str) -> None:
    check_cleaned(clean_iu_xray(report))
    check_cleaned(clean_mimic_cxr(report))


def check_sections(report: str, sections: dict[str, str]) -> None:
    assert sections.keys() <= {"findings", "impression", "findings+impression"}
    for text in sections.values():
        assert text == " ".join(text.split())
        assert all(word in report for word in text.split())


@given(REPORTS)
def test_section_parser_takes_any_report(report: str) -> None:
    sections = read_sections(report)
    check_sections(report, sections)
    assert read_sections(f"{report}\nNOTIFICATION: any") == sections


@pytest.mark.parametrize("name", LONG)
def test_long_reports_take_linear_time(name: str) -> None:
    """A quadratic step on these would take hours."""
    check_cleaned(clean_iu_xray(LONG[name]))
    check_cleaned(clean_mimic_cxr(LONG[name]))
    sections = read_sections(LONG[name])
    assert sections.keys() <= {"findings", "impression", "findings+impression"}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Whole films of each kind that no decoder aborts on."""
    folder = tmp_path_factory.mktemp("films")
    gray = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    deep = np.arange(48, dtype=np.uint16).reshape(6, 8) * 80
    tags = {
        "WindowCenter": [600, 2000], "WindowWidth": [1001, 4000], "NumberOfFrames": 1,
        "RescaleSlope": 2, "RescaleIntercept": 5, "PixelPaddingValue": 0, "ViewPosition": "PA",
    }  # fmt: skip
    tables = {
        "VOILUTSequence": [lut(np.arange(16, dtype=np.uint16), 0, 16)],
        "ModalityLUTSequence": [lut(np.arange(4096, dtype=np.uint16), 0, 16)],
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [
        *(save(folder / f"{mode}.png", gray, mode) for mode in ("L", "LA", "RGBA", "P")),
        save(folder / "deep.png", deep),
        save(folder / "exif.jpg", gray, exif=exif),
        save_dicom(folder / "windows.dcm", deep, **tags),
        save_dicom(folder / "tables.dcm", deep, BitsStored=12, HighBit=11, **tables),
    ]
    return [path.read_bytes() for path in paths]


@given(data=st.data())
def test_damaged_films_are_read_or_refused(films: list[bytes], data: st.DataObject) -> None:
    film = bytearray(data.draw(st.sampled_from(films)))
    for place in data.draw(st.lists(st.integers(0, min(len(film), 1200) - 1), max_size=6)):
        film[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(film)))
    try:
        read = decode_film(io.BytesIO(bytes(film[:cut])), "film")
    except UserError as error:
        event("refused")
        assert str(error).startswith("film: ")
    else:
        event("read")
        assert read.pixels.dtype == np.uint8 and read.pixels.min() < read.pixels.max()


ODD_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
JSON = st.recursive(
    ODD_VALUES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)
FILMS = ["a/0.png", "a/1.png", "b.dcm"]
IMAGE_PATHS = st.sampled_from([*FILMS, "../b", "/etc/x", "C:\\x", "a\\..\\..\\b", "\0", ""])
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", "b", "c", "CXR2384_IM-0942"]) | JSON,
        "report": st.sampled_from(["Clear.", " ", "\ud800"]) | JSON,
        "image_path": st.lists(IMAGE_PATHS | st.text(max_size=4), max_size=3) | JSON,
        "split": st.sampled_from(SPLITS) | JSON,
    },
)


def whole_record(split: str, paths: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "id": st.text(min_size=1, max_size=3),
            "report": st.text(min_size=1, max_size=20),
            "image_path": st.lists(paths, min_size=1, max_size=3),
            "split": st.just(split),
        }
    )


ANNOTATIONS = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {},
        optional={
            split: st.lists(whole_record(split, IMAGE_PATHS) | RECORDS | JSON, max_size=3) | JSON
            for split in SPLITS
        },
    ),
    st.fixed_dictionaries(  # mostly whole
        {
            split: st.lists(whole_record(split, st.sampled_from(FILMS)), min_size=1, max_size=2)
            for split in SPLITS
        }
    ),
)


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> DatasetParams:
    return dataset_params("iu_xray", tmp_path_factory.mktemp("raw"), missing_view="repeat")


def read_or_refuse(params: DatasetParams) -> Dataset | None:
    try:
        dataset = read_dataset(params)
    except UserError:
        return None
    dataset.table().to_parquet(params.root / "table.parquet")
    for study in dataset.studies:
        assert study.report.strip()
        assert 1 <= len(study.image_paths) == len(study.views) <= 2
        assert not any(map(leaves_folder, study.image_paths))
    assert len({study.study_id for study in dataset.studies}) == len(dataset.studies)
    return dataset


@given(content=ANNOTATIONS)
def test_annotation_reader_takes_any_json(params: DatasetParams, content: Any) -> None:
    (params.root / "annotation.json").write_text(json.dumps(content))
    event("refused" if read_or_refuse(params) is None else "read")


@given(
    content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-16"))
)
def test_annotation_reader_takes_any_bytes(params: DatasetParams, content: bytes) -> None:
    (params.root / "annotation.json").write_bytes(content)
    assert read_or_refuse(params) is None


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 200_000, "1" * 100_000])
def test_annotation_without_end_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "annotation.json").write_text(content)
    with pytest.raises(UserError, match="annotation.json is not valid JSON"):
        read_dataset(dataset_params("iu_xray", tmp_path))
