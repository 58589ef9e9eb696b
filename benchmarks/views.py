"""`python -m benchmarks.views ROOT`: how well `ingest` tells the views of films in no table.

ROOT holds IU X-Ray in R2Gen's packaging: two films per study, and a table of their views. The views
of a fifth of the studies at a time are hidden, and told by what is learned from the others.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from uar.core.params_file import load_params
from uar.data.readers import checked_layout
from uar.data.readers.told_views import tell_views

_FOLDS = 5


def main() -> None:
    """Print the counts."""
    params = load_params(Path(__file__).parents[1] / "params.yaml").dataset.model_copy(
        update={"name": "iu_xray", "layout": "r2gen", "root": Path(sys.argv[1])}
    )
    dataset = checked_layout(params).read(params)
    stated = np.array([study.views for study in dataset.studies])
    told = np.empty_like(stated)
    for fold in range(_FOLDS):
        hidden = replace(
            dataset,
            studies=[
                replace(study, views=("unknown", "unknown")) if i % _FOLDS == fold else study
                for i, study in enumerate(dataset.studies)
            ],
        )
        found = np.array([study.views for study in tell_views(hidden, workers=1).studies])
        told[fold::_FOLDS] = found[fold::_FOLDS]
    frontal = stated == "frontal"
    first = np.argmax(told == "frontal", axis=1)  # the film taken where a study has one
    none = (told == "lateral").all(axis=1)
    lateral = ~np.take_along_axis(frontal, first[:, None], axis=1)[:, 0]
    possible = frontal.any(axis=1)
    swapped = (told == ("lateral", "frontal")).all(axis=1) & frontal[:, 0] & ~frontal[:, 1]
    kept = ~(told == ("lateral", "frontal")).all(axis=1) & ~frontal[:, 0] & frontal[:, 1]
    print(f"films told wrongly: {(told != stated).sum()} of {stated.size}")
    print(f"studies with a frontal film: {possible.sum()} of {len(stated)}")
    print(f"  one film a study: a lateral one is taken in {(possible & lateral & ~none).sum()}")
    print(f"  one film a study: {(possible & none).sum()} left out as having none")
    print(f"  two films a study: the lateral one is put first in {(swapped | kept).sum()}")


if __name__ == "__main__":
    main()
