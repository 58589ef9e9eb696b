"""UAR computed the straightforward way, with the same weights: fast paths must equal and beat it.

CRA runs on every token, attention is written out, every report is padded to the full length, and
decoding passes each beam's whole prefix through the decoder again for each word, over a copy of the
encoder's output, as R2Gen (https://github.com/zhjohnchan/R2Gen) does. Tests compare the fast paths
with these functions, and benchmarks give speed relative to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uar.core.special_words import BOS, EOS, PAD
from uar.data.batches import Batch
from uar.inference.decoding import Generated
from uar.model.aligner import CrossModalRepresentationAligner
from uar.model.attention import MultiHeadAttention
from uar.model.ensemble import Ensemble, members_of
from uar.model.transformer import DecoderLayer, EncoderLayer
from uar.model.uar import UAR, masked_mean
from uar.training.losses import mask_loss, triplet_contrastive_loss
from uar.training.objective import Objective


@dataclass(frozen=True)
class Forward:
    """A teacher-forced pass at all T positions."""

    logits: Tensor  # (B, T, |V_R|)
    image_global: Tensor  # (B, d)
    report_global: Tensor  # (B, d)
    masks: list[Tensor]  # sigma(M) of each decoder layer, (1 or B, T, L)


def attend(
    weights: MultiHeadAttention,
    x: Tensor,
    memory: Tensor,
    bias: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """softmax(QKᵀ / sqrt(d/h) + bias) V, `(B, T, d)`, for x `(B, T, d)` and memory `(B, S, d)`."""
    q, k, v = (
        projection(tokens).unflatten(-1, (weights.heads, -1)).transpose(1, 2)
        for projection, tokens in (
            (weights.query, x),
            (weights.key, memory),
            (weights.value, memory),
        )
    )
    activations = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5  # (B, h, T, S)
    if bias is not None:
        activations = activations + bias
    if causal:
        later = torch.ones_like(activations[0, 0], dtype=torch.bool).triu(1)
        activations = activations.masked_fill(later, -torch.inf)
    return weights.output((activations.softmax(-1) @ v).transpose(1, 2).flatten(2))


def align(aligner: CrossModalRepresentationAligner | None, e: Tensor) -> Tensor:
    """F `(B, N, d)` of every embedding in `(B, N, d)` (Eq. 6-9)."""
    if aligner is None:
        return e
    basis = aligner.gain * len(aligner.basis) ** 0.5 * aligner.basis + aligner.bias  # Eq. 6
    f = attend(aligner.attention, e, basis.expand(len(e), -1, -1))  # Eq. 7
    if aligner.gate is not None:
        return aligner.gate(e, f)  # Eq. 8, 9
    return e + f if aligner.fusion == "addition" else f


def image_features(model: UAR, visual: Tensor) -> Tensor:
    """F^(I) `(B, L, d)`."""
    if model.unifier is None:
        return align(model.aligner, model.extractor(visual))
    return align(model.aligner, model.unifier.visual(visual.flatten(1)))


def text_features(model: UAR, ids: Tensor) -> Tensor:
    """F^(R) `(B, T, d)`."""
    return align(model.aligner, model.text_table(ids))


def drop(layer: nn.Module, x: Tensor) -> Tensor:
    """PyTorch's dropout at the layer's rate."""
    return F.dropout(x, layer.dropout.p, layer.training)


def feed_forward(layer: EncoderLayer | DecoderLayer, x: Tensor) -> Tensor:
    """Two linear maps, `(B, T, d)` to `(B, T, d)`."""
    first, _, _, second = layer.feed_forward
    return second(drop(layer, first(x).relu()))


def pool(model: UAR, image: Tensor, views: int) -> Tensor:
    """F^(I) `(B, L, d)` of `views` images, averaged over the squares of `model.visual_pool`."""
    side = int((image.shape[1] // views) ** 0.5)
    grids = image.unflatten(1, (views, side, side)).movedim(4, 2)  # (B, V, d, side, side)
    cells = F.avg_pool2d(grids.flatten(0, 1), model.pool).unflatten(0, grids.shape[:2])
    return cells.movedim(2, 4).flatten(1, 3)


def encode(model: UAR, image: Tensor, views: int) -> Tensor:
    """Pool F^(I) `(B, L, d)` of `views` images, and encode it to visual features."""
    encoder = model.encoder
    image = pool(model, image, views)
    x = drop(encoder, image + encoder.positions(0, image.shape[1]))
    layer: EncoderLayer
    for layer in encoder.layers:
        normed = layer.attention_norm(x)
        x = x + drop(layer, attend(layer.attention, normed, normed))
        x = x + drop(layer, feed_forward(layer, layer.feed_forward_norm(x)))
    return encoder.norm(x)


def prompt(model: UAR, encoded: Tensor) -> Tensor:
    """What the findings head tells the decoder of each study, `(B, 1, d)`; zeros without a head."""
    head = model.findings
    if head is None:
        return encoded.new_zeros(len(encoded), 1, encoded.shape[2])
    found = head(encoded.mean(dim=1)).sigmoid() > head.thresholds  # (B, N)
    vectors = torch.where(found.unsqueeze(2), head.present, head.absent)  # (B, N, d)
    return vectors.sum(dim=1, keepdim=True) / found.shape[1] ** 0.5


def decode(model: UAR, text: Tensor, visual: Tensor) -> tuple[Tensor, list[Tensor]]:
    """h_t `(B, T, d)` (Eq. 3) and each layer's sigma(M) (Eq. 11)."""
    decoder = model.decoder
    x = drop(decoder, text + decoder.positions(0, text.shape[1]))
    masks = []
    layer: DecoderLayer
    for layer in decoder.layers:
        normed = layer.self_norm(x)
        x = x + drop(layer, attend(layer.self_attention, normed, normed, causal=True))
        normed = layer.visual_norm(x)
        bias = None
        if layer.refiner is not None:
            masks.append(layer.refiner(normed, layer.refiner.keys(visual), 0))
            bias = layer.mask_scale * masks[-1].unsqueeze(1)
        x = x + drop(layer, attend(layer.visual_attention, normed, visual, bias))
        x = x + drop(layer, feed_forward(layer, layer.feed_forward_norm(x)))
    return decoder.norm(x), masks


