"""Multi-head attention (Eq. 7 as in Vaswani et al. 2017), shared by CRA and Transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """Attention with keys and values projected apart from queries, so that they can be kept.

    Dropout is on sub-layer outputs, as in Vaswani et al. 2017, section 5.4: none is in here.

    Args:
        d_model: width d of queries, keys, values and output.
        heads: number of heads h; each is d / h wide and scaled by sqrt(d / h).
    """

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(d_model, d_model, bias=False)  # W_Q
        self.key = nn.Linear(d_model, d_model, bias=False)  # W_K
        self.value = nn.Linear(d_model, d_model, bias=False)  # W_V
        self.output = nn.Linear(d_model, d_model, bias=False)

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, S, d)` -> two of `(B, h, S, d/h)`."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def forward(
        self,
        x: Tensor,
        keys_and_values: tuple[Tensor, Tensor],
        bias: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Attend from `x` `(B, T, d)` to `(B, h, S, d/h)` keys and values; `(B, T, d)`.

        Args:
            bias: added to the scaled activations, broadcast to `(B, h, T, S)`.
            causal: query t sees keys 0..t only.
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
        """What every `x` gets whose keys and values are all of one vector, `(B, d)` -> `(B, d)`.

        Its weights, whatever they are, sum to 1.
        """
        return self.output(self.value(memory))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, d) -> (B, h, T, d/h)


def _in_three_products(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, causal: bool
) -> Tensor:
    """softmax(QKᵀ / sqrt(d/h) + bias) V; with a bias, whose scale is large, softmax in float32.

    On a CPU, torch's fused attention is no faster in bfloat16 than in float32, and these products
    are (`python -m benchmarks.step`).
    """
    activations = (queries @ keys.transpose(2, 3)) * queries.shape[-1] ** -0.5
    if bias is not None:
        activations = activations + bias.float()
    if causal:
        later = torch.ones(activations.shape[-2:], dtype=torch.bool, device=queries.device).triu(1)
        activations = activations.masked_fill(later, -torch.inf)
    return activations.softmax(-1, dtype=activations.dtype).to(values.dtype) @ values
