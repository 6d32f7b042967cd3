"""Statistics of one map of effects [sample, layer, role]: its peak, and whether early, middle or late layers hold more of the effect."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.corruptions.statistics import THIRDS, thirds
from analysis.stats.resampling import bootstrap_weights, percentile_interval, sign_flip_p

PAIRS = (("early", "middle"), ("early", "late"), ("middle", "late"))
FLIPS = 20_000


@dataclass(frozen=True)
class Peak:
    """The cell whose mean effect is largest in size.

    Attributes
    ----------
    layer, role : its place in the map, counted from 0
    effect, low, high : the mean effect at this cell with the percentile interval over resamples. The cell was chosen for being largest, so
        where its frequency is low the effect is overestimated
    frequency, layer_frequency : share of the resamples whose peak is this cell, or in this layer
    """

    layer: int
    role: int
    effect: float
    low: float
    high: float
    frequency: float
    layer_frequency: float


def peak(means: np.ndarray, confidence: float = 0.95) -> Peak | None:
    """The peak of a map; None where no cell has a value or all are 0.

    Parameters
    ----------
    means : [resample, layer, role], the first of the samples as they are; NaN where there is none

    Examples
    --------
    >>> maps = np.array([[[0.0, 0.1], [-2.0, 0.3]], [[0.0, 0.1], [-1.0, 0.2]], [[0.0, 0.9], [-0.5, 0.4]]])
    >>> found = peak(maps)
    >>> found.layer, found.role, found.effect, found.frequency
    (1, 0, -2.0, 0.5)
    """
    roles = means.shape[2]
    size = np.nan_to_num(np.abs(means)).reshape(len(means), -1)
    if not size[0].any():
        return None
    at = size.argmax(axis=1)
    layer, role = divmod(int(at[0]), roles)
    resampled = means[1:, layer, role]
    low, high = percentile_interval(resampled[np.isfinite(resampled)], confidence)
    of_cell, of_layer = (at[1:] == at[0]).mean(), (at[1:] // roles == layer).mean()
    return Peak(layer, role, float(means[0, layer, role]), float(low), float(high), float(of_cell), float(of_layer))


def size_by_third(effects: np.ndarray) -> np.ndarray:
    """Mean |effect| of a layer, summed over roles, in each third of the layers of each sample: [sample, layer, role] -> [sample, third].

    It is of a layer, so that thirds of unequal numbers of layers compare. Layers without any effect at all (NaN) are left out; NaN where
    a third has none left, or a sample has no effect.

    Examples
    --------
    >>> size_by_third(np.array([[[1.0, -1.0], [3.0, 0.0], [0.0, 5.0], [0.0, 0.5]]]))
    array([[2. , 4. , 0.5]])
    """
    there = np.isfinite(effects).any(axis=(0, 2))
    of_layer = np.nansum(np.abs(effects), axis=2)
    third = thirds(effects.shape[1])
    chosen = [there & (third == number) for number in range(len(THIRDS))]
    found = np.stack([of_layer[:, layers].mean(axis=1) if layers.any() else np.full(len(effects), np.nan) for layers in chosen], axis=1)
    found[~np.isfinite(effects).any(axis=(1, 2))] = np.nan
    return found


def pairwise(by_third: np.ndarray) -> np.ndarray:
    """The differences of `PAIRS` of thirds: [sample, third] -> [sample, pair].

    >>> pairwise(np.array([[3.0, 1.0, 0.5]]))  # of one sample; columns as in PAIRS
    array([[2. , 2.5, 0.5]])
    """
    return np.stack([by_third[:, THIRDS.index(one)] - by_third[:, THIRDS.index(other)] for one, other in PAIRS], axis=1)


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


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values (1979): the chance of any false rejection is bounded, however the tests depend on each other.

    With p sorted, the largest of (n - j + 1) p_(j) over j = 1 to the rank, at most 1. NaN stays NaN and does not count.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03, np.nan]).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    p = np.asarray(p, dtype="float64")
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted
