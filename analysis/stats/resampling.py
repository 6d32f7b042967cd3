"""Resampling over samples, for all heads at once: effects [sample, head] -> p-values of means, bootstrap means and their intervals.

Heads that share samples keep their correlation: every flip of signs and every resample is of whole samples. Samples are taken to be
independent; where several share an image, p-values and intervals are too narrow.
"""

import zlib
from collections.abc import Iterator

import numpy as np
from scipy import special

BLOCK = 4096  # sign flips at a time: 16 MB for 1,024 heads
FLIPS = 20_000  # of paired differences
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


def student_p(mean: np.ndarray, mean_square: np.ndarray, samples: int | np.ndarray, needed: float = 1) -> np.ndarray:
    """Two-sided p-value of Student's t that a mean is 0; what `sign_flip_p` tends to as samples grow, at a fraction of the cost.

    t = mean / sqrt((mean_square - mean^2) / (samples - 1)); 1 where every effect is 0 or there are fewer than two samples.

    Parameters
    ----------
    mean, mean_square : [...], of the effects and of their squares over samples
    samples : their number, of all means or of each
    needed : p above this are not worked out but given as 1, which saves most of the time where they are many

    >>> from scipy import stats
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> p, scipys = student_p(x.mean(), (x**2).mean(), len(x)), stats.ttest_1samp(x, 0).pvalue
    >>> bool(np.isclose(p, scipys))
    True
    """
    freedom = np.maximum(np.asarray(samples) - 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(np.maximum(mean_square - mean**2, 0) / freedom)
        t = np.where((mean == 0) | (freedom == 0), 0, np.abs(mean) / error)
    small = (t >= special.stdtrit(freedom, 1 - needed / 2)) & (freedom > 0)
    p = np.ones_like(t)
    p[small] = 2 * special.stdtr(np.broadcast_to(freedom, t.shape)[small], -t[small])
    return p


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


def weighted_means(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means over the samples that have a value: [corruption, sample, cell] -> [corruption, resample, cell].

    >>> weighted_means(np.array([[[1.0], [3.0], [np.nan]]]), np.full((1, 3), 1 / 3))
    array([[[2.]]])
    """
    weight = weights @ np.isfinite(x)
    return np.where(weight > 0, (weights @ np.nan_to_num(x)) / np.where(weight > 0, weight, 1), np.nan)


def paired(
    differences: np.ndarray, resamples: int, confidence: float, generator: np.random.Generator, flips: int = FLIPS
) -> dict[str, np.ndarray]:
    """Mean, percentile bootstrap interval and two-sided sign-flip p-value of paired differences.

    Parameters
    ----------
    differences : [sample, comparison]; samples that lack one are left out

    Returns
    -------
    mean, low, high, p, each [comparison]; NaN with fewer than two samples

    Examples
    --------
    >>> differences = np.arange(1.0, 9.0)[:, None]
    >>> float(paired(differences, 100, 0.95, np.random.default_rng(0))["p"][0]) == 2 / 2**8
    True
    """
    x = differences[np.isfinite(differences).all(axis=1)]
    if len(x) < 2:
        return dict.fromkeys(("mean", "low", "high", "p"), np.full(differences.shape[1], np.nan))
    low, high = percentile_interval(bootstrap_weights(len(x), resamples, generator) @ x, confidence)
    return {"mean": x.mean(axis=0), "low": low, "high": high, "p": sign_flip_p(x, flips, generator)}
