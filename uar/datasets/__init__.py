"""Raw layouts. Each reader is one file and one entry in `READERS`; all give the same `Dataset`."""

from __future__ import annotations

from uar.config import DatasetParams
from uar.datasets import demo, r2gen
from uar.datasets.study import BOX_COLUMNS, STUDY_COLUMNS, Dataset, Reader, Study
from uar.errors import UserError

READERS: dict[str, Reader] = {
    "demo": demo.read,
    "iu_xray": r2gen.read,
    "mimic_cxr": r2gen.read,
}

__all__ = ["BOX_COLUMNS", "READERS", "STUDY_COLUMNS", "Dataset", "Study", "read_dataset"]


def read_dataset(params: DatasetParams) -> Dataset:
    """Read the raw data set that `params.name` and `params.root` point at.

    Raises:
        UserError: unknown name, missing root, or any fault the reader finds.
    """
    if params.name not in READERS:
        raise UserError(f"dataset.name: found {params.name!r}, expected one of {sorted(READERS)}.")
    return READERS[params.name](params)
