"""One training stage (section 3.5): epochs, validation, selection, and resuming."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from uar.core.config import StageParams, TrainParams
from uar.core.device import autocast, make_deterministic
from uar.core.distributed import (
    full_state,
    gather_rows,
    load_full_state,
    whole_parameters,
)
from uar.core.errors import UserError
from uar.core.prefetch import prefetch
from uar.core.progress import progress_bar
from uar.core.schedule import warmup_cosine
from uar.data.batches import Batch, Shard, Studies
from uar.model.checkpoint import Checkpoint
from uar.model.uar import UAR
from uar.training.objective import Objective
from uar.training.resume import ResumeState, read_resume
from uar.training.validation import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule

log = logging.getLogger(__name__)

_READ_EVERY = 50  # steps between readings of the loss, each of which waits for the device


@dataclass(frozen=True)
class Trained:
    """What a stage ends with."""

    best: Checkpoint  # of the epoch that validation chose
    seconds: float  # of all epochs by the clock, those before a kill included


class TrainingStep(nn.Module):
    """Forward pass and loss of a micro-batch as one module, for DDP or FSDP to wrap.

    Args:
        compiled: pass the model through `torch.compile`; shapes never change (`Shard`).
    """

    def __init__(
        self, model: UAR, objective: Objective, fabric: Fabric, precision: str, compiled: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.gather = lambda rows: gather_rows(fabric, rows)
        self.autocast = lambda: autocast(fabric.device, precision)
        self.run = torch.compile(model.forward) if compiled else model.forward

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Terms by name, `loss` among them."""
        with self.autocast():
            _, terms = self.objective(self.run, batch, self.gather)
        return terms


