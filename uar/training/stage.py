"""One training stage (section 3.5): epochs, validation, selection, and resuming."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from uar.core.config import StageParams, TrainParams
from uar.core.device import make_deterministic
from uar.core.distributed import (
    full_state,
    gather_rows,
    load_full_state,
    sharded_parts,
    whole_parameters,
)
from uar.core.errors import UserError
from uar.core.files import require_room
from uar.core.prefetch import prefetch
from uar.core.progress import Forecast, in_words, progress_bar
from uar.core.provenance import Scratch
from uar.core.schedule import warmup_cosine
from uar.data.batches import Batch, Shard, Studies
from uar.evaluation.safeguard import CHOSEN_BY, lost, refusal
from uar.model.checkpoint import Checkpoint
from uar.model.ensemble import Ensemble
from uar.model.uar import UAR, Output
from uar.training.average import WeightAverage
from uar.training.objective import Objective
from uar.training.optimizer import make_optimizer, mask_parameters
from uar.training.resume import ResumeState, read_resume
from uar.training.self_critical import Critic, Drawn, PolicyStep, freeze_untouched
from uar.training.speed import Speed, in_a_line
from uar.training.step import Step
from uar.training.validation import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule

log = logging.getLogger(__name__)

_READ_EVERY = 50  # steps between readings of the loss, each of which waits for the device


@dataclass(frozen=True)
class Trained:
    """The result of a stage."""

    best: Checkpoint  # of the epoch chosen by validation
    seconds: float  # of all epochs by the clock, including those before a kill
    refusal: str | None = None  # why no epoch of self-critical training is used, if none is


class TrainingStep(Step):
    """Forward pass and loss of a micro-batch, whose shapes never change (`Shard`).

    Args:
        model: UAR.
        objective: Eq. 13, of the model's output.
        fabric: the processes from which Eq. 10 gathers a batch.
        precision, compiled: as for `Step`.
        teacher: in evaluation mode, its word probabilities are learnt too; None: no teacher.
    """

    def __init__(
        self,
        model: UAR,
        objective: Objective,
        *,
        fabric: Fabric,
        precision: str,
        compiled: bool,
        teacher: UAR | Ensemble | None = None,
    ) -> None:
        super().__init__(model, fabric=fabric, precision=precision, compiled=compiled)
        self.teacher = (teacher,)  # in a tuple, so that it is neither trained nor sharded
        self.objective = objective
        self.gather = lambda rows: gather_rows(fabric, rows)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Terms by name, `loss` among them."""
        _, terms = self.objective(self._pass, batch, self.gather, self._taught(batch))
        return terms

    @torch.no_grad()
    def _taught(self, batch: Batch) -> Tensor | None:
        """The teacher's log-probabilities of the words, `(B, T, |V_R|)`."""
        [teacher] = self.teacher
        if teacher is None:
            return None
        with self.autocast():
            output = teacher(batch.visual, batch.report, batch.present)
        return output.logits.float().log_softmax(-1)

    def _pass(
        self, visual: Tensor, report: Tensor, present: Tensor | None, findings: Tensor | None
    ) -> Output:
        with self.autocast():
            return self.run(visual, report, present, findings)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a stage trains and validates on.

    Args:
        studies: training split.
        validation: scores the model after each epoch.
        encoder_sha256: hash of the encoder that made the studies' tokens; None without tokens.
        vocabulary_sha256: hash of the words that it learns; None: not recorded.
        teacher: the model whose word probabilities are learnt too; None: no teacher.
    """

    studies: Studies
    validation: Validation
    encoder_sha256: str | None
    vocabulary_sha256: str | None = None
    teacher: UAR | Ensemble | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a stage trains.

    Args:
        number: that of the stage, 1 to 3, so that no two stages draw the same random numbers.
        stage: length and peak learning rate.
        objective: Eq. 13, which validation logs even with a critic.
        params: optimisation; `batch_size` counts the studies of all processes together, and `seed`
            decides batch order, crops and dropout.
        precision: of the forward pass, see `uar.core.device.autocast`.
        from_trained: the model has been trained before, and may be best as it is (epoch 0).
        critic: rewards reports drawn from the model; their policy gradient replaces that of the
            objective, and no epoch may then fall behind epoch 0.
    """

    number: int
    stage: StageParams
    objective: Objective
    params: TrainParams
    precision: str
    from_trained: bool
    critic: Critic | None = None

    def draw_seed(self, epoch: int, *stream: int) -> int:
        """A different seed for each stream of each epoch of each stage."""
        sequence = np.random.SeedSequence((self.params.seed, self.number, epoch, *stream))
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def as_one_stage(params: TrainParams) -> StageParams:
    """The single stage without `two_stage`: stage one's rate for the epochs of both stages."""
    epochs = params.stage_one.epochs + params.stage_two.epochs
    return StageParams(epochs=epochs, learning_rate=params.stage_one.learning_rate)