def forward(model: UAR, visual: Tensor, report: Tensor) -> Forward:
    """The same as `UAR.forward`."""
    inputs = report[:, :-1]
    image, text = image_features(model, visual), text_features(model, inputs)
    encoded = encode(model, image, visual.shape[1])
    states, masks = decode(model, text + prompt(model, encoded), encoded)
    words = (inputs != PAD) & (inputs != BOS) & (inputs != EOS)
    return Forward(model.head(states), image.mean(dim=1), masked_mean(text, words), masks)


def loss(model: UAR, batch: Batch, objective: Objective) -> Tensor:
    """The loss of Eq. 13."""
    output, targets = forward(model, batch.visual, batch.report), batch.report[:, 1:]
    total = objective.params.lambda1 * F.cross_entropy(
        output.logits.flatten(0, 1), targets.flatten(), ignore_index=PAD
    )
    total = total + objective.params.lambda2 * triplet_contrastive_loss(
        output.image_global, output.report_global, batch.report_ids, margin=objective.params.margin
    )
    if output.masks:
        reduction = objective.params.mask_reduction
        total = total + objective.lambda3 * mask_loss(output.masks, targets, reduction=reduction)
    return total


@torch.inference_mode()
def generate(
    model: UAR | Ensemble,
    visual: Tensor,
    beam_size: int,
    length_penalty: float = 0.0,
    guidance: float = 0.0,
) -> list[Generated]:
    """`uar.inference.decoding.generate`, with lists of beams and each prefix decoded anew."""
    members = members_of(model)

    def rank(beam: tuple[list[int], float]) -> float:
        words, log_probability = beam
        return log_probability / max(1, len(words)) ** length_penalty

    encoded = [encode(one, image_features(one, visual), visual.shape[1]) for one in members]
    prompts = [prompt(one, of) for one, of in zip(members, encoded, strict=True)]
    kept: list[list[tuple[list[int], float]]] = [[([], 0.0)] for _ in visual]
    for position in range(model.sizes.max_length):
        rows = [study for study, beams in enumerate(kept) for _ in beams]
        prefixes = [[BOS, *words] for beams in kept for words, _ in beams]
        padded = [ids + [PAD] * (position + 1 - len(ids)) for ids in prefixes]
        ids_before = torch.tensor(padded, device=visual.device)
        probabilities, unseen = 0.0, 0.0  # mean over the members
        for one, films, found in zip(members, encoded, prompts, strict=True):
            text = text_features(one, ids_before)
            states, _ = decode(one, text + found[rows], films[rows])
            probabilities = probabilities + one.head(states[:, -1]).softmax(-1) / len(members)
            if guidance:
                states, _ = decode(one, text, one.no_image.expand_as(films[rows]))
                unseen = unseen + one.head(states[:, -1]).softmax(-1) / len(members)
        words_after = probabilities.log()
        if guidance:
            guided = (1 + guidance) * words_after - guidance * unseen.log()
            words_after = guided.log_softmax(-1)
        ordered = words_after.sort(descending=True)
        following = zip(ordered.indices.tolist(), ordered.values.tolist(), strict=True)
        for study, beams in enumerate(kept):
            candidates = []
            for words, total in beams:
                ids, log_probabilities = next(following)
                if words and words[-1] == EOS:
                    candidates.append((words, total))
                    continue
                for word, log_probability in zip(ids, log_probabilities, strict=True):
                    if word not in (PAD, BOS):
                        candidates.append(([*words, word], total + log_probability))
            kept[study] = sorted(candidates, key=rank, reverse=True)[:beam_size]
        if all(words[-1] == EOS for beams in kept for words, _ in beams):
            break
    best = [max(beams, key=rank) for beams in kept]
    return [Generated([w for w in words if w != EOS], total) for words, total in best]


