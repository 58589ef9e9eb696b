"""The words of reports, by beam search or drawn at random; batched, with cached keys and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from uar.core.config import DecodeParams
from uar.core.special_words import BOS, EOS, PAD
from uar.model.uar import UAR, Tables

_DRAWN_BITS = 31  # of a random number
_WEIGHT_BITS = 30  # to which a word's probability is rounded to draw it


@dataclass(frozen=True)
class Generated:
    """The best beam of one study, or one of its samples."""

    ids: list[int]  # words, without BOS, EOS and padding
    log_probability: float  # of the words and, if it came, the end token


@torch.inference_mode()
def generate(
    model: UAR,
    visual: Tensor,
    beam_size: int,
    length_penalty: float = 0.0,
    *,
    tables: Tables | None = None,
    present: Tensor | None = None,
    guidance: float = 0.0,
) -> list[Generated]:
    """Write a report for each of B studies.

    Beams are ranked by log-probability / length ** length_penalty, the end token counted. A study
    whose beams have all ended leaves the batch; decoding stops when none is left or after T words.
    `beam_size` 1 is greedy decoding.

    Args:
        model: in evaluation mode.
        visual: tokens or pixels of B studies, as `UAR.forward` takes them.
        beam_size: beams G kept for each study.
        length_penalty: 0 ranks by log-probability alone, 1 by its mean per word.
        tables: of this model, for many batches; else they are made here.
        present: views that each study has, as `UAR.forward` takes them.
        guidance: gamma of classifier-free guidance (Kornblith et al. 2023, "Guiding image
            captioning models toward more specific captions"): words are ranked by
            (1 + gamma) log p(word | films) - gamma log p(word | no films), normalised again. Above
            0 it needs a model with `image_dropout`.
    """

    def extend(beams: _Texts, logits: Tensor, position: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        if position == 0:
            beams.log_probabilities[:, 1:] = -torch.inf  # beams start alike: only one counts
        words, following = _best_words(logits, beams.ended)
        totals = beams.log_probabilities.unsqueeze(2) + following  # (B, G, G): words after beams
        lengths = (beams.lengths + ~beams.ended).unsqueeze(2)
        ranked = totals / lengths**length_penalty
        top = ranked.flatten(1).topk(beam_size, dim=1).indices
        parent = top // words.shape[2]  # (B, G)
        last = words.flatten(1).gather(1, top)
        beams.log_probabilities = totals.flatten(1).gather(1, top)
        beams.lengths = lengths.squeeze(2).gather(1, parent)
        beams.ended = beams.ended.gather(1, parent) | (last == EOS)
        beams.history = beams.history.gather(1, parent.unsqueeze(2).expand_as(beams.history))
        return last, parent

    beams = _write(
        model,
        visual,
        beam_size,
        extend,
        branching=True,
        tables=tables,
        present=present,
        guidance=guidance,
    )
    best = (beams.log_probabilities / beams.lengths**length_penalty).argmax(dim=1)
    return [
        of_study[chosen] for of_study, chosen in zip(beams.generated(), best.tolist(), strict=True)
    ]


@torch.inference_mode()
def sample(
    model: UAR,
    visual: Tensor,
    draws: Tensor,
    temperature: float,
    *,
    tables: Tables | None = None,
    present: Tensor | None = None,
    guidance: float = 0.0,
) -> list[list[Generated]]:
    """Draw N reports for each of B studies, word by word.

    Word t of report n is what `inverse_cdf` finds for `draws[n, t]`, whatever the study, so that a
    study's reports do not depend on the others in its batch, and those of two studies differ only
    by their films; training, which wants independent ones, has `draws` of its own for each study.
    Log-probabilities are those of temperature 1.

    Args:
        model: in evaluation mode.
        visual: tokens or pixels of B studies, as `UAR.forward` takes them.
        draws: `(N, T)`, of `random_draws`, or `(B, N, T)`.
        temperature: tau > 0: a word is drawn with a probability in proportion to p^(1 / tau).
        tables, present, guidance: as for `generate`.

    Returns:
        N reports of each study, in the order of `draws`.
    """
    draws = draws.to(model.head.weight.device)

    def extend(samples: _Texts, logits: Tensor, position: int, rows: Tensor) -> tuple[Tensor, None]:
        total = _without_specials(logits)
        drawn = (draws if draws.dim() == 2 else draws[rows])[..., position]
        words = inverse_cdf((logits / temperature).softmax(-1), drawn)
        following = logits.gather(2, words.unsqueeze(2)).squeeze(2) - total.squeeze(2)
        samples.log_probabilities += following.masked_fill(samples.ended, 0.0)
        samples.lengths += ~samples.ended
        words = words.masked_fill(samples.ended, PAD)
        samples.ended = samples.ended | (words == EOS)
        return words, None

    samples = _write(
        model,
        visual,
        draws.shape[-2],
        extend,
        branching=False,
        tables=tables,
        present=present,
        guidance=guidance,
    )
    return samples.generated()


def random_draws(seed: int, samples: int, length: int) -> Tensor:
    """Integers `(samples, length)` below 2^31, the first rows the same for any number of samples.

    The bits are PCG64's own, which no release of numpy and no CPU changes.
    """
    bits = np.random.PCG64(seed).random_raw(samples * length) >> np.uint64(64 - _DRAWN_BITS)
    return torch.from_numpy(bits.astype(np.int64)).view(samples, length)


def inverse_cdf(probabilities: Tensor, draws: Tensor) -> Tensor:
    """The word at which the cumulative distribution exceeds a number drawn from [0, 1).

    Probabilities count to 2^-30 and are summed as integers: in any order, so on any device, to the
    same sum.

    Args:
        probabilities: `(..., V)`.
        draws: that number in units of 2^-31, int64, broadcast to `(...)`.

    Returns:
        `(...)` int64.
    """
    cumulative = (probabilities * 2.0**_WEIGHT_BITS).round().long().cumsum(-1)
    drawn = (cumulative[..., -1] * draws) >> _DRAWN_BITS
    return (cumulative <= drawn.unsqueeze(-1)).sum(-1)


@dataclass
class _Texts:
    """G texts of each of B studies, as far as they are written."""

    history: Tensor  # (B, G, T), words and then padding
    log_probabilities: Tensor  # (B, G)
    lengths: Tensor  # (B, G) float, words and end token
    ended: Tensor  # (B, G) bool

    @classmethod
    def empty(cls, studies: int, texts: int, length: int, device: torch.device) -> _Texts:
        shape = studies, texts
        return cls(
            history=torch.full((*shape, length), PAD, device=device),
            log_probabilities=torch.zeros(shape, device=device),
            lengths=torch.zeros(shape, device=device),
            ended=torch.zeros(shape, dtype=torch.bool, device=device),
        )

    def of(self, rows: Tensor) -> _Texts:
        """The texts of some of the studies."""
        return _Texts(
            self.history[rows], self.log_probabilities[rows], self.lengths[rows], self.ended[rows]
        )

    def put(self, rows: Tensor, others: _Texts) -> None:
        """Take over `others` as the texts of some of the studies."""
        for name, tensor in vars(others).items():
            getattr(self, name)[rows] = tensor

    def generated(self) -> list[list[Generated]]:
        """G texts of each study."""
        return [
            [
                Generated([word for word in words if word not in (EOS, PAD)], log_probability)
                for words, log_probability in zip(*of_study, strict=True)
            ]
            for of_study in zip(self.history.tolist(), self.log_probabilities.tolist(), strict=True)
        ]


def _write(
    model: UAR,
    visual: Tensor,
    texts: int,
    extend: Callable[[_Texts, Tensor, int, Tensor], tuple[Tensor, Tensor | None]],
    *,
    branching: bool,
    tables: Tables | None,
    present: Tensor | None,
    guidance: float,
) -> _Texts:
    """G `texts` of each of B studies, until all have ended or have T words.

    Args:
        extend: adds to the texts all but their last words, given logits `(B, G, |V_R|)` of these,
            their position and which studies these are, `(B,)`. Returns those words `(B, G)`, and
            the text that each now goes on from `(B, G)`; None without `branching`, where that is
            itself.
    """
    device, length = model.head.weight.device, model.sizes.max_length
    tables = tables or model.tables()
    cache = model.start(visual, texts, tables, present, branching)
    caches = [cache, model.start_without_image(cache)] if guidance else [cache]
    whole = _Texts.empty(len(visual), texts, length, device)
    left = _Texts.empty(len(visual), texts, length, device)  # of studies still in the batch
    waiting = torch.arange(len(visual), device=device)  # which these are
    last = torch.full((len(visual), texts), BOS, device=device)
    for position in range(length):
        logits = [model.step(tables.words[last], cache) for cache in caches]
        last, parents = extend(left, _guided(logits, guidance), position, waiting)
        left.history[:, :, position] = last

        # the one wait for the device in a word: whose reports have ended
        stay = [not end for end in left.ended.all(dim=1).tolist()] if position + 1 < length else []
        if not all(stay) or not stay:
            whole.put(waiting, left)
        if not any(stay):
            break
        if parents is not None:
            for cache in caches:
                cache.branch(parents)
        if not all(stay):
            kept, moved = _compact_rows(stay)
            for cache in caches:
                cache.keep(kept, moved)
            rows = torch.tensor(kept).to(device, non_blocking=True)
            waiting, last, left = waiting[rows], last[rows], left.of(rows)
    return whole


def generate_as(
    decode: DecodeParams,
    model: UAR,
    visual: Tensor,
    *,
    tables: Tables | None = None,
    present: Tensor | None = None,
) -> list[Generated]:
    """`generate` with the settings of params.yaml, also where `evaluate` chooses among samples."""
    beams, penalty, guidance = decode.beam_size, decode.length_penalty, decode.guidance
    return generate(
        model, visual, beams, penalty, tables=tables, present=present, guidance=guidance
    )


def _guided(logits: list[Tensor], guidance: float) -> Tensor:
    """Logits with films, moved away from those without where there are such.

    What makes either of them log-probabilities is the same for every word of a row: normalising
    the result takes it off.
    """
    if len(logits) == 1:
        return logits[0]
    seen, unseen = logits
    return seen + guidance * (seen - unseen)


def _best_words(logits: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
    """The G likeliest words after each beam and their log-probabilities, both `(B, G, G)`.

    No more than G of one beam's words can be among its study's G best. After the end of a beam
    comes padding, for certain.
    """
    total = _without_specials(logits)
    best, words = logits.topk(logits.shape[1], dim=-1)
    log_probabilities = (best - total).masked_fill(ended.unsqueeze(2), -torch.inf)
    log_probabilities[:, :, 0].masked_fill_(ended, 0.0)
    return words.masked_fill(ended.unsqueeze(2), PAD), log_probabilities


def _without_specials(logits: Tensor) -> Tensor:
    """Make PAD and BOS impossible, in place; what made logits log-probabilities, `(B, G, 1)`."""
    total = logits.logsumexp(-1, keepdim=True)
    for never in (PAD, BOS):
        logits[:, :, never] = -torch.inf
    return total


def _compact_rows(stay: list[bool]) -> tuple[list[int], list[int]]:
    """Rows that stay, and the places whose row is another one's.

    The last of those that stay take the places of those that leave.
    """
    count = sum(stay)
    rows, behind = list(range(count)), [row for row in range(count, len(stay)) if stay[row]]
    moved = [row for row in range(count) if not stay[row]]
    for place, row in zip(moved, behind, strict=True):
        rows[place] = row
    return rows, moved
