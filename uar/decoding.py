"""Beam search over the words of a report, batched, with cached keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from uar.model import UAR
from uar.text import BOS, EOS, PAD


@dataclass(frozen=True)
class Generated:
    """The best beam of one study."""

    ids: list[int]  # words, without BOS, EOS and padding
    log_probability: float  # of the words and, if it came, the end token


@torch.inference_mode()
def generate(
    model: UAR, visual: Tensor, beam_size: int, length_penalty: float = 0.0
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
    """
    device = model.head.weight.device
    studies, beams, length = len(visual), beam_size, model.sizes.max_length
    words = model.word_features()  # (|V_R|, d)
    caches = model.start(visual, beams)
    waiting = torch.arange(studies, device=device)  # study behind each row of the batch
    history = torch.full((studies, beams, length), PAD, device=device)
    last = torch.full((studies, beams), BOS, device=device)
    scores = torch.full((studies, beams), -torch.inf, device=device)
    scores[:, 0] = 0.0  # beams start alike: only one counts
    lengths = torch.zeros(studies, beams, device=device)
    ended = torch.zeros(studies, beams, dtype=torch.bool, device=device)
    done: list[Generated | None] = [None] * studies

    for position in range(length):
        steps = model.step(words[last.flatten()], caches, position).unflatten(0, (-1, beams))
        steps[:, :, [PAD, BOS]] = -torch.inf
        steps[ended] = -torch.inf
        steps[:, :, PAD] = steps[:, :, PAD].masked_fill(ended, 0.0)  # an ended beam only pads
        totals = scores.unsqueeze(2) + steps  # (B, G, |V_R|)
        new_lengths = (lengths + ~ended).unsqueeze(2)
        ranked = totals / new_lengths**length_penalty
        top = ranked.flatten(1).topk(beams, dim=1).indices
        parent, last = top // steps.shape[2], top % steps.shape[2]  # (B, G)
        scores = totals.flatten(1).gather(1, top)
        lengths = new_lengths.squeeze(2).gather(1, parent)
        ended = ended.gather(1, parent) | (last == EOS)
        history = history.gather(1, parent.unsqueeze(2).expand(-1, -1, length))
        history[:, :, position] = last

        finished = ended.all(dim=1) if position + 1 < length else torch.ones_like(waiting).bool()
        for row in finished.nonzero().flatten().tolist():
            best = int((scores[row] / lengths[row] ** length_penalty).argmax())
            done[int(waiting[row])] = _strip(history[row, best].tolist(), float(scores[row, best]))
        kept = (~finished).nonzero().flatten()
        if not len(kept):
            break
        flat = (torch.arange(len(waiting), device=device).unsqueeze(1) * beams + parent)[kept]
        dropped = kept if len(kept) < len(waiting) else None
        caches = [cache.select(flat.flatten(), dropped) for cache in caches]
        waiting, last, scores, lengths, ended, history = (
            state[kept] for state in (waiting, last, scores, lengths, ended, history)
        )
    return [study for study in done if study is not None]


def _strip(ids: list[int], log_probability: float) -> Generated:
    return Generated([i for i in ids if i not in (EOS, PAD)], log_probability)
