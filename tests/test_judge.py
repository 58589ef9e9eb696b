"""The judge of findings: fitted to invented tokens, some of which tell a finding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uar.core.errors import UserError
from uar.core.weights import read_weights, write_weights
from uar.evaluation.calibration import AS_TRAINED
from uar.evaluation.detection import auc, average_precision
from uar.inference.bags import token_bags
from uar.inference.judge import Judge, fit_judge
from uar.inference.logistic import PENALTIES, Standardisation, fit_path

NAMES = ("shown", "hidden", "rare")
CODES = 6


def made(tokens: np.ndarray, labels: np.ndarray) -> tuple[Judge, dict[str, dict[float, float]]]:
    return fit_judge(tokens, labels, NAMES, codebook=CODES, encoder_sha256="e1", seed=0)


def studies(count: int, seed: int, placed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `(S, 2, 16)` in which code 0 is where the first finding is, or on the left there."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, CODES, (count, 2, 16))
    labels = generator.random((count, 3)) < (0.3, 0.2, 0.0)
    labels[:2, 2] = True
    shown = labels[:, 0]
    if placed:
        tokens[np.arange(count), 0, np.where(shown, 4, 7)] = 0
    else:
        tokens[shown, 1, generator.integers(0, 16, shown.sum())] = 0
    return tokens, labels


@pytest.fixture(scope="module")
def small() -> Judge:
    """Of a hundred studies; tests do not change it."""
    return made(*studies(100, 0))[0]


def test_a_finding_is_told_where_a_code_tells_it() -> None:
    tokens, labels = studies(400, 0)
    judge, nats = made(tokens, labels)
    assert not judge.places
    assert judge.penalty in PENALTIES
    assert {name: len(of) for name, of in nats.items()} == {"tokens": 6, "places": 6}
    others, true = studies(300, 1)
    found = AS_TRAINED.probabilities(judge.logits(others))
    assert auc(found[:, 0], true[:, 0]) > 0.99
    assert abs(auc(found[:, 1], true[:, 1]) - 0.5) < 0.12
    assert found[:, 0][true[:, 0]].mean() > 0.7
    assert found[:, 1].mean() == pytest.approx(0.2, abs=0.06)  # its share
    np.testing.assert_allclose(found[:, 2], 3 / 402, rtol=1e-5)  # two studies: too few to fit
    np.testing.assert_allclose(
        AS_TRAINED.probabilities(judge.logits(others[:5])), found[:5], rtol=1e-12
    )
    assert AS_TRAINED.probabilities(judge.logits(others[:0])).shape == (0, 3)


def test_held_out_nats_are_those_of_the_seeds_folds() -> None:
    tokens, labels = studies(100, 0)
    _, nats = made(tokens, labels)
    bags, enough = token_bags(tokens, CODES), labels[:, :2]  # two of the third are too few
    x = Standardisation.of(bags)(bags)
    fold = np.random.default_rng(0).permutation(100) % 5
    expected = np.zeros(len(PENALTIES))
    for left_out in range(5):
        inside = fold != left_out
        path = fit_path(x[inside], torch.from_numpy(enough[inside]).float())
        for place, weights in enumerate(path):
            probability = AS_TRAINED.probabilities((x[~inside] @ weights).double().numpy())
            likely = np.where(enough[~inside], probability, 1 - probability)
            expected[place] -= np.log(likely).sum() / 100
    assert list(nats["tokens"].values()) == pytest.approx(list(expected), rel=1e-5)


def test_places_are_used_where_they_tell_more() -> None:
    tokens, labels = studies(400, 0, placed=True)
    judge, nats = made(tokens, labels)
    assert judge.places
    assert min(nats["places"].values()) < min(nats["tokens"].values())
    assert judge.weights.shape == (5 * 2 * CODES + 1, 3)
    others, true = studies(300, 1, placed=True)
    assert auc(AS_TRAINED.probabilities(judge.logits(others))[:, 0], true[:, 0]) > 0.95


def test_logits_are_linear_in_the_bags() -> None:
    tokens, labels = studies(200, 0)
    judge, _ = made(tokens, labels)
    bags = token_bags(tokens, CODES).astype(float)
    expected = bags @ judge.weights[:-1] + judge.weights[-1]
    np.testing.assert_allclose(judge.logits(tokens), expected, atol=1e-6)


def test_without_findings_there_are_shares_alone() -> None:
    tokens, labels = studies(50, 0)
    judge, nats = made(tokens, np.zeros_like(labels))
    assert nats == {"tokens": {}, "places": {}}
    np.testing.assert_allclose(AS_TRAINED.probabilities(judge.logits(tokens)), 1 / 52, rtol=1e-5)


def test_a_judge_is_read_as_it_was_written(tmp_path: Path, small: Judge) -> None:
    tokens, _ = studies(100, 0)
    path = tmp_path / "judge.safetensors"
    small.save(path)
    first = path.read_bytes()
    read = Judge.load(path)
    np.testing.assert_array_equal(
        AS_TRAINED.probabilities(read.logits(tokens)),
        AS_TRAINED.probabilities(small.logits(tokens)),
    )
    assert (read.findings, read.encoder_sha256, read.penalty) == (NAMES, "e1", small.penalty)
    read.save(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("codebook", 10**12), ("codebook", 0), ("codebook", "6"), ("views", 3), ("views", 1),
        ("places", True), ("places", 1), ("findings", ["a"]), ("findings", 5), ("penalty", None),
        ("encoder_sha256", 5), ("more", 1),
    ],
)  # fmt: skip
def test_a_judge_whose_sizes_contradict_each_other_is_refused(
    tmp_path: Path, key: str, value: Any, small: Judge
) -> None:
    path = tmp_path / "judge.safetensors"
    small.save(path)
    tensors, about = read_weights(path, "judge")
    write_weights(path, "judge", tensors, about | {key: value})
    with pytest.raises(UserError, match="judge"):
        Judge.load(path)
    write_weights(path, "judge", {"weights": tensors["weights"].double()}, about)
    with pytest.raises(UserError, match="float64"):
        Judge.load(path)
    write_weights(path, "judge", {"other": torch.ones(2, 2)}, about)
    with pytest.raises(UserError, match="is not a judge"):
        Judge.load(path)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_the_mean_precision_at_each_hit(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.permutation(40).astype(float)
    labels = generator.random(40) < 0.3
    precisions = [labels[scores >= score].mean() for score in scores[labels]]
    assert average_precision(scores, labels) == pytest.approx(np.mean(precisions))
    tied = np.floor(scores / 4)
    of_tied = [labels[tied >= score].mean() for score in tied[labels]]
    assert average_precision(tied, labels) == pytest.approx(np.mean(of_tied))
    assert np.isnan(average_precision(scores, np.zeros(40, bool)))
