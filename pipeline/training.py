"""What the training stages share."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from dvclive import Live

from pipeline import paths
from pipeline.inputs import Inputs
from pipeline.provenance import stages
from uar.core.config import StageParams
from uar.core.device import describe, seed_everything
from uar.core.distributed import launch
from uar.core.files import atomic_write, existing, sha256, write_json
from uar.core.params_file import load_params
from uar.core.provenance import Scratch
from uar.core.runs import TrainingRun, read_runs, record_run
from uar.data.batches import MapSource, PixelSource
from uar.evaluation.safeguard import CHOSEN_BY
from uar.model.checkpoint import Checkpoint
from uar.model.ensemble import together
from uar.model.extractor import VisualExtractor
from uar.model.uar import UAR
from uar.training.maps import Films, make_maps
from uar.training.objective import Objective
from uar.training.self_critical import Critic
from uar.training.stage import TrainingConfig, TrainingData, train_stage
from uar.training.validation import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)

Restart = Annotated[bool, typer.Option(help="Do not resume a killed run.")]
Strategy = Annotated[
    Literal["ddp", "fsdp"],
    typer.Option(
        help="With several processes: ddp, each holds the whole model; fsdp, it is sharded."
    ),
]
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
        number: 1, 2 or 3.
        out: the checkpoint it makes.
        start: the one it starts from; None for the first stage.
    """

    name: str
    number: int
    out: Path
    start: Path | None = None


ONE = StageFiles("stage_one", 1, paths.STAGE_ONE)
TWO = StageFiles("stage_two", 2, paths.STAGE_TWO, start=paths.STAGE_ONE)
THREE = StageFiles("stage_three", 3, paths.STAGE_THREE, start=paths.STAGE_TWO)


def begin(strategy: str) -> tuple[Fabric, Inputs]:
    """Start the processes that train together, open what they read and seed every generator."""
    params = load_params(paths.PARAMS)
    fabric = launch(params.device, strategy)
    inputs = Inputs(params)
    seed_everything(params.train.seed)
    return fabric, inputs


def run_stage(
    files: StageFiles,
    fabric: Fabric,
    inputs: Inputs,
    *,
    model: UAR,
    stage: StageParams,
    restart: bool = False,
    critic: Critic | None = None,
) -> None:
    """Train `model`, log each epoch with DVCLive and save the best one.

    Args:
        files: which stage.
        fabric: the processes that train together; the first one writes and logs.
        inputs: vocabulary, studies and visual input.
        model: changed in place.
        stage: length and peak learning rate.
        restart: do not resume an earlier, killed run.
        critic: of stage three.
    """
    params = inputs.params
    scratch = stages()[f"train_{files.name}"].scratch(params)
    if restart and fabric.is_global_zero:
        shutil.rmtree(scratch.folder, ignore_errors=True)
    fabric.barrier()
    teachers = inputs.others(params.train.teachers if critic is None else (), model)
    read_maps = params.train.cache_maps and not teachers  # which may have other extractors
    if model.unifier is None and model.extractor.frozen and read_maps:
        inputs.visual = _make_maps(fabric, inputs, model.extractor, scratch)
    studies = inputs.studies("train")
    findings = studies.findings if params.model.findings else None
    data = TrainingData(
        studies=studies,
        validation=Validation(
            inputs.studies("val"),
            inputs.vocabulary,
            params.decode,
            fabric,
            None if critic is None else critic.reward,
        ),
        encoder_sha256=inputs.encoder_sha256,
        vocabulary_sha256=inputs.vocabulary.fingerprint(),
        teacher=together(teachers) if teachers else None,
    )
    config = TrainingConfig(
        number=files.number,
        stage=stage,
        objective=Objective.of_stage(params.train, model.params.tir != "none", findings),
        params=params.train,
        precision=params.precision,
        from_trained=files.start is not None and (params.train.two_stage or critic is not None),
        critic=critic,
    )
    with epoch_log(files.name, fabric) as record:
        trained = train_stage(
            fabric,
            model,
            data=data,
            config=config,
            scratch=scratch,
            on_epoch=record,
            on_speed=partial(_log_speed, files.name),
        )
    if trained is not None:
        best = trained.best
        best.save(files.out)
        log_run(files, fabric, trained.seconds)
        shown = (params.train.select_by,) if critic is None else (CHOSEN_BY, "F1")
        scores = {metric: best.validation[metric] for metric in shown}
        write_selected(files.name, scores)
        said = ", ".join(f"{metric} {score:.4f}" for metric, score in scores.items())
        log.info(f"{files.name}: best epoch {best.epoch}, validation {said}")
        if trained.refusal is not None:
            log.warning(f"{files.name} {trained.refusal}")


