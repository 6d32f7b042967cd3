"""Effects under several corruptions, compared: an array [corruption, sample, layer, cell] -> maps, shares of thirds of the layers, rank
correlations, all with intervals; and whether NOTICE's claim about noise (its Figure 4) holds in them.
"""

import warnings
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from analysis.corruptions.options import Comparing
from analysis.stats.resampling import bootstrap_weights, stream, weighted_means
from analysis.stats.thirds import THIRDS, shares_of_layers, thirds

ONE = 1 - 1e-12  # the largest rank correlation whose arctanh is finite
SCORES = ("mean_absolute_effect", "mean_effect")
NOISE = "gaussian_noise"
SEMANTIC = ("sip", "str")  # the corruptions that the claim sets noise beside
TEST = (
    "holds: the last third's share has an interval wholly above {0:g} under noise, and not so under sip or str, and the interval of "
    "noise's share less theirs lies wholly above 0; does not hold: noise's lies wholly below {0:g}, sip's or str's wholly above it, or "
    "that of the difference wholly below 0; else undecided"
)


def compare(effects: xr.DataArray, options: Comparing) -> xr.Dataset:
    """Maps, shares of thirds, their differences and rank correlations, with percentile intervals of a bootstrap over samples.

    A resample is of samples, the same ones under every corruption, so that differences are paired. Shares and rank correlations are of the
    cells that have an effect under every corruption; a resample in which one of them has none is left out of the intervals.

    Few samples rank heads by chance in part: that draws a rank correlation towards 0, and its interval, which is of the correlation in as
    many samples, does not make up for it. How far is shown by the rank correlation of a corruption with itself, between random halves of
    its samples, and by the largest correlation that these allow: sqrt(r_a r_b), with r = 2 h / (1 + h) for halves that correlate by h
    (Spearman 1904; Spearman and Brown 1910).

    Parameters
    ----------
    effects : [corruption, sample, layer, head or role], in the metric's unit; NaN where there is none

    Returns
    -------
    mean_effect, mean_absolute_effect (of |effect|) [corruption, layer, head or role], NaN where there is none; samples [corruption];
    cells, cells_left_out; and, each with _low and _high: share [corruption, third] and layer_share [corruption, layer] of the sum of mean
    |effect| over all cells, share_difference [corruption, other, third], rank_correlation [score, corruption, other] (Spearman's),
    halves_correlation [score, corruption] (the mean over random halves); ceiling [score, corruption, other].

    >>> x = np.zeros((2, 10, 3, 1)) + 0.1
    >>> x[0, :, 2] = x[1, :, 0] = 1.0  # the effect is late under one corruption and early under the other
    >>> coords = {"corruption": ["gaussian_noise", "sip"], "layer": range(3), "head": [0]}
    >>> effects = xr.DataArray(x, dims=("corruption", "sample", "layer", "head"), coords=coords)
    >>> found = compare(effects, Comparing(resamples=20))
    >>> found["share"].sel(third="late").values.round(2), found["rank_correlation"].sel(score="mean_effect").values[0].round(2)
    (array([0.83, 0.08]), array([ 1. , -0.5]))
    """
    effects = effects.transpose("corruption", "sample", "layer", ...)
    x = effects.values.reshape(*effects.shape[:2], -1)
    samples, layers = effects.shape[1:3]
    drawn = bootstrap_weights(samples, options.resamples, stream(options.seed, "compare"))
    weights = np.concatenate([np.full((1, samples), 1 / samples), drawn])  # the samples as they are, then the resamples
    there = np.isfinite(x).any(axis=1).all(axis=0)
    scored = dict(zip(SCORES, (np.abs(x), x), strict=True))
    means = {score: weighted_means(of, weights) for score, of in scored.items()}
    layer_share = shares_of_layers(means["mean_absolute_effect"], there, layers)
    share = np.moveaxis(layer_share @ np.eye(len(THIRDS))[thirds(layers)], 1, -1)
    alike = np.stack([_rank_correlations(of[..., there]) for of in means.values()])
    halves = np.stack([_between_halves(of[..., there], options) for of in scored.values()])

    of_cells = effects.isel(sample=0, drop=True)
    variables: dict[str, Any] = {name: (of_cells.dims, values[:, 0].reshape(of_cells.shape)) for name, values in means.items()}
    variables |= {"samples": ("corruption", np.isfinite(x).any(axis=2).sum(axis=1))}
    variables |= {"cells": ((), int(there.sum())), "cells_left_out": ((), int(np.isfinite(x).any(axis=(0, 1)).sum() - there.sum()))}
    variables |= _with_interval("share", ("corruption", "third"), share, options)
    variables |= _with_interval("layer_share", ("corruption", "layer"), np.moveaxis(layer_share, 1, -1), options)
    variables |= _with_interval("share_difference", ("corruption", "other", "third"), share[:, None] - share[None], options)
    variables |= _with_interval("rank_correlation", ("score", "corruption", "other"), alike, options)
    variables |= _with_interval("halves_correlation", ("score", "corruption"), halves, options)
    positive = np.maximum(halves[..., 0], 0)
    reliability = 2 * positive / (1 + positive)
    variables["ceiling"] = ("score", "corruption", "other"), np.sqrt(reliability[:, :, None] * reliability[:, None])
    coords = {str(dim): effects[dim].values for dim in of_cells.dims} | {"other": effects["corruption"].values, "score": list(SCORES)}
    coords |= {"third": list(THIRDS), "third_of_layer": ("layer", np.array(THIRDS)[thirds(layers)])}
    return xr.Dataset(variables, coords)