def train_stage(
    fabric: Fabric,
    model: UAR,
    studies: Studies,
    validation: Validation,
    objective: Objective,
    params: TrainParams,
    stage: StageParams,
    *,
    number: int,
    from_start: bool,
    precision: str,
    seed: int,
    encoder_sha256: str | None,
    scratch: Path,
    identity: dict[str, Any],
    on_epoch: Callable[[int, dict[str, float]], None],
) -> Trained | None:
    """Train and return the best epoch by `params.select_by` on validation.

    Every epoch has a cross-entropy; its reports are scored every `params.report_every`-th and the
    last time. Candidates are the epochs with the value that chooses, and with `from_start` epoch 0,
    the model that the stage starts from, too. Of equal scores the lower cross-entropy wins, and
    then the later epoch.

    After each epoch everything needed to go on is in `scratch`: called again with the same
    `identity` after a kill, training goes on there with the same result as if never stopped.
    Batch order, crops and dropout are functions of seed, stage and epoch (dropout's of rank too).

    Args:
        fabric: the processes that train together (`uar.core.distributed.launch`).
        model: changed in place.
        studies: training split.
        validation: scores the model after each epoch.
        objective: Eq. 13.
        params: optimisation; `batch_size` is of all processes together.
        stage: length and peak learning rate.
        number: of the stage, 1 or 2, so that no two stages draw the same.
        from_start: the model is trained already, and may stay the best.
        precision: of the forward pass, see `uar.core.device.autocast`.
        seed: of batch order, crops and dropout.
        encoder_sha256: whose tokens the model reads, for the checkpoint.
        scratch: folder of the resume file, which every process can read.
        identity: what the run depends on; a resume file of another run is not used.
        on_epoch: receives each epoch (from 1, or 0 with `from_start`) and its values; on a resume,
            the past ones first. Called on rank 0 only.

    Returns:
        The best epoch on rank 0, None on the others.

    Raises:
        UserError: the loss is not finite.
    """
    make_deterministic(params.deterministic)
    step = fabric.setup_module(TrainingStep(model, objective, fabric, precision, params.compile))
    optimizer = make_optimizer(model, params, stage.learning_rate)
    steps = studies.training_steps(params.batch_size)
    epochs = stage.epochs_of(steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, warmup_cosine(epochs * steps, params.warmup)
    )
    resume = scratch / "resume.safetensors"
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    first = 0 if from_start else 1
    past: list[dict[str, float]] = []
    seconds = 0.0
    best: Checkpoint | None = None

    if fabric.is_global_zero:  # it moves a damaged file aside before the others look
        state = read_resume(resume, identity, shapes)
    fabric.barrier()
    if not fabric.is_global_zero:
        state = read_resume(resume, identity, shapes)
    if state is not None:
        load_full_state(model, optimizer, state.weights, state.optimizer)
        schedule.load_state_dict(state.schedule)
        past, best, seconds = state.past, state.best, state.seconds
        if fabric.is_global_zero:
            log.info(f"resuming after epoch {first + len(past) - 1} of {epochs} ({resume})")
    fabric.barrier()  # nobody overwrites the file before everybody has read it
    if fabric.is_global_zero:
        for epoch, values in enumerate(past, first):
            on_epoch(epoch, values)

    for epoch in range(first + len(past), epochs + 1):
        started = time.monotonic()
        means: dict[str, float] = {}
        if epoch:
            torch.manual_seed(_draw_seed(seed, number, epoch, 1 + fabric.global_rank))  # dropout
            order = torch.Generator()  # the same on every rank
            order.manual_seed(_draw_seed(seed, number, epoch, 0))
            title = f"epoch {epoch}/{epochs}"
            means = train_epoch(
                fabric, step, optimizer, schedule, studies, params, order, title, stage
            )
        written = epoch % params.report_every == 0 or epoch == epochs
        with whole_parameters(step):
            scores = validation(model, objective, written)
        weights, optimizer_state = full_state(model, optimizer)
        values = {f"train/{name}": mean for name, mean in means.items()}
        values |= {f"val/{name}": value for name, value in scores.items()}
        values["learning_rate"] = float(schedule.get_last_lr()[0])
        past.append(values)
        seconds += time.monotonic() - started
        if not fabric.is_global_zero:
            continue
        on_epoch(epoch, values)
        log.info(_line(epoch, values, params.select_by))
        candidate = params.select_by in scores
        if candidate and (best is None or _beats(scores, best.validation, params.select_by)):
            best = Checkpoint.of(model, weights, encoder_sha256, epoch, scores)
        ResumeState(weights, optimizer_state, schedule.state_dict(), past, best, seconds).save(
            resume, identity
        )
    return Trained(best, seconds) if fabric.is_global_zero and best else None


def _beats(scores: dict[str, float], best: dict[str, float], select_by: str) -> bool:
    """Whether a later epoch is better: higher score, or as high with no higher cross-entropy."""
    higher = () if select_by == "cross_entropy" else (select_by,)
    later, earlier = (
        (*(of[name] for name in higher), -of["cross_entropy"]) for of in (scores, best)
    )
    return later >= earlier


