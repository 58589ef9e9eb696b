"""How likely a report is under a model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from uar.core.special_words import PAD


def report_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Eq. 5 for each report, `(B,)`: the sum of nats over its words and end token.

    Args:
        logits: `(B, T, |V_R|)`.
        targets: ids `(B, T)`; padding does not count.
    """
    nats = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=PAD, reduction="none"
    )
    return nats.view_as(targets).sum(dim=1)