def _make_maps(
    fabric: Fabric, inputs: Inputs, extractor: VisualExtractor, of_stage: Scratch
) -> MapSource:
    """Make the maps of the films, shared by stages and experiments with the same extractor."""
    assert isinstance(inputs.visual, PixelSource)
    code, images = of_stage.identity["code"], str(paths.IMAGES)
    identity = {
        "code": {file: code[file] for file in code if file.startswith(_CODE_OF_MAPS)},
        "input": {images: of_stage.identity["input"][images]},
        "version": of_stage.identity["version"],
    }
    train, val = (inputs.studies(split).rows.ravel() for split in ("train", "val"))
    films = Films(inputs.visual, train, val)
    return make_maps(fabric, extractor, films, Scratch(paths.MAPS, identity))


@contextmanager
def epoch_log(name: str, fabric: Fabric) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Yield a function that logs an epoch's values with DVCLive, on the first process only."""
    if not fabric.is_global_zero:
        yield lambda epoch, values: None
        return
    with Live(str(paths.LOGS / name), dvcyaml=None, save_dvc_exp=False) as live:

        def record(epoch: int, values: dict[str, float]) -> None:
            live.step = epoch
            for metric, value in sorted(values.items()):  # the same order as in a resumed run
                live.log_metric(metric, value)
            live.make_summary()

        yield record


def _log_speed(name: str, epoch: int, values: dict[str, float]) -> None:
    """Log with DVCLive what differs from run to run, outside the files that DVC tracks."""
    with Live(str(paths.SPEED / name), dvcyaml=None, save_dvc_exp=False, resume=epoch > 1) as live:
        live.step = epoch
        for metric, value in values.items():
            live.log_metric(metric, value)


def log_run(files: StageFiles, fabric: Fabric, seconds: float) -> None:
    """Record where and for how long a checkpoint was trained, including earlier stages."""
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
        TrainingRun(
            checkpoint=sha256(files.out),
            start=before,
            seconds=total,
            device=describe(fabric.device),
            processes=fabric.world_size,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def write_selected(name: str, scores: dict[str, float]) -> None:
    """Write the chosen epoch's validation scores, by which settings are chosen, for DVC."""
    prefix = {"stage_one": "val1", "stage_two": "val2", "stage_three": "val3"}[name]
    values = {
        f"{prefix}_{SHORT.get(metric, metric)}": round(value, 4) for metric, value in scores.items()
    }
    write_json(paths.LOGS / name / "selected.json", values)


def save_untrained(files: StageFiles, fabric: Fabric, inputs: Inputs, model: UAR) -> None:
    """Save `model` as it is, with empty logs: the stage has nothing to train."""
    _log_nothing(files)
    untrained = Checkpoint.of(
        model,
        model.state_dict(),
        encoder_sha256=inputs.encoder_sha256,
        epoch=0,
        validation={},
        vocabulary_sha256=inputs.vocabulary.fingerprint(),
    )
    untrained.save(files.out)
    log_run(files, fabric, seconds=0.0)


def hand_on(files: StageFiles) -> None:
    """Copy the checkpoint that a stage starts from as its own, byte for byte, with empty logs."""
    assert files.start is not None
    _log_nothing(files)
    with atomic_write(files.out) as out:
        shutil.copyfile(existing(files.start), out)


def _log_nothing(files: StageFiles) -> None:
    folder = paths.LOGS / files.name
    Live(str(folder), dvcyaml=None, save_dvc_exp=False).make_summary()
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    write_selected(files.name, {})
