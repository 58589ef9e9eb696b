"""Multi-head attention (Eq. 7, Vaswani et al. 2017), used by CRA and by the Transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """Attention that projects keys and values separately from queries, so that they can be cached.

    It contains no dropout, which is applied to the outputs of sub-layers (Vaswani et al. 2017,
    section 5.4).

    Args:
        d_model: d, the width of queries, keys, values and output.
        heads: h, the number of heads; each is d / h wide, and its scores are divided by
            sqrt(d / h).
    """

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(d_model, d_model, bias=False)  # W_Q
        self.key = nn.Linear(d_model, d_model, bias=False)  # W_K
        self.value = nn.Linear(d_model, d_model, bias=False)  # W_V
        self.output = nn.Linear(d_model, d_model, bias=False)

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, `(B, h, S, d/h)` each, of `memory` `(B, S, d)`."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def forward(
        self,
        x: Tensor,
        keys_and_values: tuple[Tensor, Tensor],
        bias: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Attend from `x` `(B, T, d)` to keys and values `(B, h, S, d/h)`; returns `(B, T, d)`.

        Args:
            bias: broadcast to `(B, h, T, S)` and added to the scaled activations.
            causal: whether query t sees only keys 0 to t.
        """
        keys, values = keys_and_values
        queries = self._split(self.query(x))
        if queries.device.type == "cpu" and queries.dtype == torch.bfloat16:
            attended = _in_three_products(queries, keys, values, bias, causal)
        else:
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=bias, is_causal=causal
            )
        return self.output(attended.transpose(1, 2).flatten(2))

    def to_one(self, memory: Tensor) -> Tensor:
        """The output if all keys and values come from a single vector, `(B, d)` -> `(B, d)`.

        It is the same for every query, since the weights sum to 1 whatever they are.
        """
        return self.output(self.value(memory))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, d) -> (B, h, T, d/h)


def _in_three_products(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, causal: bool
) -> Tensor:
    """softmax(QKᵀ / sqrt(d/h) + bias) V; with a bias, which can be large, softmax in float32.

    On a CPU, torch's fused attention is no faster in bfloat16 than in float32, but these products
    are (`python -m benchmarks.step`).
    """
    activations = (queries @ keys.transpose(2, 3)) * queries.shape[-1] ** -0.5
    if bias is not None:
        activations = activations + bias.float()
    if causal:
        later = torch.ones(activations.shape[-2:], dtype=torch.bool, device=queries.device).triu(1)
        activations = activations.masked_fill(later, -torch.inf)
    return activations.softmax(-1, dtype=activations.dtype).to(values.dtype) @ values
