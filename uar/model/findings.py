"""Findings classified from the films, and prompts that give them to the decoder: beyond the paper.

After PromptMRG (Jin et al., AAAI 2024): a head classifies the encoded films; the decoder is trained
with the true findings as prompts and generates with those that the head finds likely enough. There,
a prompt is special words before the report; here it is one vector, added to every input word.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_DROPOUT = 0.3  # share of the pooled features zeroed in training


class FindingsHead(nn.Module):
    """Logits of N findings from encoded films, and the prompt of a set of findings.

    Args:
        d_model: d.
        findings: N.
    """

    def __init__(self, d_model: int, findings: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(_DROPOUT)
        self.classify = nn.Linear(d_model, findings)
        self.present = nn.Parameter(torch.randn(findings, d_model))
        self.absent = nn.Parameter(torch.randn(findings, d_model))
        self.thresholds: Tensor
        self.register_buffer("thresholds", torch.full((findings,), 0.5))  # set by validation

    def forward(self, pooled: Tensor) -> Tensor:
        """Map encoded films `(B, d)`, averaged over their tokens, to logits `(B, N)`."""
        return self.classify(self.dropout(self.norm(pooled))).float()

    def found(self, logits: Tensor) -> Tensor:
        """Findings whose probability exceeds their threshold, `(B, N)` float, 0 or 1."""
        return (logits.sigmoid() > self.thresholds).to(self.present)

    def prompt(self, findings: Tensor) -> Tensor:
        """The sum of each finding's vector, present or absent: `(B, N)` 0 or 1 to `(B, 1, d)`."""
        vectors = findings @ self.present + (1 - findings) @ self.absent
        return vectors.unsqueeze(1) / findings.shape[1] ** 0.5
