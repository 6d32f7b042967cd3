"""Resampling over samples, for all heads at once: effects [sample, head] -> p-values of means, bootstrap means, replication over tasks.

Heads that share samples keep their correlation: every flip of signs and every resample is of whole samples. Samples are taken to be
independent; where several share an image, p-values and intervals are too narrow.
"""

import zlib
from collections.abc import Iterator

import numpy as np
from scipy import special

BLOCK = 4096  # sign flips at a time: 16 MB for 1,024 heads
SIDES = (1, -1)
ROUNDING = 1e-5  # of a sum of |effects|: what counts as equal in float32


def stream(seed: int, *names: str) -> np.random.Generator:
    """Random numbers of their own for each seed and names: another task in the folder leaves those of this one as they were.

    >>> one, same, other = stream(0, "sip"), stream(0, "sip"), stream(0, "str")
    >>> x, y, z = one.random(), same.random(), other.random()
    >>> x == y, x == z
    (True, False)
    """
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def sign_flip_p(effects: np.ndarray, flips: int, generator: np.random.Generator) -> np.ndarray:
    """Two-sided p-value that the mean effect of each head is 0, by flipping the signs of samples (Fisher 1935; Good 2005, section 3.2).

    p = P(|sum_i s_i x_i| >= |sum_i x_i|) with signs s_i = +-1 at random; from random flips, (1 + larger) / (1 + flips) (Phipson and
    Smyth 2010). Where all 2^samples flips are no more than twice `flips`, every one is taken and p is exact. It is valid for effects that
    are symmetric about 0. Flips keep the sum of squares, so it is a test of Student's t, and for many samples holds for skewed ones too.

    Parameters
    ----------
    effects : [sample, head], finite
    flips : number of random flips

    Returns
    -------
    [head] in (0, 1]

    >>> effects = np.array([[1.0, 1.0], [2.0, -2.0], [3.0, 2.5]])
    >>> sign_flip_p(effects, flips=100, generator=stream(0))  # all 8 flips: 2 are as large as 1 + 2 + 3
    array([0.25, 0.75])
    """
    samples = len(effects)
    scale = np.abs(effects).max(axis=0)
    scaled = (effects / np.where(scale > 0, scale, 1)).astype("float32")
    observed = np.abs(scaled.sum(axis=0)) - ROUNDING * np.abs(scaled).sum(axis=0)
    exact = is_exact(samples, flips)
    larger = np.zeros(effects.shape[1], dtype="int64")
    for signs in _every_sign(samples) if exact else _random_signs(samples, flips, generator):
        larger += (np.abs(signs @ scaled) >= observed).sum(axis=0)
    return larger / 2 ** (samples - 1) if exact else (1 + larger) / (1 + flips)


def is_exact(samples: int, flips: int) -> bool:
    """Whether `sign_flip_p` takes every flip; a flip and its opposite have the same |sum|, so one of the two is enough.

    >>> is_exact(samples=5, flips=10_000), is_exact(samples=100, flips=10_000)
    (True, False)
    """
    return samples <= 62 and 2 ** (samples - 1) <= flips


def smallest_p(samples: int, flips: int) -> float:
    """The smallest p that `sign_flip_p` can give.

    >>> smallest_p(samples=5, flips=10_000), smallest_p(samples=100, flips=9_999)
    (0.0625, 0.0001)
    """
    return 2.0 ** (1 - samples) if is_exact(samples, flips) else 1 / (1 + flips)


def _every_sign(samples: int) -> Iterator[np.ndarray]:
    half = 2 ** (samples - 1)
    for start in range(0, half, BLOCK):
        numbers = np.arange(start, min(start + BLOCK, half))
        yield 1 - 2 * (numbers[:, None] >> np.arange(samples) & 1).astype("float32")


