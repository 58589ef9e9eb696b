"""The optimiser and its parameter groups."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from uar.core.config import TrainParams
from uar.model.uar import UAR


def make_optimizer(model: UAR, params: TrainParams, learning_rate: float) -> torch.optim.AdamW:
    """AdamW; only weight matrices decay, not biases, norms, positions or the refiner's mask.

    The mask's parameters are a separate group with `params.mask_learning_rate`. L_mask as a sum
    (Eq. 12) moves all entries of M alike, with a gradient many times longer than the others': in a
    common group, M would shift as a whole, which softmax ignores, and clipping would stop the rest.

    With `params.extractor_learning_rate` the extractor's network is a separate group too:
    pretrained weights take smaller steps than those that start at random.
    """
    masks = mask_parameters(model)
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


def mask_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The refiners' parameters."""
    return [weight for name, weight in module.named_parameters() if ".refiner." in name]
