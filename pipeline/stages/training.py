"""What both training stages do alike."""

from __future__ import annotations

import logging
import shutil
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dvclive import Live

from pipeline import paths
from pipeline.inputs import Inputs
from pipeline.provenance import stages
from uar.core.config import Params, StageParams
from uar.core.device import describe
from uar.core.files import sha256, write_json
from uar.core.runs import Run, read_runs, record_run
from uar.model.checkpoint import Checkpoint
from uar.model.uar import UAR
from uar.training.objective import Objective
from uar.training.stage import train_stage
from uar.training.validation import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)

SHORT = {  # in the names of metrics that DVC lists, so that they fit a terminal
    **{f"BLEU-{n}": f"B{n}" for n in (1, 2, 3, 4)},
    "ROUGE-L": "RL",
    "CIDEr": "C",
    "cross_entropy": "CE",
}


def run_stage(
    name: str,
    fabric: Fabric,
    params: Params,
    inputs: Inputs,
    model: UAR,
    stage: StageParams,
    out: Path,
    start: Path | None = None,
    restart: bool = False,
) -> None:
    """Train `model`, log each epoch with DVCLive and save the best one to `out`.

    Args:
        name: of the stage, for its logs and its resume file.
        fabric: the processes that train together; the first one writes and logs.
        start: checkpoint the stage starts from.
        restart: do not resume an earlier, killed run.
    """
    scratch = paths.SCRATCH / f"train_{name}"
    if restart and fabric.is_global_zero:
        shutil.rmtree(scratch, ignore_errors=True)
    fabric.barrier()
    live_or_not = (
        Live(str(paths.LOGS / name), dvcyaml=None, save_dvc_exp=False)
        if fabric.is_global_zero
        else nullcontext()
    )
    with live_or_not as live:

        def record(epoch: int, values: dict[str, float]) -> None:
            assert live is not None  # told of epochs on the first process alone
            live.step = epoch
            for metric, value in sorted(values.items()):  # as a resumed run has them
                live.log_metric(metric, value)
            live.make_summary()

        studies = inputs.studies("train")
        findings = studies.findings if params.model.findings else None
        trained = train_stage(
            fabric,
            model,
            studies,
            Validation(inputs.studies("val"), inputs.vocabulary, params.decode, fabric),
            Objective.of_stage(params.train, model.params.tir, findings),
            params.train,
            stage,
            number=1 if start is None else 2,
            from_start=start is not None and params.train.two_stage,
            precision=params.precision,
            seed=params.train.seed,
            encoder_sha256=inputs.encoder_sha256,
            scratch=scratch,
            identity=stages()[f"train_{name}"].identity(params),
            on_epoch=record,
        )
    if trained is not None:
        best = trained.best
        best.save(out)
        log_run(out, start, fabric, trained.seconds)
        score = best.validation[params.train.select_by]
        write_selected(name, {params.train.select_by: score})
        log.info(
            f"{name}: best epoch {best.epoch}, validation {params.train.select_by} {score:.4f}"
        )


def log_run(out: Path, start: Path | None, fabric: Fabric, seconds: float) -> None:
    """Note where and how long a checkpoint was trained, its predecessor's time included."""
    log_path = paths.in_project(paths.RUN_LOG)
    before: str | None = None
    total: float | None = seconds
    if start is not None:
        before = sha256(start)
        earlier = read_runs(log_path).get(before)
        known = earlier.seconds if earlier else None
        total = None if known is None else known + seconds
    record_run(
        log_path,
        Run(
            checkpoint=sha256(out),
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


def save_untrained(model: UAR, inputs: Inputs, name: str, fabric: Fabric, out: Path) -> None:
    """Save `model` as it is, with empty logs: the stage has nothing to train."""
    Live(str(paths.LOGS / name), dvcyaml=None, save_dvc_exp=False).make_summary()
    (paths.LOGS / name / "plots").mkdir(parents=True, exist_ok=True)
    weights = model.state_dict()
    Checkpoint.of(model, weights, inputs.encoder_sha256, epoch=0, validation={}).save(out)
    log_run(out, None, fabric, seconds=0.0)
    write_selected(name, {})