def _random_signs(samples: int, flips: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    for start in range(0, flips, BLOCK):
        rows = min(BLOCK, flips - start)
        bits = np.unpackbits(np.frombuffer(generator.bytes(-(-rows * samples // 8)), dtype="uint8"))[: rows * samples]
        yield bits.reshape(rows, samples) * np.float32(2) - 1


def student_p(mean: np.ndarray, mean_square: np.ndarray, samples: int, needed: float = 1) -> np.ndarray:
    """Two-sided p-value of Student's t that a mean is 0; what `sign_flip_p` tends to as samples grow, at a fraction of the cost.

    t = mean / sqrt((mean_square - mean^2) / (samples - 1)); 1 where every effect is 0 or there is one sample.

    Parameters
    ----------
    mean, mean_square : [...], of the effects and of their squares over samples
    needed : p above this are not worked out but given as 1, which saves most of the time where they are many

    >>> from scipy import stats
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> p, scipys = student_p(x.mean(), (x**2).mean(), len(x)), stats.ttest_1samp(x, 0).pvalue
    >>> bool(np.isclose(p, scipys))
    True
    """
    if samples < 2:
        return np.ones_like(mean)
    error = np.sqrt(np.maximum(mean_square - mean**2, 0) / (samples - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0, 0, np.abs(mean) / error)
    p = np.ones_like(t)
    small = t >= special.stdtrit(samples - 1, 1 - needed / 2)
    p[small] = 2 * special.stdtr(samples - 1, -t[small])
    return p


def discoveries(p: np.ndarray, alpha: float) -> np.ndarray:
    """Whether each p-value is among the discoveries at rate alpha of Benjamini and Hochberg (1995), along the last axis.

    As `scipy.stats.false_discovery_control(p) <= alpha`, in less time: they are the p up to the largest p_(k) <= alpha k / n.

    >>> discoveries(np.array([0.04, 0.9, 0.01, 0.02]), alpha=0.06)  # of 0.015, 0.03, 0.045, 0.06
    array([ True, False,  True,  True])
    """
    ordered = np.sort(p, axis=-1)
    passing = ordered <= alpha * np.arange(1, p.shape[-1] + 1) / p.shape[-1]
    return p <= np.where(passing, ordered, -1).max(axis=-1, keepdims=True)


def bootstrap_weights(samples: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """The share of each sample in each resample with replacement (Efron 1979): weights @ effects are the resampled means.

    Returns
    -------
    [resample, sample], rows sum to 1

    >>> weights = bootstrap_weights(samples=4, resamples=2, generator=stream(0))
    >>> weights
    array([[0.25, 0.  , 0.  , 0.75],
           [0.  , 0.5 , 0.5 , 0.  ]])
    >>> effects = np.array([1.0, 2.0, 3.0, 4.0])
    >>> weights @ effects
    array([3.25, 2.5 ])
    """
    return generator.multinomial(samples, np.full(samples, 1 / samples), size=resamples) / samples


def percentile_interval(resampled: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of resampled means [resample, ...] (Efron and Tibshirani 1993, chapter 13): low [...] and high [...].

    >>> low, high = percentile_interval(np.arange(101.0), confidence=0.9)
    >>> round(float(low), 6), round(float(high), 6)
    (5.0, 95.0)
    """
    of_heads = np.ascontiguousarray(np.moveaxis(resampled, 0, -1))  # three times as fast as along the first axis
    low, high = np.quantile(of_heads, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1)
    return low, high


def replicated_p(p: np.ndarray, sign: np.ndarray, at_least: int) -> np.ndarray:
    """P-values that fewer than `at_least` tasks have a positive effect, and a negative one.

    This is the partial conjunction of Benjamini and Heller (2008). Of the one-sided p of n tasks (p / 2, or 1 - p / 2 where the mean has
    the other sign), sorted, with p_(k) the k-th smallest: (n - k + 1) p_(k), which is valid however tasks depend on each other. For k = n
    it is the largest p.

    Parameters
    ----------
    p : [task, ...], two-sided
    sign : [task, ...], of the mean effects: -1, 0 or 1
    at_least : k, from 1 to the number of tasks

    Returns
    -------
    [2, ...] in (0, 1]: positive, negative

    >>> p, sign = np.array([0.01, 0.02, 0.4]), np.array([1, 1, 1])
    >>> replicated_p(p, sign, at_least=3)  # positive in all three tasks, negative in all three
    array([0.2  , 0.995])
    >>> replicated_p(p, sign, at_least=2)
    array([0.02, 1.  ])
    """
    one_sided = [np.sort(np.where(sign == side, p / 2, 1 - p / 2), axis=0)[at_least - 1] for side in SIDES]
    return np.minimum((len(p) - at_least + 1) * np.stack(one_sided), 1)


def replicated_by_sign(
    p: np.ndarray, sign: np.ndarray, stands_out: np.ndarray, ran: np.ndarray, at_least: int
) -> tuple[np.ndarray, np.ndarray]:
    """`replicated_p` of each corruption, and whether a head stands out with that sign in enough of the tasks that ran.

    Parameters
    ----------
    p, sign, stands_out : [corruption, task, ..., head]
    ran : bool [corruption, task]
    at_least : number of tasks; 0 for all that ran

    Returns
    -------
    Both [2, corruption, ..., head]: positive, negative

    >>> p, sign = np.array([[[0.01], [0.04], [1.0]]]), np.array([[[1], [1], [0]]])
    >>> replicated, large = replicated_by_sign(p, sign, p < 1, np.array([[True, True, False]]), at_least=0)
    >>> replicated[:, 0, 0], large[:, 0, 0]
    (array([0.02 , 0.995]), array([ True, False]))
    """
    shape = (len(SIDES), len(p), *p.shape[2:])
    by_side, large = np.ones(shape), np.zeros(shape, dtype=bool)
    for c, tasks in enumerate(ran):
        wanted = at_least or int(tasks.sum())
        by_side[:, c] = replicated_p(p[c, tasks], sign[c, tasks], wanted)
        large[:, c] = [(stands_out[c, tasks] & (sign[c, tasks] == side)).sum(axis=0) >= wanted for side in SIDES]
    return by_side, large