@torch.inference_mode()
def sample(
    model: UAR, visual: Tensor, draws: Tensor, temperature: float, guidance: float = 0.0
) -> list[list[Generated]]:
    """`uar.inference.decoding.sample`, one report after another, with each prefix decoded anew."""
    encoded = encode(model, image_features(model, visual), visual.shape[1])
    prompts = prompt(model, encoded)
    return [
        [
            _draw(model, encoded[[study]], prompts[[study]], of_report, temperature, guidance)
            for of_report in (draws.double() / 2**31).tolist()
        ]
        for study in range(len(visual))
    ]


def _draw(
    model: UAR,
    encoded: Tensor,
    prompted: Tensor,
    draws: list[float],
    temperature: float,
    guidance: float,
) -> Generated:
    """Draw one report, from numbers in [0, 1)."""
    words: list[int] = []
    total = 0.0
    for drawn in draws:
        text = text_features(model, torch.tensor([[BOS, *words]]))
        states, _ = decode(model, text + prompted, encoded)
        following = model.head(states[0, -1]).log_softmax(-1)
        if guidance:
            states, _ = decode(model, text, model.no_image.expand_as(encoded))
            unseen = model.head(states[0, -1]).log_softmax(-1)
            following = ((1 + guidance) * following - guidance * unseen).log_softmax(-1)
        log_probabilities = following.tolist()
        weights = {
            word: math.exp(value / temperature)
            for word, value in enumerate(log_probabilities)
            if word not in (PAD, BOS)
        }
        left = drawn * sum(weights.values())
        for word, weight in weights.items():  # noqa: B007
            left -= weight
            if left < 0:
                break
        total += log_probabilities[word]
        if word == EOS:
            break
        words.append(word)
    return Generated(words, total)
