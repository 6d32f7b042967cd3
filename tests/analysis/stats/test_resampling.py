"""Sign flips and bootstrap against scipy, enumeration and closed forms."""

import numpy as np
import pytest
from scipy import stats

from analysis.stats.resampling import (
    bootstrap_weights,
    percentile_interval,
    sign_flip_p,
    smallest_p,
    stream,
    student_p,
)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def exact_p(effects: np.ndarray) -> np.ndarray:
    """The two-sided sign-flip p of each head, by scipy."""
    found = stats.permutation_test((effects,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=np.inf, axis=0)
    return found.pvalue


def test_few_samples_give_the_exact_p(generator):
    effects = generator.normal(0.4, 1, size=(9, 6)) * 10.0 ** np.arange(-3, 3)
    np.testing.assert_allclose(sign_flip_p(effects, 256, generator), exact_p(effects), rtol=1e-12)


def test_many_samples_give_the_exact_p_but_for_the_draw(generator):
    effects = generator.normal([0, 0.2, 0.4, 0.6], 1, size=(14, 4))
    flips = 6000  # of 8,192 and their opposites, in more than one block
    wanted = exact_p(effects)
    np.testing.assert_allclose(sign_flip_p(effects, flips, generator), wanted, atol=4 * np.sqrt(0.25 / flips))
    assert wanted.min() < 0.05 < wanted.max()


def test_ties_count_as_larger_however_they_are_rounded(generator):
    effects = np.array([[0.1, 0.3, 0.0], [0.2, 0.3, 0.0], [0.3, 0.3, 0.0], [-0.6, 0.3, 0.0]])
    np.testing.assert_allclose(sign_flip_p(effects, 8, generator), [1, 2 / 2**4, 1])
    assert sign_flip_p(np.repeat(effects[:, 1:2], 16, axis=0), 100, generator)[0] == 1 / 101


def test_scale_and_sign_of_effects_do_not_matter(generator):
    effects = generator.normal(0.3, 1, size=(30, 1))
    p = sign_flip_p(np.hstack([effects, -effects, effects * 1e-30, effects * 1e30]), 1000, generator)
    np.testing.assert_array_equal(p, p[0])


@pytest.mark.parametrize("flips", [100, 1 << 20])
def test_the_smallest_p_is_that_of_effects_that_are_all_the_same(generator, flips):
    assert sign_flip_p(np.full((12, 1), 3.0), flips, generator)[0] == smallest_p(12, flips)
    assert smallest_p(12, flips) == {100: 1 / 101, 1 << 20: 2 / 2**12}[flips]


def test_student_p_is_scipys(generator):
    effects = generator.normal(0.2, 1, size=(20, 5))
    p = student_p(effects.mean(axis=0), (effects**2).mean(axis=0), 20)
    np.testing.assert_allclose(p, stats.ttest_1samp(effects, 0).pvalue, rtol=1e-9)
    constant = student_p(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 20)
    np.testing.assert_array_equal(constant, [1, 0])
    np.testing.assert_array_equal(student_p(np.array([2.0]), np.array([4.0]), 1), [1])


def test_student_p_that_are_not_needed_are_1(generator):
    effects = generator.normal(0.3, 1, size=(20, 200))
    moments = effects.mean(axis=0), (effects**2).mean(axis=0), 20
    p, needed = student_p(*moments), student_p(*moments, needed=0.1)
    np.testing.assert_array_equal(needed, np.where(p <= 0.1, p, 1))
    assert 20 < (needed < 1).sum() < 180


def test_sign_flips_tend_to_student(generator):
    effects = generator.normal(np.linspace(0, 0.15, 8), 1, size=(400, 8))
    p = student_p(effects.mean(axis=0), (effects**2).mean(axis=0), 400)
    np.testing.assert_allclose(sign_flip_p(effects, 20_000, generator), p, atol=0.015)


def test_bootstrap_agrees_with_scipy(generator):
    effects = generator.exponential(size=(25, 3))
    resampled = bootstrap_weights(25, 20_000, generator) @ effects
    low, high = percentile_interval(resampled, 0.9)
    wanted = stats.bootstrap((effects,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=1)
    np.testing.assert_allclose([low, high], [wanted.confidence_interval.low, wanted.confidence_interval.high], atol=0.02)
    np.testing.assert_allclose(resampled.std(axis=0), effects.std(axis=0) / 5, rtol=0.03)  # the bootstrap's closed form


def test_intervals_cover_the_mean_as_often_as_they_say(generator):
    effects = generator.normal(1, 2, size=(80, 3000))  # a head is a study of its own
    low, high = percentile_interval(bootstrap_weights(80, 1000, generator) @ effects, 0.95)
    assert np.mean((low <= 1) & (high >= 1)) == pytest.approx(0.945, abs=0.015)


def test_a_stream_depends_on_its_seed_and_names_alone():
    draws = [stream(*of).integers(1 << 62) for of in ((0, "sip", "a"), (0, "sip", "a"), (0, "sip", "b"), (1, "sip", "a"))]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3
