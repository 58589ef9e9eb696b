"""Decoding reports by beam search or random draws; batched, with cached keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from uar.core.config import DecodeParams
from uar.core.special_words import BOS, EOS, PAD
from uar.model.transformer import Rows
from uar.model.uar import ModelSizes

_DRAWN_BITS = 31  # in a random number
_WEIGHT_BITS = 30  # to which a word's probability is rounded for drawing


class TextsCache(Protocol):
    """What a model caches of the texts that it is writing."""

    def branch(self, parents: Tensor) -> None:
        """See `uar.model.transformer.Cache`."""

    def regroup(self, origins: Tensor, places: Tensor, rows: Rows) -> None:
        """See `uar.model.transformer.Cache`."""

    def keep(self, rows: Sequence[int], moved: Sequence[int]) -> None:
        """See `uar.model.transformer.Cache`."""


class ReportModel(Protocol):
    """What decoding needs of a model: `UAR`, or several of them as an `Ensemble`.

    Its tables and caches are opaque: decoding only hands them back.
    """

    @property
    def sizes(self) -> ModelSizes:
        """Vocabulary and lengths."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    def tables(self) -> Any:
        """See `UAR.tables`."""

    def start(
        self, visual: Tensor, texts: int, tables: Any, present: Tensor | None, branching: bool
    ) -> TextsCache:
        """See `UAR.start`."""

    def start_without_image(self, cache: Any) -> TextsCache:
        """See `UAR.start_without_image`."""

    def step(self, words: Tensor, tables: Any, cache: Any) -> Tensor:
        """See `UAR.step`."""


@dataclass(frozen=True)
class Generated:
    """The best beam of one study, or one of its samples."""

    ids: list[int]  # words, without BOS, EOS and padding
    log_probability: float  # of the words and, if reached, the end token


@torch.inference_mode()
def generate(
    model: ReportModel,
    visual: Tensor,
    beam_size: int,
    length_penalty: float = 0.0,
    *,
    tables: Any = None,
    present: Tensor | None = None,
    guidance: float = 0.0,
) -> list[Generated]:
    """Write a report for each of B studies.

    Beams are ranked by log-probability / length ** length_penalty, counting the end token. A study
    whose beams have all ended leaves the batch; decoding stops when none is left or after T words.
    `beam_size` 1 is greedy decoding.

    Args:
        model: in evaluation mode.
        visual: tokens or pixels of B studies, as `UAR.forward` takes them.
        beam_size: beams G kept for each study.
        length_penalty: 0 ranks by log-probability alone, 1 by its mean per word.
        tables: this model's, to be shared by many batches; made here if None.
        present: the views that each study has, as `UAR.forward` takes them.
        guidance: gamma of classifier-free guidance (Kornblith et al. 2023, "Guiding image
            captioning models toward more specific captions"): words are ranked by
            (1 + gamma) log p(word | films) - gamma log p(word | no films), renormalised. Above 0,
            it needs a model with `image_dropout`.
    """

    device, length, studies = model.device, model.sizes.max_length, len(visual)
    tables = tables or model.tables()
    caches = _start(model, visual, beam_size, tables, present, guidance, branching=True)
    whole = _Beams.empty(studies, beam_size, length, device)
    beams = _Beams.empty(studies, beam_size, length, device)  # of studies still in the batch
    waiting = torch.arange(studies, device=device)  # indices of these studies
    last = torch.full((studies, beam_size), BOS, device=device)
    for position in range(length):
        logits = _guided([model.step(last, tables, cache) for cache in caches], guidance)
        last, parents = beams.extend(logits, position, length_penalty)

        # the only wait for the device per word: which studies' beams have all ended
        stay = [not end for end in beams.ended.all(dim=1).tolist()] if position + 1 < length else []
        if not all(stay) or not stay:
            whole.put(waiting, beams)
        if not any(stay):
            break
        for cache in caches:
            cache.branch(parents)
        if not all(stay):
            kept, moved = _compact_rows(stay)
            for cache in caches:
                cache.keep(kept, moved)
            rows = torch.tensor(kept).to(device, non_blocking=True)
            waiting, last, beams = waiting[rows], last[rows], beams.of(rows)
    best = (whole.log_probabilities / whole.lengths**length_penalty).argmax(dim=1)
    chosen = torch.arange(studies, device=device), best
    return _generated(whole.history[chosen], whole.log_probabilities[chosen])


