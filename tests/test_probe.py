"""Linear probes: AUC by its definition, and findings found where they are and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from uar.analysis.probe import probe, thumbnails
from uar.evaluation.detection import auc
from uar.inference.bags import token_bags, with_places
from uar.inference.logistic import PENALTIES, STUDIES, fit_path, sampled


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs_in_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 6, 40).astype(float)  # with ties
    labels = generator.random(40) < 0.3
    pairs = scores[labels][:, None] - scores[~labels][None]
    assert auc(scores, labels) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert auc(-scores, labels) == pytest.approx(1 - auc(scores, labels))


def test_auc_without_both_classes_is_nan() -> None:
    assert np.isnan(auc(np.arange(3.0), np.zeros(3, bool)))
    assert np.isnan(auc(np.arange(3.0), np.ones(3, bool)))


def test_bags_count_codes_of_each_view() -> None:
    tokens = np.array([[[0, 0, 2], [1, 1, 1]], [[2, 2, 2], [0, 1, 2]]])
    counts = np.expm1(token_bags(tokens, 3))
    expected = [[2, 0, 1, 0, 3, 0], [0, 0, 3, 1, 1, 1]]
    np.testing.assert_allclose(counts, expected, atol=1e-6)
    shuffled = tokens[:, :, [2, 0, 1]]
    np.testing.assert_array_equal(token_bags(shuffled, 3), token_bags(tokens, 3))


def test_places_are_bags_of_quarters_beside_the_whole() -> None:
    """Two films of 3 x 3 tokens: quarters of 2 x 2, 2 x 1, 1 x 2 and 1 x 1."""
    generator = np.random.default_rng(0)
    fitted, told = (generator.integers(0, 4, (n, 2, 9)) for n in (200, 5))
    found, of_told = with_places(fitted, told, 4)
    np.testing.assert_array_equal(found[:, :8], token_bags(fitted, 4))
    expected = []
    for cells in ([0, 1, 3, 4], [2, 5], [6, 7], [8]):
        for view in range(2):
            for code in range(4):
                counts = [sum(study[view][cell] == code for cell in cells) for study in fitted]
                assert sum(count > 0 for count in counts) >= 10
                expected.append(np.log1p(counts))
    np.testing.assert_allclose(found[:, 8:], np.stack(expected, axis=1), atol=1e-6)
    assert of_told.shape == (5, found.shape[1])
    np.testing.assert_array_equal(with_places(fitted, fitted, 4)[1], found)
    rare = np.where(np.arange(200)[:, None, None] < 9, 4, fitted)  # code 4 in nine studies alone
    assert with_places(rare, told, 5)[0].shape[1] == 10 + 4 * 2 * 4


def test_places_tell_what_a_bag_cannot() -> None:
    """A code that is in every film, on the left where the finding is and on the right elsewhere."""
    generator = np.random.default_rng(1)
    shown = generator.random((300, 1)) < 0.4
    tokens = generator.integers(1, 6, (300, 1, 16))
    tokens[np.arange(300), 0, np.where(shown[:, 0], 4, 7)] = 0
    findings = (shown[:200], shown[200:])
    bags = (token_bags(tokens[:200], 6), token_bags(tokens[200:], 6))
    placed = with_places(tokens[:200], tokens[200:], 6)
    assert probe(bags, findings, ["x"]).mean_auc < 0.7
    assert probe(placed, findings, ["x"]).mean_auc > 0.95


def test_thumbnails_are_means_of_pixels() -> None:
    films = np.random.default_rng(0).integers(0, 256, (600, 32, 32), np.uint8)
    rows = np.random.default_rng(1).permutation(600).reshape(300, 2)  # more than one block
    small = thumbnails(films, rows)
    assert small.shape == (300, 512)
    means = small.reshape(300, 2, 256).mean(axis=2)
    np.testing.assert_allclose(means, films.mean(axis=(1, 2))[rows] / 255, atol=0.02)


def test_no_more_studies_are_drawn_than_stated() -> None:
    few = np.arange(7, STUDIES + 7)
    np.testing.assert_array_equal(sampled(few, 0), few)
    many = np.arange(7, 3 * STUDIES)
    drawn = sampled(many, 0)
    assert len(drawn) == STUDIES
    assert (np.diff(drawn) > 0).all()  # in order, none twice
    assert set(drawn) <= set(many)
    np.testing.assert_array_equal(drawn, sampled(many, 0))
    assert len(np.intersect1d(drawn, sampled(many, 1))) < STUDIES


def studies(
    signal: float, seed: int = 0
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Features of which one direction tells the first finding, and three findings."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(500, 20))
    y = generator.random((500, 3)) < (0.3, 0.3, 0.001)
    x[:, 0] += signal * y[:, 0]
    return (x[:350], x[350:]), (y[:350], y[350:])


def test_a_finding_is_told_where_it_shows() -> None:
    features, findings = studies(3.0)
    found = probe(features, findings, ["shown", "hidden", "rare"])
    assert set(found.auc) == {"shown", "hidden"}  # too few studies have the rare one
    assert found.auc["shown"] > 0.95
    assert abs(found.auc["hidden"] - 0.5) < 0.1
    assert found.penalty in PENALTIES
    assert found.mean_auc == pytest.approx((found.auc["shown"] + found.auc["hidden"]) / 2)


def test_scale_and_offset_of_features_do_not_matter() -> None:
    features, findings = studies(1.0)
    moved = (features[0] * 1e3 + 7, features[1] * 1e3 + 7)
    a, b = (probe(f, findings, "abc").auc for f in (features, moved))
    assert a == pytest.approx(b, abs=1e-3)


def test_labels_of_the_studies_told_are_not_used() -> None:
    features, (y, y_test) = studies(1.0)
    permuted = np.random.default_rng(1).permutation(y_test)
    told = probe(features, (y, permuted), "abc")
    assert told.penalty == probe(features, (y, y_test), "abc").penalty
    assert told.auc["a"] < probe(features, (y, y_test), "abc").auc["a"]


def test_the_fit_is_the_minimum() -> None:
    """Its gradient vanishes: a slow, plain descent finds no better weights."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(60, 4, generator=generator), torch.ones(60, 1)], 1)
    y = (torch.rand(60, 2, generator=generator) < 0.4).float()
    for penalty, weights in zip(PENALTIES, fit_path(x, y), strict=True):
        gradient = x.T @ (torch.sigmoid(x @ weights) - y) / len(x)
        gradient[:-1] += penalty * weights[:-1]
        assert gradient.abs().max() < 1e-3


def test_no_finding_with_enough_studies() -> None:
    features, findings = studies(1.0)
    nothing = probe(features, (findings[0][:, 2:], findings[1][:, 2:]), ["rare"])
    assert nothing.auc == {}
    assert np.isnan(nothing.mean_auc)