def _rank_correlations(scores: np.ndarray) -> np.ndarray:
    """Spearman's of every pair of corruptions: [corruption, resample, cell] -> [corruption, other, resample].

    Resamples after the first are reflected about it on Fisher's scale (arctanh), so that their percentiles are the basic bootstrap's: noise
    that samples share under two corruptions makes resamples agree more than the samples do.
    """
    ranks = _ranks(scores)
    scale = np.arctanh(np.clip(np.einsum("arc,brc->abr", ranks, ranks), -ONE, ONE))
    return np.tanh(np.concatenate([scale[..., :1], 2 * scale[..., :1] - scale[..., 1:]], axis=-1))


def _between_halves(x: np.ndarray, options: Comparing) -> np.ndarray:
    """Spearman's between the means of random halves of the samples: [corruption, sample, cell] -> [corruption, split], their mean first."""
    first = np.tile(np.arange(x.shape[1]) < x.shape[1] // 2, (options.resamples, 1))
    first = stream(options.seed, "halves").permuted(first, axis=1)
    alike = np.einsum("arc,arc->ar", *(_ranks(weighted_means(x, half.astype(float))) for half in (first, ~first)))
    there = np.isfinite(alike).sum(axis=1, keepdims=True)
    return np.concatenate([np.nansum(alike, axis=1, keepdims=True) / np.where(there > 0, there, np.nan), alike], axis=1)


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, centred and of length 1, so that the product of two is Spearman's; NaN where all score the same."""
    ranks = stats.rankdata(scores, axis=-1) - (scores.shape[-1] + 1) / 2
    length = np.sqrt((ranks**2).sum(axis=-1, keepdims=True))
    return np.where(length > 0, ranks / np.where(length > 0, length, 1), np.nan)


def _with_interval(name: str, dims: tuple[str, ...], values: np.ndarray, options: Comparing) -> dict[str, Any]:
    """The first of the resamples, which are the last axis, and the percentile interval of the others, widened to hold it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")
        low, high = np.nanquantile(values[..., 1:], [(1 - options.confidence) / 2, (1 + options.confidence) / 2], axis=-1)
    first = values[..., 0]
    return {name: (dims, first), f"{name}_low": (dims, np.minimum(low, first)), f"{name}_high": (dims, np.maximum(high, first))}


def claim(compared: xr.Dataset, noise: str, others: list[str], confined: float) -> str:
    """Whether the effect of `noise` is confined to the last layers and that of `others` is not, by `TEST`.

    >>> x = np.random.default_rng(0).normal(0.1, 0.01, (2, 50, 3, 4))
    >>> x[0, :, 2] += 1
    >>> coords = {"corruption": ["gaussian_noise", "sip"], "layer": range(3), "head": range(4)}
    >>> effects = xr.DataArray(x, dims=("corruption", "sample", "layer", "head"), coords=coords)
    >>> claim(compare(effects, Comparing(resamples=50)), "gaussian_noise", ["sip"], confined=0.5)
    'holds'
    """
    late = compared.sel(third="late")
    of_noise, of_others = late.sel(corruption=noise), late.sel(corruption=others)
    less = late.sel(corruption=noise, other=others)
    holds = of_noise["share_low"] > confined and (less["share_difference_low"] > 0).all() and not (of_others["share_low"] > confined).any()
    fails = of_noise["share_high"] < confined or (less["share_difference_high"] < 0).any() or (of_others["share_low"] > confined).any()
    return "holds" if holds else "does not hold" if fails else "undecided"
