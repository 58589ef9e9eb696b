"""A small untrained model as a bundle, for tests."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.conftest import decode_params
from uar.bundle.bundle import Bundle, Preprocessing
from uar.bundle.evidence import Evidence, LogitScaling, SentenceCertainty, ShiftedLogits
from uar.bundle.example import Example
from uar.bundle.index import StudyIndex
from uar.bundle.likeness import FilmSet, Likeness
from uar.core.config import ModelParams
from uar.data.films import squash
from uar.data.text import Vocabulary
from uar.data.views import resize_view
from uar.evaluation.clinical.labels import FINDINGS
from uar.inference.judge import Judge
from uar.model.checkpoint import Checkpoint
from uar.model.uar import UAR, ModelSizes
from uar.tokens.dvae import Dvae
from uar.tokens.tokenizer import Tokenizer

WORDS = (".", "clear", "effusion", "enlarged", "heart", "is", "lungs", "no", "the")

EVIDENCE = Evidence(
    studies=20,
    written={"Cardiomegaly": [3, 7]},
    scaling=LogitScaling(slope=0.5, shift=-1.0),
    certainty=SentenceCertainty(
        asserted=ShiftedLogits(slope=1.5, shifts=[i / 8 for i in range(13)]),
        denied=ShiftedLogits(slope=0.8, shifts=[-i / 4 for i in range(13)]),
    ),
)


def make_bundle(
    tiny_raw: dict[str, Any],
    seed: int = 0,
    index: bool = False,
    likeness: bool = False,
    **changes: Any,
) -> Bundle:
    """Make a bundle for studies of two films of 32 pixels, 16 tokens each.

    Args:
        index: add an index of six training studies, whose features are drawn at random.
        likeness: add one for films like `chest`, with an example, a judge and counts of findings.
        changes: settings of its preprocessing that differ.
    """
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "image_size": 40, "crop": 32, "views": 2, "missing_view": "error",
        "cleaner": "iu_xray", "precision": "float32",
    }  # fmt: skip
    tokenizer, vocabulary = Dvae(512, 64).eval(), Vocabulary(WORDS)
    params = ModelParams.model_validate(tiny_raw["model"])
    model = UAR(
        params,
        ModelSizes(
            vocabulary=len(vocabulary),
            codebook=512,
            visual_length=32,
            max_length=12,
            findings=len(FINDINGS),
        ),
    ).eval()
    with torch.no_grad():  # tokens and reports differ between films and positions
        logits = tokenizer.logits(torch.rand(4, 32, 32))
        tokenizer.encoder.blocks.output.conv.b.sub_(logits.mean((0, 2, 3)))
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith(("gain", "bias")):
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for layer in model.decoder.layers:
            layer.visual_attention.output.weight.mul_(8)
            layer.visual_attention.value.weight.mul_(3)
            layer.visual_attention.query.weight.mul_(20)
        model.head.weight.mul_(6)
        if model.findings is not None:
            for prompt in (model.findings.present, model.findings.absent):
                prompt.mul_(0.1)  # films, not prompts, decide the words
            model.findings.thresholds.copy_(torch.linspace(0.2, 0.8, len(FINDINGS)))
    studies = [f"train{i}" for i in range(6)]
    reports = [f"Report of {name}." for name in studies]
    features = torch.randn(6, params.d_model)
    return Bundle(
        Checkpoint.of(
            model,
            model.state_dict(),
            encoder_sha256=tokenizer.fingerprint(),
            epoch=1,
            validation={},
        ),
        tokenizer,
        vocabulary,
        Preprocessing(**settings | changes),
        decode_params(beam_size=2, length_penalty=0.0, batch_size=4, guidance=0.0),
        {"dataset": "invented", "commit": None},
        "# A test's model\n\n| metric | this model |\n|---|---|\n| BLEU-4 | 0.100 |\n",
        StudyIndex.of(features, studies, reports) if index else None,
        likeness_of(tokenizer) if likeness else None,
        EVIDENCE if likeness else None,
        Example("e1", "val", packed_films(7), ("frontal", "lateral"), "Films of one who is well.")
        if likeness
        else None,
        judge_of(tokenizer) if likeness else None,
    )


def judge_of(tokenizer: Tokenizer) -> Judge:
    """A judge with random weights for the tokenizer's codes in two views."""
    weights = np.random.default_rng(0).normal(0, 1, (2 * 512 + 1, 13)).astype(np.float32)
    return Judge(weights, 512, 2, False, 0.1, FINDINGS, tokenizer.fingerprint())


def chest(number: int, view: int = 0) -> np.ndarray:
    """A lopsided pattern of 64 x 64 pixels for each view, a little different for each number."""
    rng = np.random.default_rng([number, view])
    y, x = np.mgrid[0:64, 0:64] / 64
    shift = rng.normal(0, 0.02, 2)
    bright = np.exp(-(((x - 0.3 - shift[0]) / 0.2) ** 2) - ((y - 0.4 - shift[1]) / 0.3) ** 2)
    slope = (0.6 * y + 0.2 * x) if view == 0 else (0.7 * x - 0.3 * y + 0.3)
    noise = rng.normal(0, 0.03, (64, 64))
    return (np.clip(0.1 + 0.6 * bright + 0.4 * slope + noise, 0, 1) * 255).astype(np.uint8)


def packed_films(number: int) -> np.ndarray:
    """Both films of a study in packed form, `(2, 40, 40)`."""
    return np.stack([squash(chest(number, view), 40) for view in (0, 1)])


def likeness_of(tokenizer: Dvae) -> Likeness:
    """A likeness fitted to 200 films of each view."""
    films = np.concatenate([packed_films(number) for number in range(200)])
    with torch.inference_mode():
        tokens = tokenizer.tokenize(resize_view(torch.from_numpy(films), 32)).numpy()
    rows = np.arange(400).reshape(-1, 2)
    training = FilmSet(films, tokens[:, None], rows, np.ones_like(rows, bool))
    return Likeness.of(training, tokenizer.codebook_size)


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Change the parts of the bundle file and return its path."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def sealed(parts: dict[str, bytes]) -> None:
    """Give the manifest the hashes of the current parts."""
    manifest = json.loads(parts["manifest.json"])
    manifest["parts"] = {
        name: hashlib.sha256(data).hexdigest()
        for name, data in parts.items()
        if name != "manifest.json"
    }
    parts["manifest.json"] = json.dumps(manifest).encode()
