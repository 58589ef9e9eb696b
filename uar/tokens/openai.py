"""OpenAI's dVAE package (https://github.com/openai/DALL-E), and files of its weights."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn

from uar.core.errors import UserError, plainly
from uar.core.weights import read_safetensors, unpickle

try:
    import dall_e
    import dall_e.decoder
    import dall_e.encoder
    import dall_e.utils
except ImportError as error:
    raise UserError(
        f"the dVAE needs the package dall-e ({error}): pip install --no-deps dall-e. "
        "Without --no-deps it also installs a torchvision that breaks a CPU build of torch."
    ) from None

# What OpenAI's encoder.pkl and decoder.pkl are made of; nothing else is unpickled.
_PICKLED = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (
        dall_e.Encoder,
        dall_e.Decoder,
        dall_e.encoder.EncoderBlock,
        dall_e.decoder.DecoderBlock,
        dall_e.utils.Conv2d,
        nn.Sequential,
        nn.ReLU,
        nn.MaxPool2d,
        nn.Upsample,
        nn.Identity,
        OrderedDict,
    )
}


def read_dall_e(path: Path) -> dict[str, Tensor]:
    """Weights by name, from safetensors or from one of OpenAI's pickles.

    Raises:
        UserError: the file is absent or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing. dvae.encoder and dvae.decoder name the weight files.")
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)[0]
        return unpickle(path, _PICKLED).state_dict()
    except Exception as error:
        raise UserError(
            f"{path}: found no dall_e weights ({plainly(error)}). "
            "Expected a .safetensors file of this project or OpenAI's encoder.pkl / decoder.pkl."
        ) from None
