"""Everything that computes, on a device that is not the CPU: no tensor is made on the wrong one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests.conftest import decode_params
from tests.foreign_device import DEVICE, foreign_device
from tests.test_training import CODEBOOK, PER_IMAGE, VOCABULARY, T, make_studies
from uar.core.config import DvaeTrainParams, Params, StageParams
from uar.core.distributed import launch
from uar.core.provenance import Scratch
from uar.data.batches import Studies
from uar.data.views import Views
from uar.inference.decoding import generate
from uar.model.uar import UAR, ModelSizes
from uar.tokens.cache import PackedImages, TokenEncoding, tokenize_images
from uar.tokens.decoder import TokenDecoder, reconstruction_quality, train_decoder
from uar.tokens.dvae import Dvae, train_dvae
from uar.tokens.tokenizer import kmeans
from uar.training.objective import Objective
from uar.training.stage import Trainer, TrainingConfig, TrainingData
from uar.training.validation import Validation

BEAMS = decode_params(beam_size=3, length_penalty=1.0, guidance=1.0, batch_size=3)
VARIANTS: list[dict[str, Any]] = [
    {"tir": "static", "image_dropout": 0.2, "word_dropout": 0.3, "feature_dropout": 0.3},
    {"tir": "predicted", "image_dropout": 0.2, "findings": True, "visual_pool": 2},
    {"fusion": "none", "image_dropout": 0.2, "tir": "none"},
]


@pytest.fixture(autouse=True)
def supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uar.training.stage.make_deterministic", lambda wanted: None)


def foreign_fabric() -> Fabric:
    fabric = launch("cpu")
    fabric._strategy._root_device = DEVICE  # type: ignore[attr-defined]
    fabric._accelerator.setup_device = lambda device: None  # type: ignore[method-assign]
    assert fabric.device == DEVICE
    return fabric


def studies() -> Studies:
    made = make_studies()
    generator = np.random.default_rng(1)
    made.present = torch.from_numpy(np.array([[True, True], [True, False]] * 4))
    made.findings = torch.from_numpy(generator.random((len(made), 3)) < 0.5).float()
    return made


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_training_and_validation(tiny_params: Params, changes: dict[str, Any]) -> None:
    """Steps wait for the device once, where the loss is read."""
    train = tiny_params.train.model_copy(
        update={"batch_size": 3, "weight_average": 0.9, "r_drop": 1.0}
    )
    fabric = foreign_fabric()
    sizes = ModelSizes(
        vocabulary=len(VOCABULARY),
        codebook=CODEBOOK,
        visual_length=2 * PER_IMAGE,
        max_length=T,
        findings=3,
    )
    model = UAR(tiny_params.model.model_copy(update=changes), sizes)
    data = studies()
    findings = data.findings if model.params.findings else None
    with foreign_device() as waits:
        validation = Validation(data, VOCABULARY, BEAMS, fabric)
        config = TrainingConfig(
            number=2,
            stage=StageParams(epochs=1, learning_rate=1e-3),
            objective=Objective.of_stage(train, True, findings),
            params=train,
            precision="float32",
            from_trained=False,
        )
        trainer = Trainer(
            fabric,
            model,
            data=TrainingData(studies=data, validation=validation, encoder_sha256=None),
            config=config,
        )
        waits.clear()
        losses = trainer.train_epoch(1)
        assert waits.total() == 1, waits  # 3 steps
        scores, averaged = trainer.validate(write=True)
        waits.clear()
        validation(model, trainer.objective, write=False)
        heads = 2 if model.params.findings else 1  # its thresholds are set first
        assert waits.total() == 3 * heads, waits  # one a batch
    assert np.isfinite(losses["loss"])
    assert averaged is not None
    assert np.isfinite(scores["cross_entropy"])
    assert scores["distinct_reports"] >= 1


@pytest.mark.parametrize("switches", [{}, {"image_dropout": 0.5}, {"lsu": False}], ids=str)
def test_decoding_waits_once_a_word_and_writes_the_same(
    make_model: Callable[..., UAR], make_visual: Callable[..., torch.Tensor], switches: dict
) -> None:
    model = make_model(**switches)
    visual = make_visual(model, 5)
    guidance = 1.0 if switches.get("image_dropout") else 0.0
    expected = generate(model, visual, 3, 1.0, guidance=guidance)
    with foreign_device() as waits:
        there = model.to(DEVICE)
        films = visual.to(DEVICE)
        waits.clear()
        found = generate(there, films, 3, 1.0, guidance=guidance)
    words = max(len(report.ids) for report in expected) + 1  # and the end token
    assert waits.total() <= words + 2, waits  # and the reports, and their log-probabilities
    assert [report.ids for report in found] == [report.ids for report in expected]


SHORT = DvaeTrainParams(
    steps=3, batch_size=2, crop=16, learning_rate=1e-3, encoder_rate=0.1, temperature=0.1,
    perceptual_weight=0.0, feature_weight=0.0,
)  # fmt: skip


def test_a_dvae_and_its_tokens(tmp_path: Path) -> None:
    films = np.random.default_rng(0).integers(0, 256, (6, 24, 24), np.uint8)
    path = tmp_path / "images.npy"
    np.save(path, films)
    pixels = torch.from_numpy(films)
    with foreign_device() as waits:
        model, decoder = Dvae(512, 64), TokenDecoder(512, 64, stride=8)
        list(
            train_dvae(
                model,
                decoder,
                pixels.repeat(60, 1, 1),
                params=SHORT,
                device=DEVICE,
                precision="float32",
                seed=0,
                network=None,
            )
        )
        views = pixels.float() / 255
        generator = torch.Generator().manual_seed(0)
        waits.clear()
        list(
            train_decoder(
                decoder,
                model,
                views,
                params=SHORT,
                device=DEVICE,
                precision="float32",
                generator=generator,
            )
        )
        assert waits.total() <= len(views), waits  # its tokens, and no step
        reconstruction_quality(model, decoder, views.to(DEVICE))
        tokenized = tokenize_images(
            TokenEncoding(foreign_fabric(), model, batch_size=4, precision="float32"),
            PackedImages(
                path,
                np.ones(6, bool),
                Views(kind="crops", crops=2, crop=16, size=24, stride=8, seed=0),
            ),
            tmp_path / "tokens.npy",
            Scratch(tmp_path / "scratch", {}),
        )
    assert tokenized.shape == (6, 3, 4)
    assert np.load(tmp_path / "tokens.npy").max() < 512


def test_kmeans_is_that_of_the_cpu() -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    expected = kmeans(points, 5, generator=torch.Generator().manual_seed(1))
    with foreign_device():
        found = kmeans(points.to(DEVICE), 5, generator=torch.Generator().manual_seed(1)).cpu()
    assert torch.equal(found, expected)


def test_a_tensor_on_the_wrong_device_is_found() -> None:
    """What a forgotten `.to(device)` leads to."""
    with foreign_device():
        there = torch.ones(3, device=DEVICE)
        with pytest.raises(RuntimeError, match="tensors of elsewhere:0 and one of the CPU"):
            there + torch.ones(3)
        assert (there + torch.tensor(1.0)).tolist() == [2.0, 2.0, 2.0]
