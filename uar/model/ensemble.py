"""Several trained models as one, which gives every word the mean of their probabilities.

Runs that differ only in seed err on different words, and their mean makes reports likelier than any
one of them does (deep ensembles: Lakshminarayanan et al., NeurIPS 2017, section 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from uar.core.errors import UserError
from uar.model.transformer import Cache, Rows
from uar.model.uar import UAR, ModelSizes, Output, Tables


@dataclass
class EnsembleCache:
    """Every member's `Cache` for the same texts."""

    members: list[Cache]

    def branch(self, parents: Tensor) -> None:
        """Call every member's `Cache.branch`."""
        for cache in self.members:
            cache.branch(parents)

    def regroup(self, origins: Tensor, places: Tensor, rows: Rows) -> None:
        """Call every member's `Cache.regroup`."""
        for cache in self.members:
            cache.regroup(origins, places, rows)

    def keep(self, rows: Sequence[int], moved: Sequence[int]) -> None:
        """Call every member's `Cache.keep`."""
        for cache in self.members:
            cache.keep(rows, moved)


class Ensemble(nn.Module):
    """K models that write as one; it takes and returns what `UAR` does.

    Args:
        members: in evaluation mode, all accepted by `refuse_other_member`. Global features are
            those of the first.
    """

    def __init__(self, members: Sequence[UAR]) -> None:
        super().__init__()
        self.members: Sequence[UAR] = nn.ModuleList(members)  # type: ignore[assignment]

    @property
    def sizes(self) -> ModelSizes:
        """The sizes, which all members share."""
        return self.members[0].sizes

    @property
    def device(self) -> torch.device:
        """Where the weights of all members are."""
        return self.members[0].device

    def forward(self, visual: Tensor, report: Tensor, present: Tensor | None = None) -> Output:
        """Teacher-forced pass: mean probabilities, and all else from the first member."""
        outputs = [member(visual, report, present) for member in self.members]
        heads = [of.finding_logits for of in outputs if of.finding_logits is not None]
        return replace(
            outputs[0],
            logits=mean_log_probabilities([output.logits.float() for output in outputs]),
            finding_logits=mean_logits(heads) if heads else None,
        )

    @property
    def finding_thresholds(self) -> Tensor | None:
        """The mean of the members' thresholds, `(N,)`; None without findings heads."""
        thresholds = [member.finding_thresholds for member in self.members]
        known = [of for of in thresholds if of is not None]
        return torch.stack(known).mean(dim=0) if known else None

    def tables(self) -> tuple[Tables, ...]:
        """Every member's `Tables`."""
        return tuple(member.tables() for member in self.members)

    def start(
        self,
        visual: Tensor,
        texts: int,
        tables: Sequence[Tables],
        present: Tensor | None = None,
        branching: bool = True,
    ) -> EnsembleCache:
        """Call every member's `UAR.start`."""
        pairs = zip(self.members, tables, strict=True)
        return EnsembleCache(
            [member.start(visual, texts, of, present, branching) for member, of in pairs]
        )

    def start_without_image(self, cache: EnsembleCache) -> EnsembleCache:
        """Call every member's `UAR.start_without_image`."""
        pairs = zip(self.members, cache.members, strict=True)
        return EnsembleCache([member.start_without_image(of) for member, of in pairs])

    def step(self, words: Tensor, tables: Sequence[Tables], cache: EnsembleCache) -> Tensor:
        """Log-probabilities of the words after `words`, in the form of `UAR.step`'s logits."""
        parts = zip(self.members, tables, cache.members, strict=True)
        return mean_log_probabilities([member.step(words, t, c) for member, t, c in parts])


def together(models: Sequence[UAR]) -> UAR | Ensemble:
    """An ensemble of several models, or a single model as it is."""
    return Ensemble(models).eval() if len(models) > 1 else models[0]


def members_of(model: UAR | Ensemble) -> Sequence[UAR]:
    """An ensemble's members, or a single model as the only one."""
    return model.members if isinstance(model, Ensemble) else [model]


def mean_log_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """Logarithm of the mean of the members' probabilities, `(..., V)`, from logits `(..., V)`."""
    each = torch.stack([of.log_softmax(-1) for of in logits])
    return each.logsumexp(0) - math.log(len(logits))


def mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """The logit of the mean of the members' yes-or-no probabilities, from logits `(...)`."""
    if len(logits) == 1:
        return logits[0]
    return torch.stack([of.double().sigmoid() for of in logits]).mean(dim=0).logit().to(logits[0])


def refuse_other_member(first: UAR, other: UAR, name: str) -> None:
    """Refuse a model that cannot be in an ensemble with `first`.

    Raises:
        UserError: it reads other films, knows other words or pools in another way, or one has a
            findings head or `image_dropout` and the other does not. The message gives `name`.
    """

    def form(model: UAR) -> dict[str, object]:
        parameters = model.params
        return {
            **vars(model.sizes),
            "model.lsu": parameters.lsu,
            "model.visual_pool": parameters.visual_pool,
            "model.findings": parameters.findings,
            "model.image_dropout above 0": parameters.image_dropout > 0,
        }

    wanted, found = form(first), form(other)
    if different := [key for key in wanted if wanted[key] != found[key]]:
        key = different[0]
        raise UserError(
            f"{name} is a model with {key} {found[key]}, but the model it is to write with has "
            f"{wanted[key]}. Members of an ensemble may differ only in seed or recipe."
        )
