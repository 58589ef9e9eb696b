"""Latent Space Unifier (section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentSpaceUnifier(nn.Module):
    """Look-up matrices of both modalities' discrete tokens (Eq. 1).

    The tokens themselves are made offline: `uar.tokens` (images) and `uar.data.text` (reports).

    Args:
        codebook_size: |V_I|.
        vocabulary_size: |V_R|, special words included.
        d_model: d.
    """

    def __init__(self, codebook_size: int, vocabulary_size: int, d_model: int) -> None:
        super().__init__()
        self.visual = LookUp(codebook_size, d_model)  # W_I
        self.text = LookUp(vocabulary_size, d_model)  # W_R

    @torch.no_grad()
    def start_from_codes(self, vectors: Tensor) -> None:
        """Initialise W_I with the codes' own vectors instead of random rows.

        Args:
            vectors: `(codebook_size, D)`, leading components first, of which at most d are used.
                They are centred, scaled to W_I's variance, and rotated at random.
        """
        d_model = self.visual.embedding_dim
        kept = vectors[:, :d_model].to(self.visual.weight)
        kept = (kept - kept.mean(0)) / kept.std()
        turn, _ = torch.linalg.qr(torch.randn(d_model, kept.shape[1]))  # (d, D), BᵀB = I
        self.visual.weight.copy_(kept @ turn.T.to(kept) / kept.shape[1] ** 0.5)


class LookUp(nn.Embedding):
    """A trainable look-up matrix, scaled by sqrt(d) to unit variance (Vaswani et al. 2017, 3.4).

    Args:
        rows: number of ids that have an embedding.
        d_model: d.
    """

    def __init__(self, rows: int, d_model: int) -> None:
        super().__init__(rows, d_model)
        nn.init.normal_(self.weight, std=d_model**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids `(*)` to embeddings `(*, d)`."""
        return super().forward(ids) * self.embedding_dim**0.5

    def all(self) -> Tensor:
        """Embeddings of every id, `(rows, d)`."""
        return self.weight * self.embedding_dim**0.5
