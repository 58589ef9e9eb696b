"""Latent Space Unifier (section 3.2), and the ResNet that the base model has in its place."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from uar.core.config import ResNetParams
from uar.core.errors import UserError

IMAGENET_WEIGHTS = "microsoft/resnet-101"
_RESNET_DOWNSAMPLING = 32
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
        """Let W_I start with the codes' own vectors, in place of random rows.

        Args:
            vectors: `(codebook_size, D)`, leading components first; of more than d, the first d
                are taken. They are centred, scaled to W_I's variance, and turned at random.
        """
        d_model = self.visual.embedding_dim
        kept = vectors[:, :d_model].to(self.visual.weight)
        kept = (kept - kept.mean(0)) / kept.std()
        turn, _ = torch.linalg.qr(torch.randn(d_model, kept.shape[1]))  # (d, D), BᵀB = I
        self.visual.weight.copy_(kept @ turn.T.to(kept) / kept.shape[1] ** 0.5)


class ResNetFeatures(nn.Module):
    """Visual embeddings of the base model: a ResNet's last feature map, projected to d.

    Args:
        params: which weights, how deep, and whether they are trained.
        d_model: d.

    Raises:
        UserError: weights that cannot be loaded.
    """

    def __init__(self, params: ResNetParams, d_model: int) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel  # seconds that no other model needs

        self.fine_tune = params.fine_tune
        config = ResNetConfig(depths=list(params.depths))
        self.resnet = ResNetModel(config)
        self.project = nn.Linear(list(config.hidden_sizes or ())[-1], d_model)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.resnet.requires_grad_(params.fine_tune)

    def load_pretrained(self, weights: str) -> None:
        """Take the ResNet's weights from `imagenet` or a folder that transformers reads."""
        from transformers import ResNetModel

        name = IMAGENET_WEIGHTS if weights == "imagenet" else weights
        try:
            pretrained = ResNetModel.from_pretrained(name)
            self.resnet.load_state_dict(pretrained.state_dict())
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"model.resnet.weights: {name} cannot be loaded ({error}). Name a folder that "
                "holds config.json and model.safetensors with model.resnet.depths' blocks, or "
                "use `none`."
            ) from None

    def train(self, mode: bool = True) -> ResNetFeatures:
        """A frozen ResNet keeps its batch statistics."""
        super().train(mode)
        if not self.fine_tune:
            self.resnet.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Gray pixels `(B, V, H, W)` in [0, 1] to embeddings `(B, V * H/32 * W/32, d)`."""
        rgb = (pixels.flatten(0, 1).unsqueeze(1) - self.mean) / self.std  # (BV, 3, H, W)
        cells = self.resnet(rgb).last_hidden_state.flatten(2).transpose(1, 2)  # (BV, S, 2048)
        return self.project(cells).unflatten(0, pixels.shape[:2]).flatten(1, 2)


def resnet_cells(crop: int) -> int:
    """Cells of `ResNetFeatures`' last map for an image of `crop` pixels."""
    return math.ceil(crop / _RESNET_DOWNSAMPLING) ** 2


class LookUp(nn.Embedding):
    """A trainable look-up matrix, scaled by sqrt(d) to unit variance (Vaswani et al. 2017, 3.4)."""

    def __init__(self, rows: int, d_model: int) -> None:
        super().__init__(rows, d_model)
        nn.init.normal_(self.weight, std=d_model**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids `(*)` to embeddings `(*, d)`."""
        return super().forward(ids) * self.embedding_dim**0.5

    def all(self) -> Tensor:
        """Embeddings of every id, `(rows, d)`."""
        return self.weight * self.embedding_dim**0.5
