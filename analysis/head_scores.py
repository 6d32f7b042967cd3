"""Scores of what a head looks at: attention maps of one sample -> object mass and gain, AUROC, outlier ratio, evenness, per head.

Every score compares a head with the mean head: the mean of the maps of all heads of all layers, each first made to sum to 1 over the image.
"""

import numpy as np

SCORES = ("object_mass", "mean_object_mass", "even_object_mass", "auroc", "outlier_ratio", "evenness")
INSIDE = 0.5  # a patch is of the object when the mask covers at least this share of it


def normalized(attention: np.ndarray) -> np.ndarray:
    """Maps [..., patch] that sum to 1 over the image; NaN where a head gives the image nothing."""
    attention = np.asarray(attention, dtype="float64")
    total = attention.sum(axis=-1, keepdims=True)
    return attention / np.where(total > 0, total, np.nan)


def mean_map(maps: np.ndarray) -> np.ndarray:
    """The mean head's map [patch] of normalised maps [layer, head, patch]; heads that give the image nothing are left out."""
    flat = maps.reshape(-1, maps.shape[-1])
    seen = flat[np.isfinite(flat).all(axis=1)]
    return seen.mean(axis=0) if len(seen) else np.full(maps.shape[-1], np.nan)


def outlier_patches(mean: np.ndarray, deviations: float = 2.0) -> np.ndarray:
    """The few patches that most heads favour: those with at least mean + `deviations` SD (population) of the mean head's map.

    By Cantelli's inequality they are at most 1 / (1 + deviations^2) of all patches, so always few: a fifth at 2. None where
    the map is flat.

    Parameters
    ----------
    mean : [patch], the mean head's map.

    Returns
    -------
    bool [patch]
    """
    return (mean >= mean.mean() + deviations * mean.std()) & (np.ptp(mean) > 1e-9)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the last axis; equal values share the mean of their ranks."""
    flat = values.reshape(-1, values.shape[-1])
    ranked = np.empty(flat.shape)
    for row, of_row in zip(flat, ranked, strict=True):
        _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
        of_row[:] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranked.reshape(values.shape)


def auroc(maps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The chance that a patch of the object gets more attention than another patch, ties counting half (Mann and Whitney).

    Parameters
    ----------
    maps : [..., patch]
    inside : bool [patch], the patches of the object.

    Returns
    -------
    [...] in 0..1; 0.5 is no preference. NaN where all patches or none are of the object.
    """
    positive, negative = int(inside.sum()), int((~inside).sum())
    if not positive or not negative:
        return np.full(maps.shape[:-1], np.nan)
    found = (ranks(maps)[..., inside].sum(axis=-1) - positive * (positive + 1) / 2) / (positive * negative)
    return np.where(np.isfinite(maps).all(axis=-1), found, np.nan)


def evenness(maps: np.ndarray) -> np.ndarray:
    """Entropy of maps [..., patch] over the largest possible, log(patches): 1 is spread evenly, 0 is all on one patch; NaN if all zero."""
    maps = normalized(maps)
    logarithm = np.log(np.where(maps > 0, maps, 1.0))
    return -(maps * logarithm).sum(axis=-1) / np.log(max(maps.shape[-1], 2))


def scores(attention: np.ndarray, object_share: np.ndarray, deviations: float = 2.0) -> dict[str, np.ndarray]:
    """All scores of all heads on one sample.

    Parameters
    ----------
    attention : [layer, head, patch], the probability each head gives each patch.
    object_share : [patch], the share of each patch that the object covers; NaN where there is no mask.
    deviations : see `outlier_patches`.

    Returns
    -------
    Each [layer, head] by name: `object_mass`, the share of the head's map on the object (patches weighted by `object_share`);
    `mean_object_mass`, the same of the mean head; `even_object_mass`, of an even map; `auroc`; `outlier_ratio`, the head's mass on the
    outlier patches over the mean head's; `evenness`, of the mass on the other patches. NaN without a mask or without outlier patches.
    """
    maps = normalized(attention)
    mean = mean_map(maps)
    outliers = outlier_patches(mean, deviations)
    blank = np.full(maps.shape[:-1], np.nan)
    found = dict.fromkeys(SCORES, blank)
    if np.isfinite(object_share).all() and object_share.sum() > 0:
        found["object_mass"] = maps @ object_share
        found["mean_object_mass"] = np.where(np.isfinite(found["object_mass"]), mean @ object_share, np.nan)
        found["even_object_mass"] = np.where(np.isfinite(found["object_mass"]), object_share.mean(), np.nan)
        found["auroc"] = auroc(maps, object_share >= INSIDE)
    if outliers.any():
        found["outlier_ratio"] = maps[..., outliers].sum(axis=-1) / mean[outliers].sum()
        found["evenness"] = evenness(maps[..., ~outliers])
    return found