def train_stage(
    fabric: Fabric,
    model: UAR,
    *,
    data: TrainingData,
    config: TrainingConfig,
    scratch: Scratch,
    on_epoch: Callable[[int, dict[str, float]], None],
    on_speed: Callable[[int, dict[str, float]], None] = lambda epoch, values: None,
) -> Trained | None:
    """Train and return the best epoch on validation, by `select_by` or by the critic's rule.

    The cross-entropy is computed after every epoch; reports are written and scored after every
    `report_every`-th epoch and after the last. The epochs that have the score named by `select_by`
    are candidates, and with `from_trained` so is epoch 0, the model that the stage starts from. Of
    equal scores the lower cross-entropy wins, then the later epoch.

    With a critic, reports are written after every epoch, and the highest CIDEr wins (of equal ones,
    the earlier) among the epochs that have lost nothing else (`uar.evaluation.safeguard`).

    After each epoch, everything needed to resume is in `scratch`: if called again after a kill,
    training continues from there with the same result as if it had never stopped. Batch order,
    crops and dropout depend only on seed, stage and epoch (dropout on the rank too).

    Args:
        fabric: the processes that train together (`uar.core.distributed.launch`).
        model: changed in place.
        data: what it trains and validates on.
        config: how it trains.
        scratch: holds the resume file.
        on_epoch: receives each epoch (from 1, or 0 with `from_trained`) and its values; when
            training resumes, past epochs first. Called on rank 0 only.
        on_speed: receives each epoch trained in this call and `Speed.values`; rank 0 only.

    Returns:
        The best epoch on rank 0, None on the others.

    Raises:
        UserError: the loss is not finite.
    """
    params, first = config.params, 0 if config.from_trained else 1
    critical = config.critic is not None
    select_by = CHOSEN_BY if critical else params.select_by
    trainer = Trainer(fabric, model, data=data, config=config)
    resume = scratch.folder / "resume.safetensors"
    past: list[dict[str, float]] = []
    seconds = 0.0
    best: Checkpoint | None = None
    if (state := trainer.resume(resume, scratch.identity)) is not None:
        past, best, seconds = state.past, state.best, state.seconds
        if fabric.is_global_zero:
            last = first + len(past) - 1
            log.info(f"resuming after epoch {last} of {trainer.epochs} ({resume})")
    if fabric.is_global_zero:
        trainer.require_room(resume)
        for epoch, values in enumerate(past, first):
            on_epoch(epoch, values)

    for epoch in range(first + len(past), trainer.epochs + 1):
        started = time.monotonic()
        means = trainer.train_epoch(epoch) if epoch else {}
        write = epoch % params.report_every == 0 or epoch == trainer.epochs or critical
        scores, average = trainer.validate(write)
        weights, optimizer_state = full_state(model, trainer.optimizer)
        values = {f"train/{name}": mean for name, mean in means.items()}
        values |= {f"val/{name}": value for name, value in scores.items()}
        values["learning_rate"] = float(trainer.schedule.get_last_lr()[0])
        past.append(values)
        took = time.monotonic() - started
        seconds += took
        if not fabric.is_global_zero:
            continue
        on_epoch(epoch, values)
        speed = trainer.speed.values(took)
        on_speed(epoch, speed)
        shown = in_a_line(speed)
        if left := trainer.epochs - epoch:
            shown += f", about {in_words(left * took)} left"
        log.info(f"{_line(epoch, values, select_by)} ({shown})")
        candidate = select_by in scores
        if critical and (fallen := lost(scores, scores_of(past[0]))):
            log.info(f"epoch {epoch} is not a candidate: it lowered {' and '.join(fallen)}")
            candidate = False
        beats = _rises if critical else _beats
        if candidate and (best is None or beats(scores, best.validation, select_by)):
            kept = weights if average is None else average
            best = Checkpoint.of(
                model,
                kept,
                encoder_sha256=data.encoder_sha256,
                epoch=epoch,
                validation=scores,
                vocabulary_sha256=data.vocabulary_sha256,
            )
        schedule = trainer.schedule.state_dict()
        ResumeState(weights, optimizer_state, schedule, past, best, seconds, average).save(
            resume, scratch.identity
        )
    if not fabric.is_global_zero or best is None:
        return None
    return Trained(best, seconds, refusal(list(map(scores_of, past))) if critical else None)


def scores_of(values: Mapping[str, float]) -> dict[str, float]:
    """The validation scores among an epoch's values, by the names that validation uses."""
    of = {name.partition("/"): value for name, value in values.items()}
    return {name: value for (part, _, name), value in of.items() if part == "val"}


