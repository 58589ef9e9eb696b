"""Models with random weights and batches of random studies, at the sizes of IU X-Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from pipeline.tools.use import merge
from uar.core.config import Params
from uar.core.geometry import token_stride
from uar.core.params_file import parse_params
from uar.core.special_words import BOS, EOS, PAD, UNK
from uar.data.batches import Batch
from uar.model.uar import UAR, ModelSizes

ROOT = Path(__file__).parents[1]
VOCABULARY = 763  # words that occur 3 times or more, and the special ones
WORDS = 36  # mean length of a report, counting full stops


def iu_xray_params(preset: str = "iu_xray_small") -> Params:
    """params.yaml with a preset merged in."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    merge(raw, yaml.safe_load((ROOT / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")))
    return parse_params(raw, preset)


def tokens_per_image(params: Params) -> int:
    """L / V, the number of tokens of one view (section 3.2)."""
    return (params.image.crop // token_stride(params.dvae.source, params.dvae.distill.network)) ** 2


def make_model(params: Params, device: torch.device, **changes: Any) -> UAR:
    """A random model in training mode; `changes` override `model` parameters."""
    torch.manual_seed(params.seed)
    sizes = ModelSizes(
        vocabulary=VOCABULARY,
        codebook=params.dvae.codebook_size,
        visual_length=params.dataset.images_per_study * tokens_per_image(params),
        max_length=params.report.max_length,
    )
    switches = params.model.model_copy(update=changes)
    return UAR(switches, sizes).to(device)


def make_visual(params: Params, studies: int, device: torch.device) -> Tensor:
    """Visual tokens `(studies, V, L/V)`, uniform over the codebook: more distinct than in films."""
    generator = torch.Generator().manual_seed(params.seed)
    shape = studies, params.dataset.images_per_study, tokens_per_image(params)
    return torch.randint(params.dvae.codebook_size, shape, generator=generator).to(device)


def make_batch(params: Params, studies: int, device: torch.device) -> Batch:
    """A batch whose reports have from 12 words to the full length, `WORDS` on average."""
    generator = torch.Generator().manual_seed(params.seed)
    longest = params.report.max_length
    words = torch.randint(UNK, VOCABULARY, (studies, longest + 1), generator=generator)
    lengths = torch.linspace(2 * WORDS - longest, longest, studies).round().long().unsqueeze(1)
    place = torch.arange(longest + 1)
    report = words.where(place < lengths, PAD).where(place != lengths, EOS)
    report[:, 0] = BOS
    return Batch(make_visual(params, studies, device), report, torch.arange(studies)).to(device)
