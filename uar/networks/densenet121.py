"""DenseNet-121. The layers have the names that torchxrayvision's weights give them."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from uar.networks.network import FeatureNetwork


class DenseNet121(FeatureNetwork):
    """DenseNet-121 (Huang et al., CVPR 2017) up to its third transition, without the pooling there.

    The layers are named as in torchxrayvision (Cohen et al. 2022,
    https://github.com/mlmed/torchxrayvision), whose weights are trained on chest X-rays, and the
    input is scaled as there: one channel in [-1024, 1024].
    """

    name = "densenet121"

    def __init__(self) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(1, 64, 7, 2, 3, bias=False),
            norm0=nn.BatchNorm2d(64),
            relu0=nn.ReLU(),
            pool0=nn.MaxPool2d(3, 2, 1),
        )
        width = 64
        for i, repeats in enumerate((6, 12, 24), 1):
            dense = ((f"denselayer{j + 1}", _DenseLayer(width + 32 * j)) for j in range(repeats))
            layers[f"denseblock{i}"] = nn.Sequential(OrderedDict(dense))
            width += 32 * repeats
            transition = OrderedDict[str, nn.Module](
                norm=nn.BatchNorm2d(width),
                relu=nn.ReLU(),
                conv=nn.Conv2d(width, width // 2, 1, bias=False),
            )
            if i < 3:
                transition["pool"] = nn.AvgPool2d(2)
            layers[f"transition{i}"] = nn.Sequential(transition)
            width //= 2
        self.features = nn.Sequential(layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map `(N, H, W)` gray pixels in [0, 1] to `(N, 512, H/16, W/16)`."""
        return self.features(((2 * pixels - 1) * 1024).unsqueeze(1))


class _DenseLayer(nn.Sequential):
    """A bottleneck whose 32 channels are appended to its input's."""

    def __init__(self, width: int) -> None:
        super().__init__(
            OrderedDict[str, nn.Module](
                norm1=nn.BatchNorm2d(width),
                relu1=nn.ReLU(),
                conv1=nn.Conv2d(width, 128, 1, bias=False),
                norm2=nn.BatchNorm2d(128),
                relu2=nn.ReLU(),
                conv2=nn.Conv2d(128, 32, 3, padding=1, bias=False),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, super().forward(x)], 1)