@torch.inference_mode()
def sample(
    model: ReportModel,
    visual: Tensor,
    draws: Tensor,
    temperature: float,
    *,
    tables: Any = None,
    present: Tensor | None = None,
    guidance: float = 0.0,
) -> list[list[Generated]]:
    """Draw N reports for each of B studies, word by word.

    Word t of report n is what `inverse_cdf` finds for `draws[n, t]`, whatever the study, so that a
    study's reports do not depend on the others in its batch, and those of two studies differ only
    because their films do; training, which needs independent reports, passes separate `draws` for
    each study.
    Log-probabilities are those of temperature 1.

    Reports of a study that are identical so far are computed once, and a report that has ended is
    no longer computed (`uar.model.transformer.Rows`).

    Args:
        model: in evaluation mode.
        visual: tokens or pixels of B studies, as `UAR.forward` takes them.
        draws: `(N, T)` from `random_draws`, or `(B, N, T)`.
        temperature: tau > 0: a word is drawn with probability proportional to p^(1 / tau).
        tables, present, guidance: as for `generate`.

    Returns:
        N reports of each study, in the order of `draws`.
    """
    device, length = model.device, model.sizes.max_length
    studies, texts = len(visual), draws.shape[-2]
    draws = draws.to(device).expand(studies, -1, -1).flatten(0, 1)
    tables = tables or model.tables()
    caches = _start(model, visual, texts, tables, present, guidance, branching=False)
    history = torch.full((studies * texts, length), PAD, device=device)
    log_probabilities = torch.zeros(studies * texts, device=device)
    live = torch.arange(studies * texts, device=device)  # reports that go on, study by study
    row = live // texts  # row of each: a study's reports that are alike so far share one
    study = torch.arange(studies, device=device)  # study of each row, among those left
    last = torch.full((studies,), BOS, device=device)  # last word of each row
    for position in range(length):
        logits = _guided([model.step(last, tables, cache) for cache in caches], guidance)
        total = _without_specials(logits)
        probabilities = (logits / temperature).softmax(-1)
        words = inverse_cdf(probabilities, row, draws[live, position])
        history[live, position] = words
        log_probabilities[live] += logits[row, words] - total[row, 0]

        going = words != EOS
        live, row, words = live[going], row[going], words[going]
        if position + 1 == length or not len(live):
            break
        vocabulary = logits.shape[-1]
        distinct, of_text = (row * vocabulary + words).unique(return_inverse=True)
        parents = distinct // vocabulary
        slots, origins, places = _regrouped(parents)
        last, former = torch.empty_like(parents), study
        study = torch.empty_like(parents)
        last[slots], study[slots] = distinct % vocabulary, former[parents]
        row = slots[of_text]
        stay = (study.bincount(minlength=int(former.max()) + 1) > 0).tolist()
        if not all(stay):
            kept, moved = _compact_rows(stay)
            for cache in caches:
                cache.keep(kept, moved)
            now = torch.empty(len(stay), dtype=torch.int64)
            now[kept] = torch.arange(len(kept))
            study = now.to(device)[study]
        rows = Rows.of(study)
        for cache in caches:
            cache.regroup(origins, places, rows)
    generated = _generated(history, log_probabilities)
    return [generated[study * texts : (study + 1) * texts] for study in range(studies)]


