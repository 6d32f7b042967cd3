"""Many tests together: p-values -> discoveries at a rate of false ones, Holm's adjusted p-values, and p of effects in several tasks."""

from collections.abc import Sequence

import numpy as np


def discoveries(p: np.ndarray, alpha: float) -> np.ndarray:
    """Whether each p-value is among the discoveries at rate alpha of Benjamini and Hochberg (1995), along the last axis.

    The same as `scipy.stats.false_discovery_control(p, axis=-1) <= alpha` to the last bit, in less time, since ranks are not needed: they
    are the p up to the largest p_(k) with p_(k) n / k <= alpha. NaN is none.

    >>> discoveries(np.array([0.04, 0.9, 0.01, 0.02]), alpha=0.06)  # p n / k is 0.04, 0.04, 0.053, 0.9
    array([ True, False,  True,  True])
    """
    ordered = np.sort(p, axis=-1)
    passing = ordered * (p.shape[-1] / np.arange(1, p.shape[-1] + 1)) <= alpha
    return p <= np.where(passing, ordered, -1).max(axis=-1, keepdims=True)


def partial_conjunction_p(p: np.ndarray, sign: np.ndarray, at_least: int) -> np.ndarray:
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
    >>> partial_conjunction_p(p, sign, at_least=3)  # positive in all three tasks, negative in all three
    array([0.2  , 0.995])
    >>> partial_conjunction_p(p, sign, at_least=2)
    array([0.02, 1.  ])
    """
    one_sided = [np.sort(np.where(sign == side, p / 2, 1 - p / 2), axis=0)[at_least - 1] for side in (1, -1)]
    return np.minimum((len(p) - at_least + 1) * np.stack(one_sided), 1)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values (1979): the chance of any false rejection is bounded, however the tests depend on each other.

    With p sorted, the largest of (n - j + 1) p_(j) over j = 1 to the rank, at most 1. NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03, np.nan]).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    p = np.asarray(p, dtype="float64")
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted
