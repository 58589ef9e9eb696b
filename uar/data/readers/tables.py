"""CSV files as tables of text."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from uar.core.errors import UserError
from uar.core.files import not_utf8


def read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read `columns` of a CSV file (also `.gz`) as strings; an empty cell is "".

    Raises:
        UserError: the file is missing, is not UTF-8 CSV, is truncated, or lacks a column.
    """
    try:
        table = pd.read_csv(
            path,
            usecols=lambda column: column in columns,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            encoding="utf-8-sig",
        )
        if len(table.columns) < len(columns):
            found = pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns
            lacking = [column for column in columns if column not in table]
            raise UserError(
                f"{path} lacks the column {', '.join(lacking)}; found {', '.join(map(str, found))}."
            )
    except FileNotFoundError:
        raise UserError(f"{path} is missing.") from None
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path} is not CSV: {str(error).strip()}. Restore it.") from None
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} cannot be unpacked: {error}. Restore it.") from None
    return table[list(columns)]
