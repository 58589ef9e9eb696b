"""The generated data set (`uar.data.demo`), made before it is read."""

from __future__ import annotations

from dataclasses import replace

from uar.core.config import DatasetParams
from uar.core.files import read_table
from uar.data.demo import write_dataset
from uar.data.readers import r2gen
from uar.data.study import Dataset, Layout, View


def read(params: DatasetParams) -> Dataset:
    """Generate the data set at `params.root` as `params.demo` says, and read it.

    Raises:
        UserError: as in `write_dataset`.
    """
    of = params.demo
    write_dataset(params.root, studies=of.studies, film_size=of.film_size, seed=of.seed)
    dataset = r2gen.read(params)
    views: tuple[View, ...] = ("frontal", "lateral")
    return Dataset(
        [replace(study, views=views) for study in dataset.studies],
        dataset.images,
        read_table(params.root / "boxes.parquet"),
    )


LAYOUT = Layout(read, "nothing or an earlier demo", marker=None)
