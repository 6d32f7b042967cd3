"""Subsamples of a task beside the rest of its samples: effects of heads -> how alike their scores are ranked, and which heads both name."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from analysis.heads.head_effects import HeadEffects, flat
from analysis.heads.options import Subsampling
from analysis.heads.overlap import jaccard
from analysis.heads.rules import RULES, Means, signed_important
from analysis.stats.resampling import stream

FEWEST = 5  # samples of a subsample
SPREAD = 0.9  # share of the repeats between low and high
COORDINATES = ["rule", "corruption", "task", "samples"]


def stability(effects: HeadEffects, options: Subsampling) -> pd.DataFrame:
    """How subsamples of each task of a model agree with the rest of its samples.

    Returns
    -------
    One row for each rule, corruption, task and number of samples: rest (samples of the rest), rank_correlation (Spearman's, of the
    scores of all heads), jaccard (heads named in both over those in either, with the same sign where the rule has signs), each the mean
    of the repeats with _low and _high, between which 90 % of them lie; none_named, the share of repeats in which neither names a head,
    which have no jaccard. A task of one sample cannot be taken apart and has no row.

    >>> from pathlib import Path
    >>> from analysis.heads.head_effects import read_head_effects
    >>> options = Subsampling(repeats=10)
    >>> rows = stability(read_head_effects(Path("results"), options)["blip-small"], options)
    >>> rows[(rows["corruption"] == "sip") & (rows["task"] == "shapes/colour")][["rule", "samples", "rest", "jaccard"]]
         rule  samples  rest  jaccard
    0  notice        5     7      1.0
    1  robust        5     7      1.0
    2  notice        6     6      1.0
    3  robust        6     6      1.0
    """
    rows = []
    for (corruption, task), values in effects.complete().effects.items():
        for samples in sizes(values.sizes["sample"]):
            generator = stream(options.seed, "stability", corruption, task, str(samples))
            for rule, correlation, shared in _subsample_and_rest(values, samples, options, generator):
                row = {"model": effects.model, "rule": rule, "corruption": corruption, "task": task, "samples": samples}
                row |= {"rest": values.sizes["sample"] - samples}
                row |= _spread("rank_correlation", correlation) | _spread("jaccard", shared)
                rows.append(row | {"none_named": float(np.isnan(shared).mean())})
    return pd.DataFrame(rows)


def sizes(samples: int) -> list[int]:
    """Sizes of subsamples: 5, 10, 20, ... and half of the samples.

    >>> sizes(100)
    [5, 10, 20, 40, 50]
    """
    half = samples // 2
    doubling = [FEWEST * 2**i for i in range(half.bit_length()) if FEWEST * 2**i < half]
    return [*doubling, half] if half else []


def _subsample_and_rest(
    values: xr.DataArray, samples: int, options: Subsampling, generator: np.random.Generator
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each rule with the rank correlation and the jaccard of a subsample and the rest [repeat]."""
    x = flat(values)
    drawn = generator.permuted(np.tile(np.arange(len(x)) < samples, (options.repeats, 1)), axis=1)
    shape = (options.repeats, values.sizes["layer"], values.sizes["head"])
    parts = [_means(x, part, shape) for part in (drawn, ~drawn)]
    for rule in RULES:
        scores = [rule.score(means).reshape(options.repeats, -1) for means in parts]
        named = [signed_important(rule.evidence(means, options.deviations, options.alpha), options.alpha) for means in parts]
        yield rule.name, _rank_correlation(*scores), jaccard(*(heads.reshape(options.repeats, -1) for heads in named))


def _means(x: np.ndarray, part: np.ndarray, shape: tuple[int, ...]) -> Means:
    """Means [repeat, layer, head] of the samples [sample, head] that are in a part, bool [repeat, sample]."""
    weights = part / part.sum(axis=1, keepdims=True)
    effect, absolute, square = ((weights @ of_samples).reshape(shape) for of_samples in (x, np.abs(x), x**2))
    return Means(effect, absolute, square, int(part[0].sum()))


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's of [repeat, head] with [repeat, head]: [repeat]; NaN where all heads score the same."""
    a, b = (stats.rankdata(scores, axis=1) - (scores.shape[1] + 1) / 2 for scores in (one, other))
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.where(norm > 0, (a * b).sum(axis=1) / np.where(norm > 0, norm, 1), np.nan)


def _spread(name: str, of_repeats: np.ndarray) -> dict[str, float]:
    values = of_repeats[np.isfinite(of_repeats)]
    low, high = np.quantile(values, [(1 - SPREAD) / 2, (1 + SPREAD) / 2]) if len(values) else (np.nan, np.nan)
    return {name: float(values.mean()) if len(values) else np.nan, f"{name}_low": float(low), f"{name}_high": float(high)}


def by_coordinates(rows: pd.DataFrame) -> xr.Dataset:
    """The rows of one model as a dataset (rule, corruption, task, samples); NaN where there is none.

    >>> row = {"model": ["m"], "rule": ["robust"], "corruption": ["sip"], "task": ["d/a"], "samples": [5], "rest": [7]}
    >>> by_coordinates(pd.DataFrame(row))["rest"].item()
    7
    """
    return rows.drop(columns="model").set_index(COORDINATES).to_xarray()


def summary(rows: pd.DataFrame) -> str:
    """The means over tasks, a table a model: a row for each rule and number of samples.

    >>> from pathlib import Path
    >>> from analysis.heads.head_effects import read_head_effects
    >>> options = Subsampling(repeats=5)
    >>> summary(stability(read_head_effects(Path("results"), options)["blip-small"], options)).splitlines()[0]
    'blip-small, means over tasks'
    """
    lines = []
    for model, of_model in rows.groupby("model"):
        table = of_model.groupby(["rule", "corruption", "samples"])[["rank_correlation", "jaccard", "none_named"]].mean()
        lines += [f"{model}, means over tasks", table.to_string(float_format="%.2f"), ""]
    return "\n".join(lines)
