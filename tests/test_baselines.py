"""Nearest neighbours, by hand and against plain cosines."""

import numpy as np
import pytest

from uar.core.errors import UserError
from uar.evaluation.baselines import nearest_neighbours, token_histograms


def test_token_histograms_are_bhattacharyya_unit_vectors() -> None:
    tokens = np.array([[[0, 0, 1, 2], [3, 3, 3, 3]], [[0, 0, 0, 0], [1, 1, 3, 3]]])
    histograms = token_histograms(tokens, codebook=4)
    assert histograms.shape == (2, 8)
    squared = [[0.5, 0.25, 0.25, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0.5, 0, 0.5]]
    np.testing.assert_allclose(histograms**2, np.array(squared) / 2, atol=1e-7)
    # mean over views of sum sqrt(p q): sqrt(.5) and sqrt(.5)
    assert histograms[0] @ histograms[1] == pytest.approx(np.sqrt(0.5))
    np.testing.assert_allclose(np.linalg.norm(histograms, axis=1), 1, rtol=1e-6)


def test_token_histograms_do_not_see_positions_but_do_see_views() -> None:
    tokens = np.random.default_rng(0).integers(0, 7, size=(3, 2, 20))
    moved = np.random.default_rng(1).permuted(tokens, axis=2)
    np.testing.assert_array_equal(token_histograms(tokens, 7), token_histograms(moved, 7))
    swapped = tokens[:, ::-1]
    assert not np.allclose(token_histograms(tokens, 7), token_histograms(swapped, 7))


def test_nearest_neighbours_in_blocks_equal_the_plain_cosine() -> None:
    generator = np.random.default_rng(2)
    queries, keys = generator.normal(size=(9, 5)), generator.normal(size=(23, 5))
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(keys, axis=1)
    expected = (queries @ keys.T / lengths).argmax(axis=1)
    for sizes in ([23], [1] * 23, [10, 0, 13]):
        blocks = np.split(keys, np.cumsum(sizes)[:-1])
        assert nearest_neighbours(queries, blocks).tolist() == expected.tolist()
    assert nearest_neighbours(keys, [keys * 3]).tolist() == list(range(23))


def test_nearest_neighbours_take_the_first_of_equals_and_survive_zeros() -> None:
    key = np.array([[1.0, 2.0]])
    assert nearest_neighbours(key, [key * 0, key, key * 2]).tolist() == [1]
    assert nearest_neighbours(key * 0, [key]).tolist() == [0]
    with pytest.raises(UserError, match="no training study"):
        nearest_neighbours(key, [])
