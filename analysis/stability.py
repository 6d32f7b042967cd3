"""How heads and their order hold up with fewer samples: effects of heads -> `stability.{nc,csv}`.

A subsample of n samples of a task is set beside the rest, many times, for growing n: by the rank correlation of the heads' scores, and by
the heads that both name over those that either names. Scores are mean |effect| for NOTICE's rule, mean effects for the robust rule.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from analysis.heads.measured import Measure, Measured, check_finite, check_not_negative, check_shares, flat, measured
from analysis.heads.overlap import jaccard
from analysis.heads.robust_rule import complete
from analysis.stats.resampling import stream, student_p
from analysis.store.command import reporting
from analysis.store.folder import ResultsError, write_tree, write_whole
from analysis.universal_heads import important_heads

FILE = "stability"
RULES = ("notice", "robust")
FEWEST = 5  # samples of a subsample
SPREAD = 0.9  # share of the repeats between low and high
PLACE = ["rule", "corruption", "task", "samples"]


@dataclass(frozen=True)
class Subsampling(Measure):
    """What is judged, by which thresholds, and how often."""

    deviations: float = 2.0
    """Standard deviations above the mean of all heads, from which on a head stands out."""
    alpha: float = 0.05
    """Share of false discoveries that the robust rule allows."""
    repeats: int = 100
    """Subsamples of each size."""
    seed: int = 0
    """Seed of the subsamples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(self, "alpha")
        check_finite(self, "deviations")
        check_not_negative(self, "seed")
        if self.repeats < 1:
            raise ResultsError(f"repeats is {self.repeats}; at least one subsample of each size is needed")


class NothingToTakeApart(ResultsError):
    """Every task has one sample."""


def stability(effects: Measured, options: Subsampling) -> pd.DataFrame:
    """How subsamples of each task of a model agree with the rest of its samples.

    Returns
    -------
    One row for each rule, corruption, task and number of samples: rest (samples of the rest), rank_correlation (Spearman's, of the
    scores of all heads), jaccard (heads named in both over those in either, with the same sign where the rule has signs), each the mean
    of the repeats with _low and _high, between which 90 % of them lie; none_named, the share of repeats in which neither names a head,
    which have no jaccard. A task of one sample cannot be taken apart and has no row.

    >>> effects = measured(Path("results"), Measure())["blip-small"]
    >>> rows = stability(effects, Subsampling(repeats=10))
    >>> rows[(rows["corruption"] == "sip") & (rows["task"] == "shapes/colour")][["rule", "samples", "rest", "jaccard"]]
         rule  samples  rest  jaccard
    0  notice        5     7      1.0
    1  robust        5     7      1.0
    2  notice        6     6      1.0
    3  robust        6     6      1.0
    """
    rows = []
    for (corruption, task), values in complete(effects).effects.items():
        for samples in sizes(values.sizes["sample"]):
            generator = stream(options.seed, "stability", corruption, task, str(samples))
            for rule, correlation, shared in _agreement(values, samples, options, generator):
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


