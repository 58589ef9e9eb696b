"""Self-critical training: reports drawn from the model, rewarded as a whole.

Policy gradient as in SCST (Rennie et al. 2017, "Self-critical sequence training for image
captioning", sections 3 and 4). The baseline of a report is the mean reward of its study's other
reports (Luo 2020, "A better variant of self-critical sequence training"): it does not depend on the
report, so that the gradient remains that of the expected reward.

Training maximises each study's expected reward minus `anchor` times KL(model || stage two's model).
A report's log-probability under the first model minus that under the second estimates the KL; times
`anchor`, it is subtracted from the reward (Jaques et al. 2017, "Sequence tutor", on KL-control).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from uar.core.config import StageThreeParams
from uar.core.special_words import BOS, EOS, PAD
from uar.data.batches import Batch, Studies
from uar.data.text import Vocabulary
from uar.inference.decoding import Generated, random_draws, sample
from uar.model.uar import UAR
from uar.training.reward import Reward
from uar.training.step import Step

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# What a report's words do not depend on in evaluation mode: the vector that image dropout shows,
# and the findings head, whose prompt is not a differentiable function of its logits.
_UNTOUCHED = ("no_image", "findings.norm.", "findings.classify.")


@dataclass(frozen=True)
class Drawn:
    """N reports for each of B studies, with their rewards: the share of one process."""

    visual: Tensor  # of the B studies, as in `Batch`
    present: Tensor | None  # likewise
    reports: Tensor  # (B * N, T + 1) int64: BOS, words, EOS, padding
    parts: dict[str, Tensor]  # from `Reward`, (B, N) float each
    real: Tensor  # (B,) bool, the rows that are studies rather than filling
    studies: int  # number in the optimiser step, over all processes
    ranks: int  # number of processes


class Critic:
    """Draws reports for training studies and rewards them.

    Args:
        params: those of the stage.
        studies: the training split, with findings.
        vocabulary: V_R.
    """

    def __init__(self, params: StageThreeParams, studies: Studies, vocabulary: Vocabulary) -> None:
        self.params, self.vocabulary = params, vocabulary
        texts = [vocabulary.decode(row) for row in studies.reports.tolist()]
        self.reward = Reward(params, texts)
        self._texts = dict(zip(studies.report_ids.tolist(), texts, strict=True))

    def draw(self, model: UAR, batch: Batch, seed: int, rank: int = 0) -> Drawn:
        """Draw N reports for each of B studies from `model`, which is in evaluation mode.

        Args:
            batch: the share of process `rank`.
            seed: for the words of the whole batch, so that its split into shares does not matter.
        """
        samples, count = self.params.samples, len(batch.report)
        length, share = model.sizes.max_length, slice(rank * count, (rank + 1) * count)
        draws = random_draws(seed, len(batch.report_ids) * samples, length)
        written = sample(
            model,
            batch.visual,
            draws.view(-1, samples, length)[share],
            self.params.temperature,
            present=batch.present,
        )
        reports = [report for of_study in written for report in of_study]
        of_all = [number for number in batch.report_ids.tolist() if number >= 0]
        mine = batch.report_ids[share].tolist()
        own = [of_all.index(number) if number >= 0 else 0 for number in mine]
        assert batch.findings is not None  # a training split has them
        parts = self.reward(
            [self.vocabulary.decode(report.ids) for report in reports],
            np.repeat(own, samples).tolist(),
            [self._texts[number] for number in of_all],
            np.repeat(batch.findings.cpu().numpy() > 0, samples, axis=0),
        )
        device = batch.report.device
        return Drawn(
            batch.visual,
            batch.present,
            rows_of(reports, length).to(device),
            {
                name: torch.from_numpy(part).float().view(count, -1).to(device)
                for name, part in parts.items()
            },
            real=torch.tensor([number >= 0 for number in mine], device=device),
            studies=len(of_all) if batch.studies is None else batch.studies,
            ranks=len(batch.report_ids) // count,
        )


def rows_of(reports: Sequence[Generated], length: int) -> Tensor:
    """Ids as from `Vocabulary.encode`, `(R, T + 1)`; reports of T words have no end token."""
    rows = torch.full((len(reports), length + 1), PAD)
    for row, report in zip(rows, reports, strict=True):
        ids = [BOS, *report.ids, EOS][: length + 1]
        row[: len(ids)] = torch.tensor(ids)
    return rows


def log_probabilities(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of reports, `(R,)`, if drawn as `uar.inference.decoding.sample` does.

    Args:
        logits: `(R, T, |V_R|)`.
        targets: ids `(R, T)`: words, the end token if reached, padding.
        temperature: tau > 0.
    """
    never = torch.tensor([PAD, BOS], device=logits.device)
    likely = (logits.float().index_fill(-1, never, -torch.inf) / temperature).log_softmax(-1)
    of_words = likely.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return of_words.masked_fill(targets == PAD, 0.0).sum(dim=1)


def advantages(rewards: Tensor) -> Tensor:
    """Each reward minus the mean of its study's other rewards, `(B, N)`."""
    return rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)


def freeze_untouched(model: UAR) -> None:
    """Freeze the parameters that drawn reports do not depend on."""
    for name, parameter in model.named_parameters():
        if name.startswith(_UNTOUCHED):
            parameter.requires_grad_(False)


class PolicyStep(Step):
    """The policy gradient of a micro-batch.

    The model must be in evaluation mode, in which the reports were drawn.

    Args:
        model: UAR as stage two left it; `anchor` holds it close to a copy of that.
        params: those of the stage.
        fabric: the processes that train together.
        precision: as for `Step`. In bfloat16, probabilities are rounded, but not those of drawing.
        compiled: as for `Step`.
    """

    def __init__(
        self,
        model: UAR,
        params: StageThreeParams,
        *,
        fabric: Fabric,
        precision: str,
        compiled: bool,
    ) -> None:
        super().__init__(model, fabric=fabric, precision=precision, compiled=compiled)
        self.params, self.compiled = params, compiled
        frozen = copy.deepcopy(model).to(fabric.device).eval().requires_grad_(False)
        self.frozen = (frozen,)  # in a tuple, so that it is neither trained nor sharded

    def forward(self, drawn: Drawn) -> dict[str, Tensor]:
        """Terms by name: `loss`, whose gradient is the policy gradient, `divergence`, the rewards.

        As elsewhere, their mean over the processes is the value of the whole step.
        """
        reports, temperature = drawn.reports, self.params.temperature
        if not self.compiled:  # compiled shapes may not change; words do not depend on later ones
            reports = reports[:, : int((reports != PAD).sum(dim=1).max())]
        targets = reports[:, 1:]
        shape = drawn.parts["reward"].shape

        def likely(logits: Tensor) -> Tensor:
            return log_probabilities(logits, targets, temperature).view(shape)

        with self.autocast():
            logits = self.run(drawn.visual, reports, drawn.present).logits
        own = likely(logits)
        with torch.no_grad(), self.autocast():
            before = self.frozen[0](drawn.visual, reports, drawn.present).logits
        divergence = own.detach() - likely(before)

        def mean(values: Tensor) -> Tensor:
            return drawn.ranks * (values.mean(dim=1) * drawn.real).sum() / drawn.studies

        anchored = drawn.parts["reward"] - self.params.anchor * divergence
        terms = {name: mean(part) for name, part in drawn.parts.items()}
        loss = mean(-advantages(anchored) * own)
        return {"loss": loss, "divergence": mean(divergence), **terms}
