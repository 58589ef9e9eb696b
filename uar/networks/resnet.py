"""ResNet, as implemented in `transformers`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from torch import Tensor

from uar.core.errors import UserError
from uar.networks.network import FeatureNetwork

IMAGENET_RESNET = "microsoft/resnet-101"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ResNet(FeatureNetwork):
    """A ResNet (He et al., CVPR 2016) up to its last map, as implemented in `transformers`.

    Args:
        depths: blocks of each group; (3, 4, 23, 3) is ResNet-101.
    """

    name = "resnet"

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel  # takes seconds; no other model needs it

        self.model = ResNetModel(ResNetConfig(depths=list(depths)))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def load_pretrained(self, weights: str) -> None:
        """Load the `imagenet` weights, or those in a folder that transformers reads."""
        from transformers import ResNetModel

        name = IMAGENET_RESNET if weights == "imagenet" else weights
        try:
            pretrained = ResNetModel.from_pretrained(name, use_safetensors=True)
            self.model.load_state_dict(pretrained.state_dict())
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise UserError(
                f"model.extractor.weights: {name} cannot be loaded ({error}). Name a folder that "
                "holds config.json and a model.safetensors whose blocks are those of "
                "model.extractor.depths, or use `none`."
            ) from None

    def forward(self, pixels: Tensor) -> Tensor:
        """Map `(N, H, W)` gray pixels in [0, 1] to `(N, 2048, H/32, W/32)`, rounded up."""
        return self.model((pixels.unsqueeze(1) - self.mean) / self.std).last_hidden_state
