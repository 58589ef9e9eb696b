"""Cross-modal Representation Aligner (section 3.3): shared basis, attention over it, fusion."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from uar.model.attention import MultiHeadAttention

BasisKind = Literal["orthogonal", "uniform", "normal"]
FusionKind = Literal["dual_gate", "none", "addition"]


def make_basis(kind: BasisKind, rows: int, d_model: int) -> Tensor:
    """B of Eq. 6, `(rows, d)`, or its substitutes of Table 3, scaled to the same mean square.

    `orthogonal`: orthonormal columns (BᵀB = I; 2,048 rows cannot be orthonormal when d < 2,048),
    as from Gram-Schmidt, but by QR decomposition. `uniform`: on [-1, 1]. `normal`: standard.
    """
    if kind == "orthogonal":
        basis, _ = torch.linalg.qr(torch.randn(rows, d_model))
        return basis
    if kind == "uniform":
        basis = torch.rand(rows, d_model) * 2 - 1
        return basis * (3 / rows) ** 0.5
    return torch.randn(rows, d_model) * (1 / rows) ** 0.5


class DualGate(nn.Module):
    """Fusion by an input gate and a forget gate (Eq. 8, 9).

    Args:
        d_model: d.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.input_gate = nn.Linear(2 * d_model, d_model, bias=False)  # [W_1; W_2] of G_I
        self.forget_gate = nn.Linear(2 * d_model, d_model, bias=False)  # [W_1; W_2] of G_F

    def forward(self, e: Tensor, f: Tensor) -> Tensor:
        """`E`, `F̃` `(..., d)` -> `F` `(..., d)`."""
        both = torch.cat([e, f], dim=-1)
        g_i = torch.sigmoid(self.input_gate(both))  # Eq. 8
        g_f = torch.sigmoid(self.forget_gate(both))
        return g_i * torch.tanh(e + f) + g_f * e + f  # Eq. 9


class CrossModalRepresentationAligner(nn.Module):
    """E -> F for either modality (Eq. 2).

    No term depends on position, so F depends only on each embedding: callers pass each distinct one
    once.

    Args:
        d_model: d.
        heads: heads of the attention over the basis.
        basis: kind of subspace (Table 3).
        basis_size: number of rows of B.
        fusion: how E and F̃ are fused (Table 4).
    """

    def __init__(
        self, d_model: int, heads: int, *, basis: BasisKind, basis_size: int, fusion: FusionKind
    ) -> None:
        super().__init__()
        self.basis: Tensor
        self.register_buffer("basis", make_basis(basis, basis_size, d_model))  # B, fixed
        self.gain = nn.Parameter(torch.ones(basis_size, d_model))  # gamma / sqrt(basis_size)
        self.bias = nn.Parameter(torch.zeros(basis_size, d_model))  # beta
        self.attention = MultiHeadAttention(d_model, heads)
        self.fusion = fusion
        self.gate = DualGate(d_model) if fusion == "dual_gate" else None

    def adjusted_basis(self) -> Tensor:
        """B̂ of Eq. 6, `(basis_size, d)`.

        gamma starts at sqrt(basis_size), so that B̂ starts with unit variance, as a layer norm's
        output does; with gamma = 1, attention over B's tiny entries would start uniform.
        """
        return self.gain * len(self.basis) ** 0.5 * self.basis + self.bias

    def forward(self, e: Tensor) -> Tensor:
        """Map embeddings E `(*, d)` to discriminative features F `(*, d)`."""
        keys_and_values = self.attention.keys_and_values(self.adjusted_basis().unsqueeze(0))
        f = self.attention(e.flatten(0, -2).unsqueeze(0), keys_and_values).view_as(e)
        if self.gate is not None:
            return self.gate(e, f)
        return e + f if self.fusion == "addition" else f
