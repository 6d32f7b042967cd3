"""Scores of attention maps against numbers worked out by hand, loops and scipy."""

import numpy as np
import pytest
from scipy import stats

from analysis.functions.scores import (
    auroc,
    evenness,
    favoured,
    mass,
    mean_map,
    most_attended,
    normalized,
    outlier_patches,
    ranks,
    taken,
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ranks_are_scipys_with_and_without_ties(dtype):
    generator = np.random.default_rng(0)
    values = np.stack([generator.normal(size=50), generator.integers(0, 5, 50), np.zeros(50)]).astype(dtype)
    np.testing.assert_array_equal(ranks(values), stats.rankdata(values, axis=-1))
    np.testing.assert_array_equal(ranks(values[0]), stats.rankdata(values[0]))


def test_auroc_is_mann_and_whitneys_u():
    generator = np.random.default_rng(1)
    maps = np.concatenate([generator.exponential(size=(3, 64)), generator.integers(0, 4, (3, 64))])
    masks = generator.uniform(size=(4, 64)) < 0.3
    found = auroc(maps, masks)
    assert found.shape == (6, 4)
    for row, of_row in zip(maps, found, strict=True):
        for mask, area in zip(masks, of_row, strict=True):
            pairs = mask.sum() * (~mask).sum()
            assert area == pytest.approx(stats.mannwhitneyu(row[mask], row[~mask]).statistic / pairs, abs=1e-12)
            counted = np.mean([(a > b) + 0.5 * (a == b) for a in row[mask] for b in row[~mask]])
            assert area == pytest.approx(counted, abs=1e-12)
    np.testing.assert_array_equal(auroc(maps, masks[2]), found[:, 2])


def test_auroc_of_no_object_or_of_no_map_is_missing():
    maps = np.array([[1.0, 2, 3], [np.nan] * 3])
    found = auroc(maps, np.array([[True, False, False], [False] * 3, [True] * 3]))
    np.testing.assert_array_equal(found, [[0, np.nan, np.nan], [np.nan] * 3])


def test_the_pointing_game_shares_what_is_equal():
    maps = np.array([[1.0, 3, 2, 0], [2, 2, 0, 0], [1, 1, 1, 1], [np.nan] * 4])
    masks = np.array([[False, True, False, False], [False, True, True, True], [False] * 4])
    expected = [[1, 1, np.nan], [0.5, 0.5, np.nan], [0.25, 0.75, np.nan], [np.nan] * 3]
    found = mass(most_attended(maps), masks)
    np.testing.assert_allclose(found[:, :2], np.array(expected)[:, :2])


def test_mass_on_the_object():
    maps, share = np.array([[0.5, 0.25, 0.25, 0.0], [0.25] * 4]), np.array([1.0, 0.5, 0.0, 0.0])
    np.testing.assert_allclose(mass(maps, share), [0.625, 0.375])


def test_evenness_is_scipys_entropy_over_its_maximum():
    maps = np.random.default_rng(2).exponential(size=(5, 30))
    np.testing.assert_allclose(evenness(maps), stats.entropy(maps, axis=-1) / np.log(30), rtol=1e-12)
    np.testing.assert_allclose(evenness(np.array([[1.0, 1, 1, 1], [5, 0, 0, 0], [1, 1, 0, 0]])), [1, 0, 0.5], atol=1e-12)
    assert np.isnan(evenness(np.zeros(4)))


def test_outlier_patches_are_few_and_may_be_none():
    mean = np.array([1.0] * 15 + [9.0])  # mean 1.5, SD sqrt(15) / 2 = 1.94
    np.testing.assert_array_equal(outlier_patches(mean), np.arange(16) == 15)
    assert not outlier_patches(np.full(16, 1 / 16)).any()
    for seed in range(5):
        assert outlier_patches(np.random.default_rng(seed).pareto(1, 100)).sum() <= 20


def test_one_head_can_make_an_outlier_that_most_heads_do_not_favour():
    maps = np.full((4, 10), 0.1)
    maps[0] = np.eye(10)[3]
    assert outlier_patches(mean_map(maps))[3]
    np.testing.assert_array_equal(favoured(maps), 0.25 * np.eye(10)[3])


def test_a_head_that_ignores_the_image_is_left_out_of_the_mean_head():
    attention = np.random.default_rng(0).uniform(size=(1, 3, 16))
    attention[0, 1] = 0
    maps = normalized(attention)
    assert np.isnan(maps[0, 1]).all()
    np.testing.assert_allclose(mean_map(maps), maps[:, [0, 2]].mean(axis=(0, 1)))
    np.testing.assert_allclose(favoured(maps), (maps[0, [0, 2]] > 1 / 16).mean(axis=0))


def test_what_a_head_takes_of_patches_beside_the_mean_head():
    maps, mean = np.array([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8]]), np.array([0.35, 0.2, 0.45])
    sets = np.array([[True, True, False], [False, False, True], [False] * 3])
    expected = [[0.9 / 0.55, 0.1 / 0.45, np.nan], [0.2 / 0.55, 0.8 / 0.45, np.nan]]
    np.testing.assert_allclose(taken(maps, mean, sets), expected)
    np.testing.assert_allclose(taken(maps, mean, sets[0]), [0.9 / 0.55, 0.2 / 0.55])
