"""Two processes against one: the same training, the same tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.two_processes import tokenize, train
from uar.core.distributed import launch, started_processes

ELASTIC = {"TORCHELASTIC_RUN_ID": "7", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "12"}
SLURM = {"SLURM_NTASKS": "16", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (1, 1)),
        (ELASTIC, (4, 3)),
        (SLURM, (8, 2)),
        ({**SLURM, "SLURM_JOB_NAME": "interactive"}, (1, 1)),
        ({**SLURM, **ELASTIC}, (4, 3)),
    ],
)
def test_the_processes_are_those_that_were_started(
    environment: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {**ELASTIC, **SLURM}:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert started_processes() == expected


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of two_processes.py under torchrun, over the loopback interface."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-m", "tests.two_processes", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr  # whole: the first process to fail speaks first
    return torch.load(folder / "results.pt", weights_only=False)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same training in this process."""
    return train(launch("cpu"), tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_what_one_trains(
    strategy: str, two: dict[str, Any], one: dict[str, Any]
) -> None:
    """Batches of three studies over two ranks: unequal shares, negatives from the whole batch."""
    actual = two[strategy]
    assert actual["epoch"] == one["epoch"]
    for values, expected in zip(actual["logged"], one["logged"], strict=True):
        assert values == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert one["logged"][1]["train/global"] > 0.1
    for kind in ("last", "best"):
        assert actual[kind].keys() == one[kind].keys()
        for name, weight in one[kind].items():
            torch.testing.assert_close(actual[kind][name], weight, atol=2e-4, rtol=1e-3, msg=name)


def test_two_processes_are_rewarded_as_one_is(two: dict[str, Any], tmp_path: Path) -> None:
    """For the same reports, compared with those of the whole batch."""
    one = train(launch("cpu"), tmp_path, critical=True)
    actual = two["critical"]
    for values, expected in zip(actual["logged"], one["logged"], strict=True):
        assert values == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert one["logged"][-1]["train/overlap_of_others"] > 0
    for name, weight in one["last"].items():
        torch.testing.assert_close(actual["last"][name], weight, atol=2e-4, rtol=1e-3, msg=name)


def test_a_killed_training_of_two_ends_with_the_same_bits(two: dict[str, Any]) -> None:
    whole, resumed = two["whole"], two["resumed"]
    assert resumed["logged"] == whole["logged"]
    assert resumed["epoch"] == whole["epoch"]
    for name, weight in whole["last"].items():
        assert torch.equal(resumed["last"][name], weight), name


def test_two_processes_write_one_token_array(two: dict[str, Any], tmp_path: Path) -> None:
    np.testing.assert_array_equal(two["tokens"], tokenize(launch("cpu"), tmp_path))
