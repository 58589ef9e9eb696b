"""What every stage does alike: compare its inputs before work, record its outputs after."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from typing import Any

from pipeline import paths


def as_stage(name: str, function: Callable[..., None]) -> Callable[..., None]:
    """A stage's function, run between the check of its inputs and the record of its outputs.

    Its scratch folder goes last: killed at any time before, the stage finds its work again.
    """

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        from pipeline.provenance import stages
        from uar.core.config import load_params

        params = load_params(paths.PARAMS)
        stage = stages()[name]
        stage.check(params)
        function(*arguments, **options)
        if _first_process():
            stage.write_record(params)
            shutil.rmtree(paths.SCRATCH / name, ignore_errors=True)

    return run


def _first_process() -> bool:
    """Whether this is the process that writes, of those that torchrun or Slurm started."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
