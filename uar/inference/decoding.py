"""Beam search over the words of a report, batched, with cached keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from uar.core.config import DecodeParams
from uar.core.special_words import BOS, EOS, PAD
from uar.model.uar import UAR, Tables


@dataclass(frozen=True)
class Generated:
    """The best beam of one study."""

    ids: list[int]  # words, without BOS, EOS and padding
    log_probability: float  # of the words and, if it came, the end token


@torch.inference_mode()
def generate(
    model: UAR,
    visual: Tensor,
    beam_size: int,
    length_penalty: float = 0.0,
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
    device = model.head.weight.device
    studies, beams, length = len(visual), beam_size, model.sizes.max_length
    tables = tables or model.tables()
    cache = model.start(visual, beams, tables, present)
    caches = [cache, model.start_without_image(cache)] if guidance else [cache]
    waiting = torch.arange(studies, device=device)  # study behind each row of the batch
    history = torch.full((studies, beams, length), PAD, device=device)
    last = torch.full((studies, beams), BOS, device=device)
    scores = torch.full((studies, beams), -torch.inf, device=device)
    scores[:, 0] = 0.0  # beams start alike: only one counts
    lengths = torch.zeros(studies, beams, device=device)
    ended = torch.zeros(studies, beams, dtype=torch.bool, device=device)
    written = torch.full((studies, length), PAD, device=device)
    log_probabilities = torch.zeros(studies, device=device)

    for position in range(length):
        logits = [model.step(tables.words[last], cache) for cache in caches]
        words, following = _best_words(_guided(logits, guidance), ended)
        totals = scores.unsqueeze(2) + following  # (B, G, G): G words after each of G beams
        new_lengths = (lengths + ~ended).unsqueeze(2)
        ranked = totals / new_lengths**length_penalty
        top = ranked.flatten(1).topk(beams, dim=1).indices
        parent = top // words.shape[2]  # (B, G)
        last = words.flatten(1).gather(1, top)
        scores = totals.flatten(1).gather(1, top)
        lengths = new_lengths.squeeze(2).gather(1, parent)
        ended = ended.gather(1, parent) | (last == EOS)
        history = history.gather(1, parent.unsqueeze(2).expand(-1, -1, length))
        history[:, :, position] = last

        # the one wait for the device in a word: whose reports have ended
        stay = [not end for end in ended.all(dim=1).tolist()] if position + 1 < length else []
        if not all(stay) or not stay:
            best = (scores / lengths**length_penalty).argmax(dim=1, keepdim=True)
            written[waiting] = history.gather(1, best.unsqueeze(2).expand(-1, -1, length)).squeeze(
                1
            )
            log_probabilities[waiting] = scores.gather(1, best).squeeze(1)
        if not any(stay):
            break
        for cache in caches:
            cache.branch(parent)
        if not all(stay):
            kept, moved = _compact_rows(stay)
            for cache in caches:
                cache.keep(kept, moved)
            rows = torch.tensor(kept).to(device, non_blocking=True)
            waiting, last, scores, lengths, ended, history = (
                state[rows] for state in (waiting, last, scores, lengths, ended, history)
            )
    return [
        Generated([word for word in words if word not in (EOS, PAD)], log_probability)
        for words, log_probability in zip(written.tolist(), log_probabilities.tolist(), strict=True)
    ]


def generate_as(
    decode: DecodeParams,
    model: UAR,
    visual: Tensor,
    tables: Tables | None = None,
    present: Tensor | None = None,
) -> list[Generated]:
    """`generate` with the settings of params.yaml."""
    beams, penalty, guidance = decode.beam_size, decode.length_penalty, decode.guidance
    return generate(model, visual, beams, penalty, tables, present, guidance)


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
    total = logits.logsumexp(-1, keepdim=True)
    for never in (PAD, BOS):
        logits[:, :, never] = -torch.inf
    best, words = logits.topk(logits.shape[1], dim=-1)
    log_probabilities = (best - total).masked_fill(ended.unsqueeze(2), -torch.inf)
    log_probabilities[:, :, 0].masked_fill_(ended, 0.0)
    return words.masked_fill(ended.unsqueeze(2), PAD), log_probabilities


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
