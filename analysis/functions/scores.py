"""Scores of what heads look at: attention maps of one sample, masks of objects -> object mass, AUROC, pointing game, outliers, evenness.

Every map is first made to sum to 1 over the image (`normalized`). The mean head is the mean of the maps of all heads of all layers. Where a
function takes maps [..., patch] and masks [..., patch], it scores every map against every mask.
"""

import numpy as np
from scipy import stats

INSIDE = 0.5  # a patch is of the object when the mask covers at least this share of it


def normalized(attention: np.ndarray) -> np.ndarray:
    """Maps [..., patch] that sum to 1 over the image; NaN where a head gives the image nothing.

    >>> normalized(np.array([[1.0, 3.0], [0.0, 0.0]]))
    array([[0.25, 0.75],
           [ nan,  nan]])
    """
    attention = np.asarray(attention)
    total = attention.sum(axis=-1, keepdims=True)
    return attention / np.where(total > 0, total, np.nan)


def mean_map(maps: np.ndarray) -> np.ndarray:
    """The mean head's map [patch] of normalised maps [..., patch]; heads that give the image nothing are left out.

    >>> mean_map(np.array([[0.25, 0.75], [0.75, 0.25], [np.nan, np.nan]]))
    array([0.5, 0.5])
    """
    flat = maps.reshape(-1, maps.shape[-1])
    seen = flat[np.isfinite(flat).all(axis=1)]
    return seen.mean(axis=0, dtype="float64") if len(seen) else np.full(maps.shape[-1], np.nan)


def outlier_patches(mean: np.ndarray, deviations: float = 2.0) -> np.ndarray:
    """The few patches that the mean head favours: those with at least mean + `deviations` SD (population) of its map.

    This is NOTICE's comparison with the mean of all heads; see `favoured` for "most heads". By Cantelli's inequality they are at most
    1 / (1 + deviations^2) of all patches, so always few: a fifth at 2. None where the map is flat.

    Parameters
    ----------
    mean : [patch], the mean head's map.

    Returns
    -------
    bool [patch]

    >>> outlier_patches(np.array([1.0] * 5 + [9.0]))
    array([False, False, False, False, False,  True])
    """
    return (mean >= mean.mean() + deviations * mean.std()) & (np.ptp(mean) > 1e-9)


def favoured(maps: np.ndarray) -> np.ndarray:
    """The share of heads [patch] that give each patch more than an even share, of normalised maps [..., patch]; NaN where none has a map.

    A single head that looks at one patch alone can raise the mean head's map there; this tells whether most heads do.

    >>> favoured(np.array([[0.9, 0.05, 0.05], [0.3, 0.4, 0.3], [0.2, 0.5, 0.3], [0.2, 0.4, 0.4]]))
    array([0.25, 0.75, 0.25])
    """
    flat = maps.reshape(-1, maps.shape[-1])
    seen = np.isfinite(flat).all(axis=1).sum()
    return (flat > 1 / maps.shape[-1]).sum(axis=0) / (seen if seen else np.nan)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the last axis; equal values share the mean of their ranks.

    >>> ranks(np.array([3.0, 1.0, 3.0]))
    array([2.5, 1. , 2.5])
    """
    flat = np.asarray(values).reshape(-1, values.shape[-1])
    order = flat.argsort(axis=-1)
    ranked = np.empty(flat.shape)
    np.put_along_axis(ranked, order, np.arange(1.0, flat.shape[1] + 1)[None], axis=-1)
    in_order = np.sort(flat, axis=-1)
    tied = (in_order[:, 1:] == in_order[:, :-1]).any(axis=-1)
    if tied.any():
        ranked[tied] = stats.rankdata(flat[tied], axis=-1)
    return ranked.reshape(values.shape)


def auroc(maps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The chance that a patch of the object gets more attention than another patch, ties counting half.

    The area under the ROC curve with attention as score and the mask as label: U / (positives x negatives) of Mann and Whitney (1947).

    Parameters
    ----------
    maps : [..., patch]
    inside : bool [..., patch], the patches of the object, of one mask or of several.

    Returns
    -------
    [maps..., masks...] in 0..1; 0.5 is no preference. NaN where all patches or none are of the object, or a map is NaN.

    >>> float(auroc(np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, True, False, True])))
    0.75
    """
    return area_of_ranks(ranks(maps), inside, np.isfinite(maps).all(axis=-1))


def area_of_ranks(ranked: np.ndarray, inside: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """`auroc` of maps whose ranks [..., patch] are known; `seen` [...] is whether a map is one.

    >>> float(area_of_ranks(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True]), np.array(True)))
    0.75
    """
    positive = inside.sum(axis=-1, dtype="float64")
    pairs = positive * (inside.shape[-1] - positive)
    sums = np.tensordot(ranked, inside.astype("float64"), axes=(-1, -1))
    area = (sums - positive * (positive + 1) / 2) / np.where(pairs > 0, pairs, np.nan)
    return np.where(seen.reshape(seen.shape + (1,) * positive.ndim), area, np.nan)


def most_attended(maps: np.ndarray) -> np.ndarray:
    """Maps [..., patch] of the patch with the most attention: 1 there, or shared where several have the most; NaN where a map is NaN.

    Its mass on the object is the pointing game (Zhang et al. 2018).

    >>> most_attended(np.array([[0.1, 0.2, 0.7], [0.4, 0.4, 0.2]]))
    array([[0. , 0. , 1. ],
           [0.5, 0.5, 0. ]])
    """
    most = maps == maps.max(axis=-1, keepdims=True)
    number = most.sum(axis=-1, keepdims=True)
    return most / np.where(number > 0, number, np.nan).astype(maps.dtype)


def mass(maps: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The share of attention on the object, patches weighted by the part of each that the object covers.

    Parameters
    ----------
    maps : [..., patch]
    share : [..., patch] in 0..1, of one mask or of several.

    Returns
    -------
    [maps..., masks...] in 0..1

    >>> float(mass(np.array([0.5, 0.25, 0.25]), np.array([1.0, 0.5, 0.0])))
    0.625
    """
    return np.tensordot(maps, share.astype(maps.dtype), axes=(-1, -1))


def evenness(maps: np.ndarray) -> np.ndarray:
    """Entropy of maps [..., patch] over the largest possible, log(patches): 1 is spread evenly, 0 is all on one patch; NaN if all zero.

    >>> evenness(np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]))
    array([1. , 0.5, 0. ])
    """
    maps = normalized(maps)
    logarithm = np.log(np.where(maps > 0, maps, 1.0))
    return np.abs((maps * logarithm).sum(axis=-1, dtype="float64")) / np.log(max(maps.shape[-1], 2))


def taken(maps: np.ndarray, mean: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """The mass of maps [..., patch] on some patches, over the mean head's mass on them: 1 is as much as the mean head gives them.

    Parameters
    ----------
    mean : [patch], the mean head's map.
    patches : bool [patch], or [mask, patch] for several sets of them.

    Returns
    -------
    [maps...] or [maps..., mask]; NaN where there are no such patches.

    >>> taken(np.array([[0.6, 0.4], [0.2, 0.8]]), np.array([0.4, 0.6]), np.array([True, False]))
    array([1.5, 0.5])
    """
    of_mean = np.where(patches.any(axis=-1), patches.astype("float64") @ mean, np.nan)
    return mass(maps, patches) / np.where(of_mean > 0, of_mean, np.nan)
