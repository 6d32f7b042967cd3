"""Overlaps that chance gives against enumeration and closed forms."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy import stats

from analysis.heads.overlap import jaccard, overlap_of_tasks, pair_overlap, shared_by_chance

SHUFFLES = 4000


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def sets(layers: int, heads: int, *of: list[tuple[int, int]]) -> np.ndarray:
    found = np.zeros((len(of), layers, heads), dtype=bool)
    for one, named in zip(found, of, strict=True):
        for at in named:
            one[at] = True
    return found


def test_two_sets_against_every_set_of_that_size(generator):
    one, other = sets(2, 4, [(0, 0), (0, 1), (1, 0)], [(0, 0), (0, 1), (1, 2)])
    found = pair_overlap(one, other, SHUFFLES, generator)
    shared = [len({0, 1, 4} & set(drawn)) for drawn in combinations(range(8), 3)]
    assert found.shared == 2
    assert found.expected == pytest.approx(np.mean(shared))
    assert found.p == pytest.approx(np.mean(np.array(shared) >= 2))
    table = [[2, 1], [1, 4]]
    assert found.p == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue)


def test_two_sets_within_layers_against_sums_of_hypergeometric_numbers(generator):
    one, other = sets(2, 5, [(0, 0), (0, 1), (1, 0)], [(0, 0), (0, 1), (1, 0), (1, 1)])
    found = pair_overlap(one, other, SHUFFLES, generator)
    of_layer = [[comb(a, k) * comb(5 - a, b - k) / comb(5, b) for k in range(3)] for a, b in ((2, 2), (1, 2))]
    chance = np.convolve(*of_layer)
    assert found.expected_in_layers == pytest.approx(chance @ np.arange(5), abs=0.05)
    assert found.p_in_layers == pytest.approx(chance[3:].sum(), abs=0.02)


def test_several_sets_against_the_closed_form(generator):
    tasks = generator.random((3, 4, 10)) < np.array([0.1, 0.2, 0.3])[:, None, None]
    a, b, c = tasks.sum(axis=(1, 2)) / 40
    found = overlap_of_tasks(tasks, SHUFFLES, generator)
    assert found[3].expected == pytest.approx(40 * a * b * c, abs=0.03)
    assert found[2].expected == pytest.approx(40 * (a * b + a * c + b * c - 2 * a * b * c), abs=0.1)
    for k in (2, 3):
        assert found[k].shared == (tasks.sum(axis=0) >= k).sum()


def test_sets_in_one_layer_overlap_beyond_chance_but_not_beyond_their_layer(generator):
    tasks = sets(10, 5, *[[(3, i) for i in range(j, j + 3)] for j in (0, 1, 2)])
    for found in (*overlap_of_tasks(tasks, SHUFFLES, generator).values(), pair_overlap(tasks[0], tasks[1], SHUFFLES, generator)):
        assert found.p < 0.05
        assert found.p_in_layers > 0.2


def test_p_is_uniform_where_sets_are_random(generator):
    p = [pair_overlap(*(generator.random((2, 4, 12)) < 0.4), 50, generator) for _ in range(200)]
    for values in ([one.p for one in p], [one.p_in_layers for one in p]):
        assert np.mean(np.array(values) <= 0.1) <= 0.1 + 3 * np.sqrt(0.09 / 200)
        assert np.mean(np.array(values) <= 0.5) > 0.2


def test_signed_sets_against_every_set_of_those_signs():
    """By hand: positive heads 0 and 1, negative 2, of 6 heads; the other has one positive and two negative ones, in 60 ways."""
    one = np.array([[1, 1, -1, 0, 0, 0]])
    other = np.array([[1, 0, -1, -1, 0, 0]])
    drawn = [(p, n) for p in range(6) for n in combinations([i for i in range(6) if i != p], 2)]
    shared = np.array([(p in (0, 1)) + (2 in n) for p, n in drawn])
    assert len(drawn) == 60
    found = pair_overlap(one, other, 0, np.random.default_rng(0))
    assert found.shared == 2
    assert found.p == pytest.approx(np.mean(shared >= 2))
    assert found.p == pytest.approx(8 / 60)  # 2 places of the positive one, 4 partners of head 2
    assert found.expected == pytest.approx(2 / 6 + 2 / 6) == shared.mean()


def test_chance_of_signed_sets_against_shuffles(generator):
    a, b = (np.repeat([1, -1, 0], [positive, negative, 30 - positive - negative]) for positive, negative in ((7, 9), (6, 11)))
    shuffles = generator.permuted(np.tile(b, (40_000, 1)), axis=1)
    seen = np.bincount(((shuffles == a) & (a != 0)).sum(axis=1), minlength=17) / 40_000
    chance = shared_by_chance([7, 9], [6, 11], 30)
    assert chance.sum() == pytest.approx(1)
    np.testing.assert_allclose(chance, seen, atol=0.012)


def test_signed_sets_within_layers_against_shuffles(generator):
    one, other = (generator.choice([-1, 0, 0, 1], size=(3, 8)) for _ in range(2))
    found = pair_overlap(one, other, SHUFFLES, generator)
    shuffled = generator.permuted(np.tile(other, (SHUFFLES, 1, 1)), axis=2)
    shared = ((shuffled == one) & (one != 0)).sum(axis=(1, 2))
    assert found.expected_in_layers == pytest.approx(shared.mean(), abs=0.1)
    assert found.p_in_layers == pytest.approx((shared >= found.shared).mean(), abs=0.04)


def test_tasks_share_a_head_with_the_sign_that_it_has_more_often(generator):
    tasks = np.array([[[1, 1, -1, 0]], [[1, -1, -1, 1]], [[1, -1, 1, 0]], [[0, 1, -1, 0]]])
    found = overlap_of_tasks(tasks, 99, generator)
    assert {k: of.shared for k, of in found.items()} == {2: 3, 3: 2, 4: 0}
    assert overlap_of_tasks(abs(tasks), 99, generator)[4].shared == 2


def test_signed_sets_that_are_random_overlap_as_chance_says(generator):
    p = [pair_overlap(*generator.choice([-1, 0, 0, 1], size=(2, 4, 12)), 50, generator) for _ in range(200)]
    for values in ([one.p for one in p], [one.p_in_layers for one in p]):
        assert np.mean(np.array(values) <= 0.1) <= 0.1 + 3 * np.sqrt(0.09 / 200)
        assert np.mean(np.array(values) <= 0.5) > 0.2


def test_no_shuffles_leave_out_what_needs_them(generator):
    found = pair_overlap(*sets(1, 4, [(0, 0)], [(0, 0)]), 0, generator)
    assert found.p == 0.25
    assert np.isnan([found.p_in_layers, found.expected_in_layers]).all()


def test_jaccard_wants_the_same_sign():
    one, other = np.array([[1, -1, 0, 1], [0, 0, 0, 0]]), np.array([[1, 1, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(jaccard(one, other), [0.25, np.nan])
    assert jaccard(np.array([True, True, False]), np.array([True, False, False])) == 0.5