def _agreement(
    values: xr.DataArray, samples: int, options: Subsampling, generator: np.random.Generator
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each rule with the rank correlation and the jaccard of a subsample and the rest [repeat]."""
    x = flat(values)
    drawn = generator.permuted(np.tile(np.arange(len(x)) < samples, (options.repeats, 1)), axis=1)
    shape = (options.repeats, values.sizes["layer"], values.sizes["head"])
    parts = [_scores(x, part / part.sum(axis=1, keepdims=True), int(part[0].sum()), shape, options) for part in (drawn, ~drawn)]
    for rule in RULES:
        (score, named), (other_score, other_named) = (part[rule] for part in parts)
        yield rule, _rank_correlation(score, other_score), jaccard(named, other_named)


def _scores(
    x: np.ndarray, weights: np.ndarray, samples: int, shape: tuple[int, ...], options: Subsampling
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By rule, the scores of heads and the heads that are named (by their sign, where the rule has signs), both [repeat, head]."""

    def stands_out(of_heads: np.ndarray) -> np.ndarray:
        return important_heads(xr.DataArray(of_heads.reshape(shape), dims=("repeat", "layer", "head")), options.deviations)[0].values

    mean, absolute = weights @ x, weights @ np.abs(x)
    q = stats.false_discovery_control(student_p(mean, weights @ x**2, samples), axis=-1)
    robust = (q <= options.alpha) & stands_out(np.abs(mean)).reshape(mean.shape)
    return {"notice": (absolute, stands_out(absolute).reshape(mean.shape)), "robust": (mean, np.sign(mean) * robust)}


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's of [repeat, head] with [repeat, head]: [repeat]; NaN where all heads score the same."""
    a, b = (stats.rankdata(scores, axis=1) - (scores.shape[1] + 1) / 2 for scores in (one, other))
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.where(norm > 0, (a * b).sum(axis=1) / np.where(norm > 0, norm, 1), np.nan)


def _spread(name: str, of_repeats: np.ndarray) -> dict[str, float]:
    there = of_repeats[np.isfinite(of_repeats)]
    low, high = np.quantile(there, [(1 - SPREAD) / 2, (1 + SPREAD) / 2]) if len(there) else (np.nan, np.nan)
    return {name: float(there.mean()) if len(there) else np.nan, f"{name}_low": float(low), f"{name}_high": float(high)}


def find_and_write(results: Path, options: Subsampling | None = None) -> pd.DataFrame:
    """`stability` of every model in a results folder, written into it as `stability.nc` (one group a model) and `stability.csv`.

    Raises
    ------
    ResultsError
        As `universal_heads.find`.
    NothingToTakeApart
        When every task has one sample.

    >>> rows = find_and_write(Path("results"), Subsampling(repeats=5))
    >>> rows["task"].unique().tolist(), sorted(path.name for path in Path("results").glob("stability*"))
    (['shapes/colour', 'shapes/shape'], ['stability.csv', 'stability.nc'])
    """
    options = options or Subsampling()
    by_model = {model: stability(effects, options) for model, effects in measured(results, options).items()}
    rows = pd.concat(by_model.values(), ignore_index=True)
    if rows.empty:
        raise NothingToTakeApart(
            f"every task below {Path(results).absolute()} has one sample, which cannot be taken apart; run more with --samples"
        )
    groups = {model: of_model.drop(columns="model").set_index(PLACE).to_xarray() for model, of_model in by_model.items() if len(of_model)}
    settings = {name: getattr(options, name) for name in ("metric", "deviations", "alpha", "repeats", "seed")}
    write_tree({model: group.assign_attrs(settings) for model, group in groups.items()}, Path(results) / f"{FILE}.nc")
    write_whole(Path(results) / f"{FILE}.csv", lambda temporary: rows.to_csv(temporary, index=False, float_format="%.6g"))
    return rows


def summary(rows: pd.DataFrame) -> str:
    """The means over tasks, a table a model: a row for each rule and number of samples.

    >>> rows = find_and_write(Path("results"), Subsampling(repeats=5))
    >>> summary(rows).splitlines()[0]
    'blip-small, means over tasks'
    """
    lines = []
    for model, of_model in rows.groupby("model"):
        table = of_model.groupby(["rule", "corruption", "samples"])[["rank_correlation", "jaccard", "none_named"]].mean()
        lines += [f"{model}, means over tasks", table.to_string(float_format="%.2f"), ""]
    return "\n".join(lines)


@dataclass(frozen=True)
class Stability(Subsampling):
    """Set subsamples of a study beside the rest of it: do the same heads come out, in the same order?

    python analysis/stability.py --results results
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""


def main() -> None:
    """Command line."""
    import tyro

    with reporting("stability"):
        options = tyro.cli(Stability)
        print(summary(find_and_write(options.results, options)))
        print(f"wrote {options.results / FILE}.nc and .csv")


if __name__ == "__main__":
    main()
