"""Discoveries and effects in several tasks against scipy, closed forms and simulation."""

import numpy as np
import pytest
from scipy import stats

from analysis.stats.multiple_tests import discoveries, partial_conjunction_p


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_discoveries_are_scipys(generator):
    p = generator.uniform(size=(300, 40)) ** generator.choice([1, 3, 8], size=(300, 1))
    p[:, :5] = p[:, 5:6]  # ties
    np.testing.assert_array_equal(discoveries(p, 0.1), stats.false_discovery_control(p, axis=-1) <= 0.1)
    np.testing.assert_array_equal(discoveries(np.ones(4), 0.05), np.zeros(4, dtype=bool))


def test_discoveries_are_scipys_where_p_is_exactly_a_threshold():
    n = 40
    ranks = np.arange(1, n + 1)
    for alpha in (0.05, 0.1, 0.2, 0.3):
        p = np.minimum(alpha * ranks / n + np.where(ranks % 3 == 0, 0, 1e-3), 1)
        for one in (p, alpha * ranks / n, p[::-1]):
            np.testing.assert_array_equal(discoveries(one, alpha), stats.false_discovery_control(one) <= alpha)


def test_a_missing_p_is_no_discovery():
    np.testing.assert_array_equal(discoveries(np.array([[np.nan, np.nan], [0.001, np.nan]]), 0.05), [[False, False], [True, False]])


def test_replication_in_all_tasks_is_the_largest_p():
    p = partial_conjunction_p(np.array([[0.01, 0.01], [0.04, 0.04]]), np.array([[1, 1], [1, -1]]), 2)
    np.testing.assert_allclose(p, [[0.02, 0.98], [0.995, 0.995]])


def test_replication_in_any_task_is_bonferroni():
    p = partial_conjunction_p(np.array([[0.01], [0.5], [0.9]]), np.array([[-1], [1], [1]]), 1)
    np.testing.assert_allclose(p, [[0.75], [0.015]])


def test_replication_in_some_tasks_by_hand():
    # signs +, +, -, + with p 0.02, 0.06, 0.001, 0.4: one-sided for + 0.01, 0.03, 0.9995, 0.2; third smallest 0.2, times 2
    p = partial_conjunction_p(np.array([[0.02], [0.06], [0.001], [0.4]]), np.array([[1], [1], [-1], [1]]), 3)
    np.testing.assert_allclose(p, [[0.4], [1]])


@pytest.mark.parametrize("at_least", [1, 2, 3])
def test_replication_is_valid_where_one_task_too_few_has_an_effect(generator, at_least):
    p, sign = generator.uniform(size=(3, 100_000)), generator.choice([-1, 1], size=(3, 100_000))
    p[: at_least - 1], sign[: at_least - 1] = 0, 1
    found = partial_conjunction_p(p, sign, at_least)[0]
    for level in (0.01, 0.05, 0.2):
        assert (found <= level).mean() <= level + 3 * np.sqrt(level / 100_000)
    assert (found <= 0.2).mean() > 0.05
