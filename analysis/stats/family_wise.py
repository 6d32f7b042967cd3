"""How often chance alone makes some head stand out as much: a permutation test over heads.

In: |effect| per sample and head of each task. Out: a family-wise p-value for each head. NOTICE's rule has no such test; it is reported
beside the rule, which by itself names heads in noise when there are few tasks. Its null is exchangeable heads, so that a head that is only
noisier than the others can have a small p: `robust_heads` asks for signed effects beyond chance.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

PERMUTATIONS = 1000


def family_wise_p(absolute: Sequence[xr.DataArray], permutations: int = PERMUTATIONS, seed: int = 0, at_least: int = 0) -> xr.DataArray:
    """The chance that any head stands out in every task as much as each head does, were heads exchangeable within each sample.

    A head's statistic is the smallest, over tasks (or the `at_least`-th largest), of its mean |effect| in standard deviations above the
    mean of all heads. Its null distribution is that of the largest statistic of all heads, after the values of every sample are moved on
    by a random number of heads, in a circle: so at most 5 % of data sets in which heads are exchangeable have a head with p <= 0.05
    (max-statistic permutation test, Westfall and Young 1993). Moving on is a group of permutations, which is all that the test needs
    (Hemerik and Goeman 2018), and takes a twentieth of a shuffle's time. A head that is only noisier than others is not exchangeable with
    them, and can have a small p.

    Parameters
    ----------
    absolute : one array [sample, layer, head] a task, |effect| in the metric's unit; samples with a missing value are left out.
    permutations : how often all samples are moved on; the smallest possible p is 1 / (permutations + 1).
    at_least : tasks in which a head must stand out; 0 for every one.

    Returns
    -------
    p-values [layer, head] in (0, 1]; NaN where a layer has no such heads.

    >>> x = np.random.default_rng(0).random((20, 2, 3))
    >>> x[:, 1, 2] += 2
    >>> p = family_wise_p([xr.DataArray(x, dims=("sample", "layer", "head"))], permutations=99)
    >>> p.values.round(2)
    array([[1.  , 1.  , 1.  ],
           [1.  , 1.  , 0.01]])
    """
    generator = np.random.default_rng(seed)
    flat = [task.transpose("sample", "layer", "head").values.reshape(task.sizes["sample"], -1) for task in absolute]
    heads = np.logical_or.reduce([np.isfinite(task).any(axis=0) for task in flat])
    values = [_complete(task[:, heads]) for task in flat]

    def statistic(means: list[np.ndarray]) -> np.ndarray:
        return np.sort([_standardized(task) for task in means], axis=0)[-at_least if at_least else 0]

    observed = statistic([task.mean(axis=0) for task in values])
    moved = zip(*(_moved_means(task, permutations, generator) for task in values), strict=True)
    largest = np.array([statistic(list(means)).max() for means in moved])
    larger = (largest[:, None] >= observed - 1e-12).sum(axis=0)
    template = absolute[0].isel(sample=0, drop=True).transpose("layer", "head")
    p = np.full(len(heads), np.nan)
    p[heads] = (1 + larger) / (1 + permutations)
    return template.copy(data=p.reshape(template.shape))


def _moved_means(task: np.ndarray, permutations: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """The mean over samples [head] of [sample, head], each time with every sample moved on by a random number of heads."""
    samples, heads = task.shape
    by_places = np.lib.stride_tricks.sliding_window_view(np.concatenate([task, task], axis=1), heads, axis=1)
    for places in generator.integers(heads, size=(permutations, samples)):
        yield by_places[np.arange(samples), places].mean(axis=0)


def _complete(task: np.ndarray) -> np.ndarray:
    complete = task[np.isfinite(task).all(axis=1)]
    return complete if len(complete) else np.zeros((1, task.shape[1]))


def _standardized(means: np.ndarray) -> np.ndarray:
    spread = means.std()
    return (means - means.mean()) / spread if spread > 0 else np.zeros_like(means)
