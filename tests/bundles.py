"""A small untrained model as a bundle, for tests."""

from __future__ import annotations

from typing import Any

import torch

from uar.bundle.bundle import Bundle, Preprocessing
from uar.bundle.index import StudyIndex
from uar.core.config import DecodeParams, ModelParams
from uar.data.text import Vocabulary
from uar.evaluation.clinical.labels import FINDINGS
from uar.model.checkpoint import Checkpoint
from uar.model.uar import UAR, ModelSizes
from uar.tokens.dvae import Dvae

WORDS = (".", "clear", "effusion", "enlarged", "heart", "is", "lungs", "no", "the")


def make_bundle(
    tiny_raw: dict[str, Any], seed: int = 0, index: bool = False, **changes: Any
) -> Bundle:
    """Two films of 32 pixels a study, 16 tokens each; `changes` are of its preprocessing.

    Args:
        index: of six training studies, whose features are drawn at random.
    """
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "image_size": 40, "crop": 32, "views": 2, "missing_view": "error",
        "cleaner": "iu_xray", "precision": "float32",
    }  # fmt: skip
    tokenizer, vocabulary = Dvae(512, 64).eval(), Vocabulary(WORDS)
    params = ModelParams.model_validate(tiny_raw["model"])
    model = UAR(params, ModelSizes(len(vocabulary), 512, 32, 12, len(FINDINGS))).eval()
    with torch.no_grad():  # reports differ between films and positions
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith(("gain", "bias")):
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for layer in model.decoder.layers:
            layer.visual_attention.output.weight.mul_(8)
            layer.visual_attention.value.weight.mul_(3)
        model.head.weight.mul_(6)
        if model.findings is not None:
            for prompt in (model.findings.present, model.findings.absent):
                prompt.mul_(0.1)  # films tell in which words, not prompts
            model.findings.thresholds.copy_(torch.linspace(0.2, 0.8, len(FINDINGS)))
    studies = [f"train{i}" for i in range(6)]
    reports = [f"Report of {name}." for name in studies]
    features = torch.randn(6, params.d_model)
    return Bundle(
        Checkpoint.of(model, model.state_dict(), tokenizer.fingerprint(), 1, {}),
        tokenizer,
        vocabulary,
        Preprocessing(**settings | changes),
        DecodeParams(beam_size=2, length_penalty=0.0, batch_size=4, guidance=0.0),
        {"dataset": "invented", "commit": None},
        "# A test's model\n",
        StudyIndex.of(features, studies, reports) if index else None,
    )
