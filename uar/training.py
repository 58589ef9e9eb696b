"""One training stage (section 3.5): epochs, validation, selection, and going on after a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from uar.batches import Batch, Studies
from uar.checkpoint import Checkpoint
from uar.config import StageParams, TrainParams
from uar.decoding import generate
from uar.device import autocast
from uar.errors import UserError
from uar.files import whole_file
from uar.losses import language_modeling_loss, mask_loss, triplet_contrastive_loss
from uar.metrics import score
from uar.model import UAR
from uar.schedule import warmup_cosine
from uar.text import Vocabulary


@dataclass(frozen=True)
class Objective:
    """The weights of Eq. 13 in one stage and the losses' own settings."""

    lambda1: float
    lambda2: float
    lambda3: float
    margin: float
    mask_reduction: str

    @classmethod
    def of_stage(cls, params: TrainParams, with_mask: bool) -> Objective:
        """{l1, l2, 0} without the mask, {l1, l2, l3} with it (section 3.5)."""
        return cls(
            lambda1=params.lambda1,
            lambda2=params.lambda2 if params.global_loss else 0.0,
            lambda3=params.lambda3 if with_mask else 0.0,
            margin=params.margin,
            mask_reduction=params.mask_reduction,
        )

    def __call__(self, model: UAR, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (Eq. 13) of a batch, and each term by name."""
        output = model(batch.visual, batch.report)
        targets = batch.report[:, 1:]
        terms = {
            "language_modeling": language_modeling_loss(output.logits, targets),
            "global": triplet_contrastive_loss(
                output.image_global, output.report_global, batch.report_ids, self.margin
            ),
        }
        loss = self.lambda1 * terms["language_modeling"]
        if self.lambda2:
            loss = loss + self.lambda2 * terms["global"]
        if output.masks:
            for reduction in ("sum", "mean"):
                terms[f"mask_{reduction}"] = mask_loss(output.masks, targets, reduction)
            loss = loss + self.lambda3 * terms[f"mask_{self.mask_reduction}"]
        return loss, {"loss": loss, **terms}


@dataclass(frozen=True)
class Validation:
    """Greedy reports for a split, scored under the `r2gen` protocol without METEOR.

    Args:
        studies: the validation split.
        vocabulary: V_R.
        batch_size: studies decoded at once.
    """

    studies: Studies
    vocabulary: Vocabulary
    batch_size: int

    def __call__(self, model: UAR, objective: Objective) -> dict[str, float]:
        """`loss`, every metric, and `distinct_reports`."""
        device = model.head.weight.device
        model.eval()
        loss = 0.0
        texts: list[str] = []
        with torch.inference_mode():
            for batch in self.studies.batches(self.batch_size):
                batch = batch.to(device)
                loss += float(objective(model, batch)[0]) * len(batch.report)
                reports = generate(model, batch.visual, beam_size=1)
                texts += [self.vocabulary.decode(report.ids) for report in reports]
        references = [self.vocabulary.decode(row) for row in self.studies.reports.tolist()]
        scores = score(references, texts)
        return {
            "loss": loss / len(self.studies),
            **{name: float(value) for name, value in scores.items() if value is not None},
            "distinct_reports": float(len(set(texts))),
        }


def train_stage(
    model: UAR,
    studies: Studies,
    validation: Validation,
    objective: Objective,
    params: TrainParams,
    stage: StageParams,
    *,
    precision: str,
    seed: int,
    encoder_sha256: str | None,
    scratch: Path,
    identity: dict[str, Any],
    on_epoch: Callable[[int, dict[str, float]], None],
) -> Checkpoint:
    """Train and return the best epoch by `params.select_by` on validation.

    After each epoch everything needed to go on is in `scratch`: called again with the same
    `identity` after a kill, training goes on there with the same result as if never stopped.

    Args:
        model: on its device; changed in place.
        studies: training split.
        validation: scores the model after each epoch.
        objective: Eq. 13.
        params: optimisation.
        stage: epochs and peak learning rate.
        precision: of the forward pass, see `uar.device.autocast`.
        seed: of batch order, crops and dropout.
        encoder_sha256: whose tokens the model reads, for the checkpoint.
        scratch: folder of the resume file; removed when the stage is whole.
        identity: what the run depends on; a resume file of another run is not used.
        on_epoch: receives each epoch (from 1) and its values; on a resume, the past ones first.

    Raises:
        UserError: the loss is not finite.
    """
    device = model.head.weight.device
    steps = studies.training_steps(params.batch_size)
    optimizer = make_optimizer(model, params, stage.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, warmup_cosine(stage.epochs * steps, params.warmup)
    )
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    resume = scratch / "resume.pt"
    past: list[dict[str, float]] = []
    best: dict[str, Any] | None = None

    if state := _read_resume(resume, identity):
        model.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        if device.type == "cuda":
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        past, best = state["past"], state["best"]
        tqdm.write(f"going on after epoch {len(past)} of {stage.epochs} ({resume})")
    for epoch, values in enumerate(past, 1):
        on_epoch(epoch, values)

    for epoch in range(len(past) + 1, stage.epochs + 1):
        model.train()
        sums: dict[str, float] = {}
        batches = studies.training_batches(params.batch_size, generator)
        with tqdm(batches, f"epoch {epoch}/{stage.epochs}", steps, unit="batch") as progress:
            for batch in progress:
                with autocast(device, precision):
                    loss, terms = objective(model, batch.to(device))
                if not torch.isfinite(loss):
                    raise UserError(
                        f"epoch {epoch}: the loss is {loss.item()}. Lower the stage's learning_rate"
                        f" ({stage.learning_rate}) or model.tir_scale, and run the stage again."
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), params.gradient_clip)
                optimizer.step()
                schedule.step()
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0.0) + term.item()
                progress.set_postfix(loss=f"{loss.item():.3f}")
        scores = validation(model, objective)
        values = {f"train/{name}": total / steps for name, total in sums.items()}
        values |= {f"val/{name}": value for name, value in scores.items()}
        values["learning_rate"] = schedule.get_last_lr()[0]
        past.append(values)
        on_epoch(epoch, values)
        tqdm.write(_line(epoch, values, params.select_by))
        if best is None or scores[params.select_by] > best["validation"][params.select_by]:
            best = vars(Checkpoint.of(model, encoder_sha256, epoch, scores))
        with whole_file(resume) as temporary:
            torch.save(
                {
                    "identity": identity,
                    "weights": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "generator": generator.get_state(),
                    "torch_rng": torch.get_rng_state(),
                    "cuda_rng": torch.cuda.get_rng_state_all() if device.type == "cuda" else [],
                    "past": past,
                    "best": best,
                },
                temporary,
            )
    assert best is not None
    return Checkpoint(**best)


def make_optimizer(model: UAR, params: TrainParams, learning_rate: float) -> torch.optim.AdamW:
    """AdamW; only weight matrices decay: not biases, norms, positions or the refiner's mask."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim > 1 and name.endswith("weight") and ".refiner." not in name
            (decayed if matrix else kept).append(parameter)
    groups = [{"params": decayed}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=learning_rate, betas=params.betas, weight_decay=params.weight_decay
    )


def _read_resume(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state if state["identity"] == identity else None


def _line(epoch: int, values: dict[str, float], select_by: str) -> str:
    shown = ["train/loss", "val/loss", "val/BLEU-4", "val/CIDEr", "val/distinct_reports"]
    if f"val/{select_by}" not in shown:
        shown.append(f"val/{select_by}")
    return f"epoch {epoch}: " + ", ".join(f"{name} {values[name]:.4g}" for name in shown)
