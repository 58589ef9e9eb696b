"""Visual features of rows without visual tokens: a network's feature map, projected to d."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from uar.core.config import ExtractorParams
from uar.core.device import few_at_once
from uar.core.errors import UserError
from uar.networks.pretrained import NETWORKS, FeatureNetwork, load_network

IMAGENET_RESNET = "microsoft/resnet-101"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ResNet(FeatureNetwork):
    """A ResNet (He et al., CVPR 2016) to its last map, as `transformers` has it.

    Args:
        depths: blocks of each group; (3, 4, 23, 3) is ResNet-101.
    """

    name = "resnet"
    stride = 32
    channels = 2048

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel  # seconds that no other model needs

        self.model = ResNetModel(ResNetConfig(depths=list(depths)))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def load_pretrained(self, weights: str) -> None:
        """Take the weights of `imagenet` or of a folder that transformers reads."""
        from transformers import ResNetModel

        name = IMAGENET_RESNET if weights == "imagenet" else weights
        try:
            pretrained = ResNetModel.from_pretrained(name)
            self.model.load_state_dict(pretrained.state_dict())
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"model.extractor.weights: {name} cannot be loaded ({error}). Name a folder that "
                "holds config.json and model.safetensors with model.extractor.depths' blocks, or "
                "use `none`."
            ) from None

    def forward(self, pixels: Tensor) -> Tensor:
        """`(N, H, W)` gray pixels in [0, 1] to `(N, 2048, H/32, W/32)`, rounded up."""
        return self.model((pixels.unsqueeze(1) - self.mean) / self.std).last_hidden_state


class VisualExtractor(nn.Module):
    """Visual embeddings of a model without LSU (section 4.1, Settings).

    Args:
        params: which network, and whether it is trained.
        d_model: d.
    """

    def __init__(self, params: ExtractorParams, d_model: int) -> None:
        super().__init__()
        self.frozen = not params.fine_tune
        self.network: FeatureNetwork = (
            ResNet(params.depths) if params.network == "resnet" else NETWORKS[params.network]()
        )
        self.norm = nn.LayerNorm(self.network.channels)  # networks' scales differ tenfold
        self.project = nn.Linear(self.network.channels, d_model)
        self.network.requires_grad_(params.fine_tune)
        if self.frozen:
            self.network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def load_pretrained(self, weights: str) -> None:
        """Take the network's weights from `imagenet` or a path.

        Raises:
            UserError: weights that cannot be loaded.
        """
        if isinstance(self.network, ResNet):
            self.network.load_pretrained(weights)
            return
        path = None if weights == "imagenet" else Path(weights)
        pretrained = load_network(self.network.name, path, "model.extractor")
        self.network.load_state_dict(pretrained.state_dict())

    def train(self, mode: bool = True) -> VisualExtractor:
        """A frozen network keeps its batch statistics."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, visual: Tensor) -> Tensor:
        """Embeddings `(B, V * cells, d)`, row by row.

        Args:
            visual: gray pixels `(B, V, H, W)` in [0, 1], or `maps` of them `(B, V, C, h, w)`.
        """
        views = visual.flatten(0, 1)
        maps = self.maps(views) if visual.ndim == 4 else views.float()  # (BV, C, h, w)
        cells = self.norm(maps.flatten(2).transpose(1, 2))  # (BV, cells, C)
        return self.project(cells).unflatten(0, visual.shape[:2]).flatten(1, 2)

    def maps(self, pixels: Tensor) -> Tensor:
        """The network's `(N, C, h, w)` of `(N, H, W)`; a frozen one's in float32 always."""
        if not self.frozen:
            return self.network(pixels)
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            return torch.cat([self.network(part) for part in few_at_once(pixels)])