def _regrouped(parents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Assign places to R' rows that continue R rows, so that few of them move.

    The first to continue a row takes its place; the others take places that are given up, or the
    next free ones, and rows from the end fill the remaining gaps.

    Args:
        parents: the row that each continues, `(R',)`, ascending.

    Returns:
        The place of each, below R', `(R',)`; then, for the M rows that do not stay where their
        parent is, the parents and the places, both `(M,)`.
    """
    count = len(parents)
    first = torch.ones_like(parents, dtype=torch.bool)
    first[1:] = parents[1:] != parents[:-1]
    stay = first & (parents < count)
    free = torch.ones(count, dtype=torch.bool, device=parents.device)
    free[parents[stay]] = False
    slots = parents.clone()
    slots[~stay] = free.nonzero().squeeze(1)
    return slots, parents[~stay], slots[~stay]


def random_draws(seed: int, samples: int, length: int) -> Tensor:
    """Integers `(samples, length)` below 2^31, the first rows the same for any number of samples.

    The bits are PCG64's own, which are the same in every release of numpy and on every CPU.
    """
    bits = np.random.PCG64(seed).random_raw(samples * length) >> np.uint64(64 - _DRAWN_BITS)
    return torch.from_numpy(bits.astype(np.int64)).view(samples, length)


def inverse_cdf(probabilities: Tensor, row: Tensor, draws: Tensor) -> Tensor:
    """The words at which cumulative distributions exceed numbers drawn from [0, 1).

    Probabilities are rounded to multiples of 2^-30 and summed as integers, so that the sum is the
    same in any order and hence on any device.

    Args:
        probabilities: `(R, V)`.
        row: which distribution each number is for, `(N,)`.
        draws: the numbers in units of 2^-31, `(N,)` int64.

    Returns:
        `(N,)` int64.
    """
    cumulative = (probabilities * 2.0**_WEIGHT_BITS).round().long().cumsum(-1)
    drawn = (cumulative[row, -1] * draws) >> _DRAWN_BITS
    return torch.searchsorted(cumulative[row], drawn.unsqueeze(-1), right=True).squeeze(-1)


@dataclass
class _Beams:
    """G beams of each of B studies, as written so far."""

    history: Tensor  # (B, G, T), words and then padding
    log_probabilities: Tensor  # (B, G)
    lengths: Tensor  # (B, G) float, words and end token
    ended: Tensor  # (B, G) bool

    @classmethod
    def empty(cls, studies: int, beams: int, length: int, device: torch.device) -> _Beams:
        shape = studies, beams
        return cls(
            history=torch.full((*shape, length), PAD, device=device),
            log_probabilities=torch.zeros(shape, device=device),
            lengths=torch.zeros(shape, device=device),
            ended=torch.zeros(shape, dtype=torch.bool, device=device),
        )

    def extend(self, logits: Tensor, position: int, length_penalty: float) -> tuple[Tensor, Tensor]:
        """Extend the beams of each study to the G best of all continuations of all its beams.

        Args:
            logits: of the words at `position`, `(B, G, |V_R|)`.

        Returns:
            The words, and the beam that each continues, both `(B, G)`.
        """
        if position == 0:
            self.log_probabilities[:, 1:] = -torch.inf  # beams start alike: only one counts
        words, following = _best_words(logits, self.ended)
        totals = self.log_probabilities.unsqueeze(2) + following  # (B, G, G): words after beams
        lengths = (self.lengths + ~self.ended).unsqueeze(2)
        ranked = totals / lengths**length_penalty
        top = ranked.flatten(1).topk(logits.shape[1], dim=1).indices
        parents = top // words.shape[2]  # (B, G)
        last = words.flatten(1).gather(1, top)
        self.log_probabilities = totals.flatten(1).gather(1, top)
        self.lengths = lengths.squeeze(2).gather(1, parents)
        self.ended = self.ended.gather(1, parents) | (last == EOS)
        self.history = self.history.gather(1, parents.unsqueeze(2).expand_as(self.history))
        self.history[:, :, position] = last
        return last, parents

    def of(self, rows: Tensor) -> _Beams:
        """The beams of some of the studies."""
        return _Beams(
            self.history[rows], self.log_probabilities[rows], self.lengths[rows], self.ended[rows]
        )

    def put(self, rows: Tensor, others: _Beams) -> None:
        """Replace the beams of some of the studies with `others`."""
        for name, tensor in vars(others).items():
            getattr(self, name)[rows] = tensor


def _start(
    model: ReportModel,
    visual: Tensor,
    texts: int,
    tables: Any,
    present: Tensor | None,
    guidance: float,
    *,
    branching: bool,
) -> list[TextsCache]:
    """The model's cache and, with guidance, one without films."""
    cache = model.start(visual, texts, tables, present, branching)
    return [cache, model.start_without_image(cache)] if guidance else [cache]


def _generated(history: Tensor, log_probabilities: Tensor) -> list[Generated]:
    """Make `Generated` from padded texts `(N, T)` and their log-probabilities `(N,)`."""
    return [
        Generated([word for word in words if word not in (EOS, PAD)], log_probability)
        for words, log_probability in zip(history.tolist(), log_probabilities.tolist(), strict=True)
    ]


def generate_as(
    decode: DecodeParams,
    model: ReportModel,
    visual: Tensor,
    *,
    tables: Any = None,
    present: Tensor | None = None,
) -> list[Generated]:
    """Call `generate` with params.yaml's settings, even where `evaluate` chooses among samples."""
    beams, penalty, guidance = decode.beam_size, decode.length_penalty, decode.guidance
    return generate(
        model, visual, beams, penalty, tables=tables, present=present, guidance=guidance
    )


def _guided(logits: list[Tensor], guidance: float) -> Tensor:
    """Logits with films, moved away from those without films if these are given.

    The constant that turns either into log-probabilities is the same for every word of a row:
    normalising the result removes it.
    """
    if len(logits) == 1:
        return logits[0]
    seen, unseen = logits
    return seen + guidance * (seen - unseen)


def _best_words(logits: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
    """The G likeliest words after each beam and their log-probabilities, both `(B, G, G)`.

    No more than G of one beam's words can be among its study's G best. An ended beam continues
    with padding, with probability 1.
    """
    total = _without_specials(logits)
    best, words = logits.topk(logits.shape[1], dim=-1)
    log_probabilities = (best - total).masked_fill(ended.unsqueeze(2), -torch.inf)
    log_probabilities[:, :, 0].masked_fill_(ended, 0.0)
    return words.masked_fill(ended.unsqueeze(2), PAD), log_probabilities


def _without_specials(logits: Tensor) -> Tensor:
    """Make PAD and BOS impossible, in place; return the logits' former logsumexp, `(..., 1)`."""
    total = logits.logsumexp(-1, keepdim=True)
    for never in (PAD, BOS):
        logits[..., never] = -torch.inf
    return total


def _compact_rows(stay: list[bool]) -> tuple[list[int], list[int]]:
    """The rows that stay, by their new places, and the places that get another row.

    The last rows that stay take the places of those that leave.
    """
    count = sum(stay)
    rows, behind = list(range(count)), [row for row in range(count, len(stay)) if stay[row]]
    moved = [row for row in range(count) if not stay[row]]
    for place, row in zip(moved, behind, strict=True):
        rows[place] = row
    return rows, moved
