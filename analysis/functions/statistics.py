"""Statistics of scores [sample, head] of which some heads lack some samples: means, bootstrap intervals, one-sided p-values, correction."""

from collections.abc import Iterator, Mapping

import numpy as np
from scipy import stats

from analysis.stats import resampling

RATIOS = {"object_ratio": ("object_mass", "mean_object_mass"), "object_lift": ("object_mass", "elsewhere_mass")}  # of means
CERTAIN = 1e-12  # a mean nearer to 0 than this is 0 where all samples agree


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means of [sample, head] by weights [resample, sample], over the samples that are not NaN: [resample, head]; NaN without any.

    >>> weighted_mean(np.array([[1.0, np.nan], [3.0, 4.0]]), np.array([[1.0, 1.0], [3.0, 1.0]]))
    array([[2. , 4. ],
           [1.5, 4. ]])
    """
    there = np.isfinite(values)
    total = weights.sum(axis=1, keepdims=True) if there.all() else weights @ there
    return (weights @ np.nan_to_num(values)) / np.where(total > 0, total, np.nan)


def means(values: Mapping[str, np.ndarray], weights: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The mean of each score, then the ratios of means of `RATIOS`, by weights [resample, sample]: name, [resample, head].

    >>> scores = {"object_mass": [[0.2], [0.4]], "mean_object_mass": [[0.1], [0.1]], "elsewhere_mass": [[0.1], [0.2]]}
    >>> found = dict(means({name: np.array(values) for name, values in scores.items()}, np.ones((1, 2))))
    >>> {name: round(float(mean[0, 0]), 3) for name, mean in found.items()}
    {'object_mass': 0.3, 'mean_object_mass': 0.1, 'elsewhere_mass': 0.15, 'object_ratio': 3.0, 'object_lift': 2.0}
    """
    kept = {}
    for name, of_samples in values.items():
        mean = weighted_mean(of_samples, weights)
        if any(name in pair for pair in RATIOS.values()):
            kept[name] = mean
        yield name, mean
    for name, (over, under) in RATIOS.items():
        yield name, kept[over] / np.where(kept[under] > 0, kept[under], np.nan)


def stratified_weights(strata: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each sample is drawn in each resample with replacement, each stratum among itself (Efron and Tibshirani 1993, section 8.4).

    >>> stratified_weights(np.array(["a", "a", "a", "b"]), 2, np.random.default_rng(0)).sum(axis=1)
    array([4., 4.])
    """
    weights = np.zeros((resamples, len(strata)))
    for stratum in sorted(set(strata.tolist())):
        members = np.flatnonzero(strata == stratum)
        weights[:, members] = resampling.bootstrap_weights(len(members), resamples, generator) * len(members)
    return weights


def interval(resampled: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of resampled means [resample, head], over the resamples that have one: low [head] and high [head].

    >>> low, high = interval(np.array([[1.0, 5.0], [2.0, np.nan], [3.0, 7.0]]), 0.5)
    >>> low, high
    (array([1.5, 5.5]), array([2.5, 6.5]))
    """
    low, high = resampling.percentile_interval(resampled, confidence)
    for head in np.flatnonzero(np.isnan(resampled).any(axis=0) & ~np.isnan(resampled).all(axis=0)):
        column = resampled[:, head]
        low[head], high[head] = resampling.percentile_interval(column[np.isfinite(column)], confidence)
    return low, high


def standard_errors(values: np.ndarray) -> np.ndarray:
    """The mean over samples [head] in standard errors; infinite where all agree on another value than 0, NaN with fewer than 2 samples.

    >>> standard_errors(np.array([[1.0, 2.0], [3.0, 2.0]]))
    array([ 2., inf])
    """
    count = np.isfinite(values).sum(axis=0)
    mean = np.nansum(values, axis=0) / np.maximum(count, 1)
    square = np.nansum((values - mean) ** 2, axis=0) / np.maximum(count - 1, 1)
    error = np.sqrt(square / np.maximum(count, 1))
    certain = np.where(np.abs(mean) > CERTAIN, np.copysign(np.inf, mean), 0.0)
    return np.where(count > 1, np.where(error > 0, mean / np.where(error > 0, error, 1), certain), np.nan)


def two_sided_p(values: np.ndarray, flips: int, generator: np.random.Generator) -> np.ndarray:
    """The p-value [head] that a mean is 0, over the samples that are not NaN; 1 without any.

    Parameters
    ----------
    flips : number of sign flips (`resampling.sign_flip_p`, to which a sample that is missing adds 0); 0 for Student's t
        (`resampling.student_p`), which they tend to.

    >>> values = np.array([[1.0, np.nan], [2.0, -1.0], [3.0, 1.0]])
    >>> two_sided_p(values, 100, np.random.default_rng(0)), two_sided_p(values, 0, np.random.default_rng(0)).round(3)
    (array([0.25, 1.  ]), array([0.074, 1.   ]))
    """
    there = np.isfinite(values)
    filled = np.where(there, values, 0.0)
    if flips:
        return resampling.sign_flip_p(filled, flips, generator)
    count = there.sum(axis=0)
    p = np.ones(len(count))
    for samples in np.unique(count[count > 0]):
        heads = count == samples
        mean, mean_square = (x.sum(axis=0) / samples for x in (filled[:, heads], filled[:, heads] ** 2))
        p[heads] = resampling.student_p(mean, mean_square, int(samples))
    return p


def one_sided(p: np.ndarray, sign: np.ndarray, side: int) -> np.ndarray:
    """The p-value that the mean does not lie on a side (1 or -1), from a two-sided one and the sign of the mean.

    >>> one_sided(np.array([0.02, 0.02, 1.0]), np.array([1, -1, 0]), 1)
    array([0.01, 0.99, 0.5 ])
    """
    return np.where(sign == side, p / 2, 1 - p / 2)


def corrected(p: np.ndarray) -> np.ndarray:
    """q of p-values [rule, ...]: Benjamini and Hochberg (1995) over heads and tasks of each rule, times the number of rules; NaN stays.

    >>> corrected(np.array([[0.01, 0.02, np.nan], [0.5, 0.9, 0.001]]))
    array([[0.04 , 0.04 ,   nan],
           [1.   , 1.   , 0.006]])
    """
    q = np.full(p.shape, np.nan)
    for of_rule, found in zip(p, q, strict=True):
        there = np.isfinite(of_rule)
        if there.any():
            found[there] = np.minimum(len(p) * stats.false_discovery_control(of_rule[there]), 1)
    return q