def train_epoch(
    fabric: Fabric,
    step: _FabricModule,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    studies: Studies,
    params: TrainParams,
    order: torch.Generator,
    title: str,
    stage: StageParams,
) -> dict[str, float]:
    """One pass over the training split.

    Returns:
        Each term's mean over the steps, and `clipped`, the share of steps whose gradient was
        longer than `params.gradient_clip`.
    """
    step.train()
    own_rate = set(map(id, _masks(step))) if params.mask_learning_rate is not None else set()
    clipped_ones = [weight for weight in step.parameters() if id(weight) not in own_rate]
    steps = studies.training_steps(params.batch_size)
    shard = Shard(fabric.global_rank, fabric.world_size, params.accumulate)
    batches = studies.training_batches(params.batch_size, order, shard)
    if fabric.device.type == "cuda":
        batches = ([batch.pin_memory() for batch in parts] for parts in batches)
    sums: dict[str, Tensor] = {}
    means: dict[str, float] = {}
    bar = progress_bar(title, steps, shown=fabric.is_global_zero)
    for number, parts in enumerate(prefetch(batches, fabric.device), 1):
        optimizer.zero_grad(set_to_none=True)
        for part, batch in enumerate(parts, 1):
            with fabric.no_backward_sync(step, enabled=part < len(parts)):
                terms = step(batch.to(fabric.device))
                fabric.backward(terms["loss"])
            for name, term in terms.items():
                sums[name] = term.detach() + sums.get(name, 0)
        norm = nn.utils.clip_grad_norm_(clipped_ones, params.gradient_clip)
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        sums["clipped"] = (whole > params.gradient_clip).float() + sums.get("clipped", 0)
        optimizer.step()
        schedule.step()
        if number % _READ_EVERY == 0 or number == steps:
            totals = fabric.all_reduce(torch.stack(list(sums.values())))
            assert isinstance(totals, Tensor)
            means = {k: v / number for k, v in zip(sums, totals.tolist(), strict=True)}
            if not np.isfinite(means["loss"]):  # not one step's since the epoch began may be
                raise UserError(
                    f"{title}: the loss is {means['loss']}. Lower the stage's learning_rate"
                    f" ({stage.learning_rate}) or model.tir_scale, and run the stage again."
                )
            bar.set_postfix(loss=f"{means['loss']:.3f}", refresh=False)
        bar.update()
    bar.close()
    return means


def _draw_seed(seed: int, stage: int, epoch: int, stream: int) -> int:
    """A seed of its own for each stream of each epoch of each stage."""
    sequence = np.random.SeedSequence((seed, stage, epoch, stream))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def make_optimizer(model: UAR, params: TrainParams, learning_rate: float) -> torch.optim.AdamW:
    """AdamW; only weight matrices decay: not biases, norms, positions or the refiner's mask.

    The mask's parameters are a group of their own with `params.mask_learning_rate`. L_mask as a sum
    (Eq. 12) pulls all entries of M alike, with a gradient many times as long as the rest's: in the
    common group M moves as one, which softmax ignores, and clipping stops everything else.

    With `params.extractor_learning_rate` so are those of the extractor's network: what is
    pretrained takes smaller steps than what starts from nothing.
    """
    masks = _masks(model)
    own_rate = set(map(id, masks))
    rate = params.extractor_learning_rate
    sorted_out: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in own_rate:
            extracts = rate is not None and name.startswith("extractor.network.")
            matrix = parameter.ndim > 1 and name.endswith("weight")
            sorted_out[extracts, matrix].append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": sorted_out[False, True]},
        {"params": sorted_out[False, False], "weight_decay": 0.0},
    ]
    if masks:
        own = params.mask_learning_rate
        own_lr = learning_rate if own is None else own
        groups.append({"params": masks, "weight_decay": 0.0, "lr": own_lr})
    if sorted_out[True, True]:
        groups.append({"params": sorted_out[True, True], "lr": rate})
        groups.append({"params": sorted_out[True, False], "weight_decay": 0.0, "lr": rate})
    return torch.optim.AdamW(
        groups,
        lr=learning_rate,
        betas=params.betas,
        weight_decay=params.weight_decay,
        fused=True,
    )


def _masks(module: nn.Module) -> list[nn.Parameter]:
    """The refiners' parameters."""
    return [weight for name, weight in module.named_parameters() if ".refiner." in name]


def _line(epoch: int, values: dict[str, float], select_by: str) -> str:
    shown = [
        *("train/loss", "val/cross_entropy", "val/image_gain", "val/BLEU-4", "val/CIDEr"),
        "val/distinct_reports",
    ]
    if f"val/{select_by}" not in shown:
        shown.append(f"val/{select_by}")
    known = [f"{name} {values[name]:.4g}" for name in shown if name in values]
    return f"epoch {epoch}: " + ", ".join(known)
