"""What both training stages do alike."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dvclive import Live

from pipeline import paths
from pipeline.inputs import Inputs
from pipeline.provenance import stages
from uar.core.config import StageParams
from uar.core.device import describe
from uar.core.files import sha256, write_json
from uar.core.provenance import Scratch
from uar.core.runs import Run, read_runs, record_run
from uar.data.batches import MapSource, PixelSource
from uar.model.checkpoint import Checkpoint
from uar.model.extractor import VisualExtractor
from uar.model.uar import UAR
from uar.training.maps import Films, make_maps
from uar.training.objective import Objective
from uar.training.stage import Recipe, Task, train_stage
from uar.training.validation import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)

STRATEGY = "Of several processes: ddp, each holds the model whole; fsdp, it is sharded over them."
SHORT = {  # in the names of metrics that DVC lists, so that they fit a terminal
    **{f"BLEU-{n}": f"B{n}" for n in (1, 2, 3, 4)},
    "ROUGE-L": "RL",
    "CIDEr": "C",
    "cross_entropy": "CE",
}
_CODE_OF_MAPS = (
    "uar/data/batches.py",
    "uar/data/views.py",
    "uar/model/extractor.py",
    "uar/networks/",
    "uar/training/maps.py",
)


@dataclass(frozen=True)
class StageFiles:
    """A training stage and the checkpoints it reads and writes.

    Args:
        name: of its logs.
        number: 1 or 2.
        out: the checkpoint it makes.
        start: the one it starts from, None at the beginning.
    """

    name: str
    number: int
    out: Path
    start: Path | None = None


ONE = StageFiles("stage_one", 1, paths.STAGE_ONE)
TWO = StageFiles("stage_two", 2, paths.STAGE_TWO, start=paths.STAGE_ONE)


def run_stage(
    files: StageFiles,
    fabric: Fabric,
    inputs: Inputs,
    model: UAR,
    stage: StageParams,
    restart: bool = False,
) -> None:
    """Train `model`, log each epoch with DVCLive and save the best one.

    Args:
        files: which stage.
        fabric: the processes that train together; the first one writes and logs.
        inputs: the stage's.
        model: changed in place.
        stage: length and peak learning rate.
        restart: do not resume an earlier, killed run.
    """
    params = inputs.params
    scratch = stages()[f"train_{files.name}"].scratch(params)
    if restart and fabric.is_global_zero:
        shutil.rmtree(scratch.folder, ignore_errors=True)
    fabric.barrier()
    if model.unifier is None and model.extractor.frozen and params.train.cache_maps:
        inputs.visual = _make_maps(fabric, inputs, model.extractor, scratch)
    studies = inputs.studies("train")
    findings = studies.findings if params.model.findings else None
    task = Task(
        studies,
        Objective.of_stage(params.train, model.params.tir != "none", findings),
        Validation(inputs.studies("val"), inputs.vocabulary, params.decode, fabric),
        inputs.encoder_sha256,
    )
    recipe = Recipe(
        number=files.number,
        stage=stage,
        params=params.train,
        precision=params.precision,
        from_start=files.start is not None and params.train.two_stage,
    )
    with epoch_log(files.name, fabric) as record:
        trained = train_stage(
            fabric, model, task, recipe, scratch, record, partial(_log_speed, files.name)
        )
    if trained is not None:
        best, select_by = trained.best, params.train.select_by
        best.save(files.out)
        log_run(files, fabric, trained.seconds)
        score = best.validation[select_by]
        write_selected(files.name, {select_by: score})
        log.info(f"{files.name}: best epoch {best.epoch}, validation {select_by} {score:.4f}")


def _make_maps(
    fabric: Fabric, inputs: Inputs, extractor: VisualExtractor, of_stage: Scratch
) -> MapSource:
    """The maps of the films at hand, whichever stage and row asks for them."""
    assert isinstance(inputs.visual, PixelSource)
    code, films = of_stage.identity["code"], str(paths.IMAGES)
    identity = {
        "code": {file: code[file] for file in code if file.startswith(_CODE_OF_MAPS)},
        "input": {films: of_stage.identity["input"][films]},
        "version": of_stage.identity["version"],
    }
    train, val = (inputs.studies(split).rows.ravel() for split in ("train", "val"))
    looked_at = Films(inputs.visual, train, val)
    return make_maps(fabric, extractor, looked_at, Scratch(paths.MAPS, identity))


@contextmanager
def epoch_log(name: str, fabric: Fabric) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """What takes down an epoch's values with DVCLive, on the first process alone."""
    if not fabric.is_global_zero:
        yield lambda epoch, values: None
        return
    with Live(str(paths.LOGS / name), dvcyaml=None, save_dvc_exp=False) as live:

        def record(epoch: int, values: dict[str, float]) -> None:
            live.step = epoch
            for metric, value in sorted(values.items()):  # as a resumed run has them
                live.log_metric(metric, value)
            live.make_summary()

        yield record


def _log_speed(name: str, epoch: int, values: dict[str, float]) -> None:
    """Take down with DVCLive what differs from run to run, apart from what DVC tracks."""
    with Live(str(paths.SPEED / name), dvcyaml=None, save_dvc_exp=False, resume=epoch > 1) as live:
        live.step = epoch
        for metric, value in values.items():
            live.log_metric(metric, value)


def log_run(files: StageFiles, fabric: Fabric, seconds: float) -> None:
    """Note where and how long a checkpoint was trained, its predecessor's time included."""
    log_path = paths.in_project(paths.RUN_LOG)
    before: str | None = None
    total: float | None = seconds
    if files.start is not None:
        before = sha256(files.start)
        earlier = read_runs(log_path).get(before)
        known = earlier.seconds if earlier else None
        total = None if known is None else known + seconds
    record_run(
        log_path,
        Run(
            checkpoint=sha256(files.out),
            start=before,
            seconds=total,
            device=describe(fabric.device),
            processes=fabric.world_size,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def write_selected(name: str, scores: dict[str, float]) -> None:
    """Validation scores of the chosen epoch, by which recipes are chosen: DVC's metrics."""
    prefix = {"stage_one": "val1", "stage_two": "val2"}[name]
    values = {f"{prefix}_{SHORT[metric]}": round(value, 4) for metric, value in scores.items()}
    write_json(paths.LOGS / name / "selected.json", values)


def save_untrained(files: StageFiles, fabric: Fabric, inputs: Inputs, model: UAR) -> None:
    """Save `model` as it is, with empty logs: the stage has nothing to train."""
    Live(str(paths.LOGS / files.name), dvcyaml=None, save_dvc_exp=False).make_summary()
    (paths.LOGS / files.name / "plots").mkdir(parents=True, exist_ok=True)
    weights = model.state_dict()
    Checkpoint.of(model, weights, inputs.encoder_sha256, epoch=0, validation={}).save(files.out)
    log_run(files, fabric, seconds=0.0)
    write_selected(files.name, {})
