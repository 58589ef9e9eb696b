"""Results of runs made stage by stage in folders of their own, without DVC."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.experiments.dvc import code_in, commit_of, head
from pipeline.experiments.results import Result, curves, without_places, without_reports
from pipeline.experiments.rows import SEED, Ablations, digest, flat, overridden, run_name
from pipeline.provenance import MAY_DIFFER, ROOT, makers, stages, tracked_keys
from uar.core.errors import UserError
from uar.core.files import read_json
from uar.core.params_file import known_keys, load_params, parse_params, read_raw
from uar.core.provenance import Record, check_origins
from uar.core.runs import TrainingRun, read_runs
from uar.evaluation.summary import headline

log = logging.getLogger(__name__)

# The stages behind a result; code from before there was a stage three lacks that one.
_SCORED = ("train_stage_one", "train_stage_two", "train_stage_three", "evaluate")


def read_folder(folder: Path, ablations: Ablations) -> Result:
    """Read the run in a folder that is laid out like the project's.

    Its code is the folder's, if it has any, else the code that is running.

    Raises:
        UserError: something is missing; its files do not belong to one run, to its params.yaml and
            to its code; or its parameters match no row of any table.
    """
    root = folder.resolve() if (folder / "pipeline").is_dir() else ROOT
    flat_params = read_params(folder, root)
    row = ablations.name_of(flat_params)
    if row is None:
        keys = ", ".join(f"{key} {flat_params[key]}" for key in ablations.whole)
        raise UserError(f"{folder}: its parameters match no row of {paths.ABLATIONS}: {keys}.")
    refuse_mixed(folder, flat_params, root)
    details = read_json(folder / paths.DETAILS)
    if headline(details) != read_json(folder / paths.METRICS):
        raise UserError(
            f"{folder}: {paths.METRICS} and {paths.DETAILS} are from two evaluations; "
            "`python -m pipeline evaluate` in that folder writes both again."
        )
    code = code_in(root)
    commit, known = commit_of(code), recorded(folder, root)
    if not known:
        log.warning(f"{folder}: its records do not name its code; the commit is that of its files")
    run = read_runs(paths.RUN_LOG) | read_runs(folder / paths.RUN_LOG)
    trained = run.get(details["checkpoint_sha256"])
    return Result(
        experiment=run_name(row, flat_params, tracked=tracked_keys(root), code=code),
        commit=commit or head(),
        clean=commit is not None if known else None,
        code=code if known else None,
        data=digest(details["data_sha256"]),
        finished=_finished(folder, trained),
        seed=flat_params[SEED],
        device=trained.device if trained else None,
        seconds=trained.seconds if trained else None,
        params=without_places(overridden({}, flat_params)),
        details=without_reports(details),
        analysis=read_json(folder / paths.ANALYSIS_DETAILS) if _analyzed(folder) else {},
        curves=curves(details, lambda path: _content(folder / path)),
    )


def read_params(folder: Path, root: Path) -> dict[str, Any]:
    """A folder's params.yaml, flat, in the form that records have.

    The folder's own code, in `root`, may be older or newer than the code that is running: keys that
    the running code does not know stay as written, and keys that were added later are absent.
    """
    path = folder / paths.PARAMS
    if root == ROOT:
        return flat(load_params(path).model_dump(mode="json"))
    written, known = flat(read_raw(path)), known_keys()
    common = {key: value for key, value in written.items() if key in known}
    later = overridden(read_raw(paths.PARAMS), common)
    params = flat(parse_params(later, str(path)).model_dump(mode="json"))
    return {key: params.get(key, value) for key, value in written.items()}


def refuse_mixed(folder: Path, params: dict[str, Any], root: Path) -> None:
    """Compare all files of a folder's training and evaluation with its records.

    Raises:
        UserError: files are of two runs, of parameters other than params.yaml's, or of other code.
    """
    names = [*_scored(root), *(["analyze"] if _analyzed(folder) else [])]
    files = [path for name in names for path in stages(root)[name].outs]
    compared = {key: value for key, value in params.items() if not key.startswith(MAY_DIFFER)}
    try:
        check_origins(files, compared, makers=makers(root), records=paths.PROVENANCE, folder=folder)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    for name in names:
        record, stage = Record.load(folder / stages(root)[name].record), stages(root)[name]
        of_training = name.startswith("train_")
        for key in () if of_training else set(record.params) & params.keys() - compared.keys():
            if record.params[key] != params[key]:
                raise UserError(
                    f"{folder}: {name} was run with {key} {record.params[key]}, but {paths.PARAMS} "
                    f"says {params[key]}. Run the stage again."
                )
        if record.code is not None and record.code != stage.code_hash(root):
            raise UserError(
                f"{folder}: {name} was run with code other than what {root} holds now. Restore "
                "the earlier code, or run the stage again."
            )


def recorded(folder: Path, root: Path) -> bool:
    """Whether the records say which code made the run."""
    records = (Record.load(folder / stages(root)[name].record) for name in _scored(root))
    return all(record.code is not None for record in records)


def _scored(root: Path) -> list[str]:
    return [name for name in _SCORED if name in stages(root)]


def _analyzed(folder: Path) -> bool:
    return (folder / paths.ANALYSIS_DETAILS).is_file()


def _finished(folder: Path, trained: TrainingRun | None) -> str:
    """When the run finished, in this machine's time, as DVC gives it."""
    if trained is not None:
        then = datetime.fromisoformat(trained.finished).astimezone()
    else:
        then = datetime.fromtimestamp((folder / paths.DETAILS).stat().st_mtime)
    return then.replace(tzinfo=None).isoformat(timespec="seconds")


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