class Trainer:
    """Trains a model epoch by epoch, and resumes and validates it.

    Args:
        fabric: the processes that train together.
        model: changed in place.
        data: what it trains and validates on.
        config: how it trains.

    Attributes:
        optimizer: AdamW over the model's parameters.
        schedule: that of its learning rates, one step per batch.
        average: mean weights, which validation and the checkpoint use.
        epochs: number in the whole stage.
        speed: that of the last epoch; it differs between machines and is not a tracked value.
    """

    def __init__(
        self, fabric: Fabric, model: UAR, *, data: TrainingData, config: TrainingConfig
    ) -> None:
        params = config.params
        make_deterministic(params.deterministic)
        self.fabric, self.model, self.data, self.config = fabric, model, data, config
        self.objective = config.objective.to(fabric.device)
        self.forecast: Forecast | None = None
        batch, passes = next(data.studies.batches(params.batch_size)), 2 if params.r_drop else 1
        how: dict[str, Any] = {"precision": config.precision, "compiled": params.compile}
        step: TrainingStep | PolicyStep
        if config.critic is None:
            step = TrainingStep(model, self.objective, fabric=fabric, teacher=data.teacher, **how)
        else:
            freeze_untouched(model)
            passes = config.critic.params.samples
            batch = replace(batch, report=batch.report.repeat_interleave(passes, dim=0))
            step = PolicyStep(model, config.critic.params, fabric=fabric, **how)
        self.speed = Speed(
            model,
            batch,
            passes=passes,
            device=fabric.device,
            precision=config.precision,
            processes=fabric.world_size,
        )
        self.step: _FabricModule = fabric.setup_module(step)
        self.optimizer = make_optimizer(model, params, config.stage.learning_rate)
        self.average = WeightAverage(self.step, params.weight_average)
        self.steps = data.studies.training_steps(params.batch_size)  # per epoch
        self.epochs = config.stage.epochs
        if sharded_parts(self.step):  # the first module run becomes FSDP's root: run the whole
            with torch.no_grad():
                self.step(next(self._batches(0))[0].to(fabric.device))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, warmup_cosine(self.epochs * self.steps, params.warmup)
        )

    def resume(self, path: Path, identity: Mapping[str, Any]) -> ResumeState | None:
        """Restore and return the state in the file `path`, if it is this run's."""
        shapes = {name: tuple(weight.shape) for name, weight in self.model.state_dict().items()}
        state: ResumeState | None = None
        if self.fabric.is_global_zero:  # moves a damaged file aside before the others look
            state = read_resume(path, identity, shapes)
        self.fabric.barrier()
        if not self.fabric.is_global_zero:
            state = read_resume(path, identity, shapes)
        if state is not None:
            if state.average is not None:
                load_full_state(
                    self.model,
                    self.optimizer,
                    weights=state.average,
                    optimizer_state=state.optimizer,
                )
                self.average.restart()
            load_full_state(
                self.model, self.optimizer, weights=state.weights, optimizer_state=state.optimizer
            )
            self.schedule.load_state_dict(state.schedule)
        self.fabric.barrier()  # nobody overwrites the file before everybody has read it
        return state

    def require_room(self, path: Path) -> None:
        """Refuse to begin if the disk has no room for the resume file `path` and the checkpoint.

        The previous resume file is kept while the next one is written.
        """
        weights = sum(value.nbytes for value in self.model.state_dict().values())
        moments = 2 * sum(p.nbytes for p in self.model.parameters() if p.requires_grad)
        written = path.stat().st_size if path.is_file() else 0
        states = 3 if self.average.decay else 2  # the model's, the best's and their average
        require_room(path, 2 * (states * weights + moments) + weights - written)

    def validate(self, write: bool) -> tuple[dict[str, float], dict[str, Tensor] | None]:
        """Score the model with averaged weights and, with `write`, its reports too.

        Returns:
            The scores, and the averaged weights on rank 0; None if nothing is averaged.
        """
        with self.average.in_place():
            with whole_parameters(self.step):
                scores = self.data.validation(self.model, self.objective, write)
            if not self.average.decay:
                return scores, None
            weights, _ = full_state(self.model, self.optimizer)
            return scores, {name: weight.clone() for name, weight in weights.items()}

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Make the `epoch`-th pass over the training split.

        Returns:
            Each term's mean over the steps, and `clipped`, the share of steps whose gradient was
            longer than `gradient_clip`.

        Raises:
            UserError: the loss is not finite.
        """
        fabric = self.fabric
        torch.manual_seed(self.config.draw_seed(epoch, 1 + fabric.global_rank))  # dropout
        title = f"epoch {epoch}/{self.epochs}"
        started = time.monotonic()
        self.step.train(self.config.critic is None)
        clipped = self._clipped_parameters()
        sums: dict[str, Tensor] = {}
        means: dict[str, float] = {}
        if self.forecast is None:
            epochs = range(epoch, self.epochs + 1)
            what = f"epochs {epoch} to {self.epochs} without validation"
            self.forecast = Forecast(what, len(epochs) * self.steps)
        bar = progress_bar(title, self.steps, shown=fabric.is_global_zero, forecast=self.forecast)
        for number, parts in enumerate(prefetch(self._batches(epoch), fabric.device), 1):
            self._train_step(parts, (epoch, number), clipped, sums)
            if number % _READ_EVERY == 0 or number == self.steps:
                totals = fabric.all_reduce(torch.stack(list(sums.values())))
                assert isinstance(totals, Tensor)
                means = {k: v / number for k, v in zip(sums, totals.tolist(), strict=True)}
                if not np.isfinite(means["loss"]):  # of any step since the epoch began
                    raise UserError(
                        f"{title}: the loss is {means['loss']}. Lower the stage's learning_rate"
                        f" ({self.config.stage.learning_rate}) or model.tir_scale, and run the "
                        "stage again."
                    )
                bar.set_postfix(loss=f"{means['loss']:.3f}", refresh=False)
            bar.update()
        bar.close()
        self.speed.trained(len(self.data.studies), started)
        return means

    def _batches(self, epoch: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches for each step."""
        params = self.config.params
        order = torch.Generator()  # the same on every rank
        order.manual_seed(self.config.draw_seed(epoch, 0))
        shard = Shard(self.fabric.global_rank, self.fabric.world_size, params.accumulate)
        batches = self.data.studies.training_batches(params.batch_size, order, shard)
        if self.fabric.device.type != "cuda":
            return batches
        return ([batch.pin_memory() for batch in parts] for parts in batches)

    def _train_step(
        self,
        parts: list[Batch],
        place: tuple[int, int],
        clipped: list[nn.Parameter],
        sums: dict[str, Tensor],
    ) -> None:
        """Take one step; add each term, and whether the gradient was clipped, to `sums`.

        Args:
            parts: micro-batches.
            place: epoch and step, which decide what reports a critic draws.
            clipped: parameters whose gradient `gradient_clip` limits.
        """
        self.optimizer.zero_grad(set_to_none=True)
        for part, micro in enumerate(parts, 1):
            batch = micro.to(self.fabric.device)
            learnt = batch if self.config.critic is None else self._draw(batch, *place, part)
            with self.fabric.no_backward_sync(self.step, enabled=part < len(parts)):
                terms = self.step(learnt)
                self.fabric.backward(terms["loss"])
            for name, term in terms.items():
                sums[name] = term.detach() + sums.get(name, 0)
        limit = self.config.params.gradient_clip
        norm = nn.utils.clip_grad_norm_(clipped, limit)
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        sums["clipped"] = (whole > limit).float() + sums.get("clipped", 0)
        self.optimizer.step()
        self.schedule.step()
        self.average.update(self.schedule.last_epoch)

    def _draw(self, batch: Batch, epoch: int, step: int, part: int) -> Drawn:
        """Draw reports for a micro-batch, with their rewards."""
        assert self.config.critic is not None
        seed = self.config.draw_seed(epoch, 0, step, part)  # stream 0 is common to all processes
        with whole_parameters(self.step):
            return self.config.critic.draw(self.model, batch, seed, self.fabric.global_rank)

    def _clipped_parameters(self) -> list[nn.Parameter]:
        """All but the mask's if it has its own learning rate: its gradients are long."""
        own_rate: set[int] = set()
        if self.config.params.mask_learning_rate is not None:
            own_rate = set(map(id, mask_parameters(self.step)))
        return [weight for weight in self.step.parameters() if id(weight) not in own_rate]


def _beats(scores: dict[str, float], best: dict[str, float], select_by: str) -> bool:
    """Whether a later epoch is better: higher in score, or equal and no higher in cross-entropy."""
    higher = () if select_by == "cross_entropy" else (select_by,)
    later, earlier = (
        (*(of[name] for name in higher), -of["cross_entropy"]) for of in (scores, best)
    )
    return later >= earlier


def _rises(scores: dict[str, float], best: dict[str, float], select_by: str) -> bool:
    """Whether a later epoch of self-critical training is better: only if its score is higher."""
    return scores[select_by] > best[select_by]


def _line(epoch: int, values: dict[str, float], select_by: str) -> str:
    scores = ("cross_entropy", "image_gain", "BLEU-4", "CIDEr", "distinct_reports", "F1", select_by)
    shown = ["train/loss", *(f"val/{name}" for name in dict.fromkeys(scores))]
    known = [f"{name} {values[name]:.4g}" for name in shown if name in values]
    return f"epoch {epoch}: " + ", ".join(known)
