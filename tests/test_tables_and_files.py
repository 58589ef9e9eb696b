"""Tables signed anew by hand, and files of others' reports: one sentence for each fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from uar.core.errors import UserError
from uar.core.files import write_table
from uar.data.study import BOX_COLUMNS, REPORT_COLUMNS, STUDY_COLUMNS, read_checked
from uar.evaluation.formats import read_reports
from uar.evaluation.predictions import read_predictions


def reports() -> pd.DataFrame:
    rows = [
        (f"s{i}", split, "A heart.", ["frontal", "lateral"], "a heart .", ["Edema"])
        for i, split in enumerate(("train", "val", "test"))
    ]
    return pd.DataFrame(rows, columns=REPORT_COLUMNS)


def studies() -> pd.DataFrame:
    rows = [("s0", "train", "A heart.", ["a.png"], ["frontal"])]
    return pd.DataFrame(rows, columns=STUDY_COLUMNS)


def boxes(**changes: Any) -> pd.DataFrame:
    corners = dict.fromkeys(("x0", "y0", "x1", "y1"), 0.5)
    row = {"study_id": "s0", "view": 0, "finding": "pacemaker", **corners}
    return pd.DataFrame([row | changes], columns=BOX_COLUMNS)


def cell(column: str, value: Any) -> Callable[[], pd.DataFrame]:
    def change() -> pd.DataFrame:
        table = reports()
        table[column] = [*table[column][:1], value, *table[column][2:]]
        return table

    return change


@pytest.mark.parametrize(
    ("make", "columns", "said"),
    [
        (lambda: reports().drop(columns="cleaned"), REPORT_COLUMNS, "lacks the column cleaned"),
        (lambda: pd.concat([reports()] * 2), REPORT_COLUMNS, "has the study s0 twice"),
        (cell("split", "dev"), REPORT_COLUMNS, "row 1: split is 'dev', expected one of train, val"),
        (cell("split", None), REPORT_COLUMNS, "row 1: split is (nan|None), expected one of"),
        (cell("study_id", None), REPORT_COLUMNS, "row 1: study_id is (nan|None), expected a name"),
        (cell("study_id", ""), REPORT_COLUMNS, "row 1: study_id is '', expected a name"),
        (cell("report", None), REPORT_COLUMNS, "row 1: report is (nan|None), expected text"),
        (cell("cleaned", None), REPORT_COLUMNS, "row 1: cleaned is (nan|None), expected text"),
        (cell("views", None), REPORT_COLUMNS, "row 1: views is None, expected views"),
        (cell("views", ["up"]), REPORT_COLUMNS, "row 1: views is .*up.*, expected views"),
        (cell("findings", None), REPORT_COLUMNS, "row 1: findings is None, expected names"),
        (lambda: studies().assign(image_paths=[[]]), STUDY_COLUMNS, "row 0: image_paths is"),
        (lambda: studies().assign(report=[5]), STUDY_COLUMNS, "row 0: report is 5, expected text"),
        (lambda: boxes(x0=np.nan), BOX_COLUMNS, "row 0: x0 is nan, expected a share of the film"),
        (lambda: boxes(y1=7.0), BOX_COLUMNS, "row 0: y1 is 7.0, expected a share of the film"),
        (lambda: boxes(view=2), BOX_COLUMNS, "row 0: view is 2, expected 0 or 1"),
        (lambda: boxes(finding=None), BOX_COLUMNS, "row 0: finding is (nan|None), expected text"),
    ],
)
def test_a_forged_table_is_refused_by_cell(
    tmp_path: Path, make: Callable[[], pd.DataFrame], columns: list[str], said: str
) -> None:
    write_table(tmp_path / "x.parquet", make())
    with pytest.raises(UserError, match=rf"x\.parquet.* {said}.*dvc repro"):
        read_checked(tmp_path / "x.parquet", columns)


@pytest.mark.parametrize(
    ("make", "columns"),
    [(reports, REPORT_COLUMNS), (studies, STUDY_COLUMNS), (boxes, BOX_COLUMNS),
     (lambda: boxes()[:0], BOX_COLUMNS), (lambda: boxes(study_id="s"), ["study_id"])],
)  # fmt: skip
def test_a_tables_own_rows_are_let_through(
    tmp_path: Path, make: Callable[[], pd.DataFrame], columns: list[str]
) -> None:
    write_table(tmp_path / "x.parquet", make())
    assert len(read_checked(tmp_path / "x.parquet", columns)) == len(make())


LONG = "word " * 300_000
RECORD = {"study_id": "s", "report": "r", "reference": "r", "generated": "g", "log_probability": 0}
FILES: dict[str, tuple[str, bytes, str]] = {
    "nested": ("x.json", b"[" * 100_000, "x.json: "),
    "nested lines": ("x.jsonl", b"[" * 100_000 + b"\n", "x.jsonl"),
    "an endless number": ("x.json", b"1" * 10_000, "x.json: "),
    "an endless number in a line": (
        "x.jsonl", json.dumps(RECORD).replace("0}", "1" * 10_000 + "}").encode(), "x.jsonl",
    ),
    "a probability without end": (
        "x.jsonl", json.dumps(RECORD | {"log_probability": float("nan")}).encode(), "is nan",
    ),
    "study_ids 5": (
        "x.json", b'{"references": [], "hypotheses": [], "study_ids": 5}', "are not lists",
    ),
    "val 5": ("x.json", b'{"train": [], "val": 5, "test": []}', "val is not a list of studies"),
    "a record that is a number": (
        "x.json", b'{"train": [], "val": [], "test": [7]}', "test, place 0: not a study with an id",
    ),
    "a record without a report": (
        "x.json", b'{"train": [], "val": [], "test": [{"id": "a"}]}', "study a: found None where",
    ),
    "a study twice": (
        "x.json",
        b'{"train": [], "val": [], "test": [{"id": 1, "report": ""}, {"id": "1", "report": ""}]}',
        "study 1 occurs twice",
    ),
    "half a character": (
        "x.json", b'{"references": ["a\\ud800"], "hypotheses": ["b"]}',
        "surrogate pair at position 1",
    ),
    "half a character in a line": (
        "x.jsonl", json.dumps(RECORD | {"generated": "\ud800"}).encode(), "generated: .*surrogate",
    ),
    "words without end": (
        "x.json", json.dumps({"references": ["a"], "hypotheses": [LONG]}).encode(), "300,001 words",
    ),
    "lines of words without end": ("x.txt", LONG.encode(), "more than 10,000: not a report"),
    "Excel's CSV": ("x.csv", "study_id,report\n1,café\n".encode("cp1252"), "not UTF-8.*Save it"),
    "a CSV of more cells": ("x.csv", b"a,b\n1,2,3\n", "found 3 cells, expected 2"),
    "a CSV of fewer cells": ("x.csv", b"study_id,report\n1\n", "found 1 cells, expected 2"),
    "a CSV with a cell without end": (
        "x.csv", b"study_id,report\n1," + b"x" * 200_000, "field larger than",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_an_odd_file_of_reports_is_refused_by_a_sentence(tmp_path: Path, name: str) -> None:
    file, content, said = FILES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=f"(?s){said}") as caught:
        read_reports(tmp_path / file, "findings")
    assert file in str(caught.value) and len(str(caught.value)) < 600
    if file == "x.jsonl":
        with pytest.raises(UserError):
            read_predictions(tmp_path / file)
