"""What test_distributed.py runs under torchrun: the stages' work in two processes.

torchrun --standalone --nproc_per_node 2 -m tests.two_processes FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
import yaml

from tests.conftest import ROOT, TINY, decode_params, labeller, override, uncounted
from tests.test_self_critical import findings_of
from tests.test_training import REPORTS, VOCABULARY, Killed, make_model, make_studies
from uar.core.config import StageParams
from uar.core.distributed import launch
from uar.core.params_file import parse_params
from uar.core.provenance import Scratch
from uar.core.weights import read_weights
from uar.data.views import Views
from uar.tokens.cache import PackedImages, TokenEncoding, tokenize_images
from uar.tokens.dvae import Dvae
from uar.training.objective import Objective
from uar.training.self_critical import Critic
from uar.training.stage import TrainingConfig, TrainingData, train_stage
from uar.training.validation import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TRAIN_ROWS = np.arange(11) % 3 != 2
VIEWS = Views(kind="crops", crops=2, crop=16, size=24, stride=8, seed=5)


def train(
    fabric: Fabric,
    folder: Path,
    dropout: float = 0.0,
    kill_at: int | None = None,
    critical: bool = False,
) -> dict[str, Any]:
    """Train two epochs on stage two's losses; return last and best weights and logged values.

    Args:
        critical: train on stage three's rewards instead.
    """
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in {**TINY, "train.batch_size": 3, "train.margin": 0.5}.items():
        override(raw, key, value)
    params = parse_params(raw, "tiny")
    model = make_model(params, dropout=dropout)
    logged: list[dict[str, float]] = []

    def on_epoch(epoch: int, values: dict[str, float]) -> None:
        logged.append(values)

    class Dying(Validation):
        """A validation that ends every process in the same epoch."""

        calls = 0

        def __call__(self, *args: Any) -> dict[str, float]:
            Dying.calls += 1
            if Dying.calls == kill_at:
                raise Killed
            return super().__call__(*args)

    decode = decode_params(beam_size=1, length_penalty=0.0, guidance=0.0, batch_size=3)
    studies, critic = make_studies(findings_of(REPORTS) if critical else None), None
    if critical:
        rewards = params.train.stage_three.model_copy(update={"samples": 3, "anchor": 0.2})
        with mock.patch("uar.evaluation.clinical.sentences.Labeller", labeller):
            critic = Critic(rewards, studies, VOCABULARY)
    data = TrainingData(
        studies=studies,
        validation=Dying(studies, VOCABULARY, decode, fabric, critic.reward if critic else None),
        encoder_sha256=None,
    )
    config = TrainingConfig(
        number=2,
        stage=StageParams(epochs=2, learning_rate=3e-3),
        objective=Objective.of_stage(params.train, with_mask=True),
        params=params.train,
        precision="float32",
        from_trained=True,
        critic=critic,
    )
    with mock.patch.multiple(
        "uar.training.speed", flops_per_study=uncounted, measured_peak=uncounted
    ):
        trained = train_stage(
            fabric, model, data=data, config=config, scratch=Scratch(folder, {}), on_epoch=on_epoch
        )
    if not fabric.is_global_zero:
        return {}
    assert trained is not None
    best = trained.best
    last = read_weights(folder / "resume.safetensors", "resume file")[0]
    last = {
        name.removeprefix("weights/"): w for name, w in last.items() if name.startswith("weights/")
    }
    return {"last": last, "best": best.weights, "epoch": best.epoch, "logged": logged}


def tokenize(fabric: Fabric, folder: Path) -> np.ndarray | None:
    """Tokenize eleven images with a random encoder."""
    torch.manual_seed(0)
    model = Dvae(codebook_size=512, hidden=64)
    images = folder / "images.npy"
    if fabric.is_global_zero:
        pixels = np.random.default_rng(0).integers(0, 256, (11, 24, 24), dtype=np.uint8)
        np.save(images, pixels)
    fabric.barrier()
    out = folder / "tokens.npy"
    encoder = TokenEncoding(fabric, model, batch_size=3, precision="float32")
    packed = PackedImages(images, TRAIN_ROWS, VIEWS)
    info = tokenize_images(encoder, packed, out, Scratch(folder / "unfinished", {}))
    assert info.shape == (11, 3, 4)
    return np.load(out) if fabric.is_global_zero else None


def main(folder: Path) -> None:
    """Run everything in turn; rank 0 writes its results to `FOLDER/results.pt`."""
    fabric = launch("cpu", "ddp")
    results = {"ddp": train(fabric, folder / "ddp"), "tokens": tokenize(fabric, folder)}
    results["critical"] = train(fabric, folder / "critical", critical=True)
    results["whole"] = train(fabric, folder / "whole", dropout=0.3)
    try:
        train(fabric, folder / "killed", dropout=0.3, kill_at=3)  # in the last epoch
    except Killed:
        results["resumed"] = train(fabric, folder / "killed", dropout=0.3)
    results["fsdp"] = train(launch("cpu", "fsdp"), folder / "fsdp")
    if fabric.is_global_zero:
        torch.save(results, folder / "results.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
