"""The same effects under every corruption: results folder -> `compare_corruptions.{nc,csv}`, `compare_corruptions_ranks.csv` and figures.

Which thirds of the network hold the effect, whether corruptions rank heads alike, and whether NOTICE's claim (its Figure 4) holds here:
that noise's effect is confined to the last layers, and SIP's and STR's is not. Only files of the same model, data set, component,
direction, window and definition are compared.
"""

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from analysis import corruption_views as views
from analysis.command import reporting
from analysis.drawing import MODALITY, save, styled
from analysis.figures import FOLDER
from analysis.measured import METRICS
from analysis.module_maps import mean_by_role
from analysis.resampling import bootstrap_weights, stream
from analysis.results import EffectsFile, ResultsError, effects_files, read_effects, write_tree, write_whole

FILE = "compare_corruptions"
THIRDS = ("early", "middle", "late")
ONE = 1 - 1e-12  # the largest rank correlation whose arctanh is finite
SCORES = ("mean_absolute_effect", "mean_effect")
NOISE = "gaussian_noise"  # how the names of corruptions by noise begin
SEMANTIC = ("sip", "str")  # those that the claim sets noise beside
TEST = (
    "holds: the last third's share has an interval wholly above {0:g} under noise, and not so under sip or str, and the interval of "
    "noise's share less theirs lies wholly above 0; does not hold: noise's lies wholly below {0:g}, sip's or str's wholly above it, or "
    "that of the difference wholly below 0; else undecided"
)


@dataclass(frozen=True)
class Comparing:
    """What is compared, and how."""

    model: str | None = None
    """Compare the corruptions of this model only."""
    dataset: str | None = None
    """Compare the corruptions of this data set only."""
    component: str | None = None
    """Compare this component only: cross_attention, self_attention, mlp or block."""
    metric: str = "logit_difference"
    """Effect to compare: logit_difference, restoration_probability, log_odds or normalized_effect."""
    token: str | None = None
    """Token role at which heads are compared; without it the main one, or the first that all corruptions have where that is missing."""
    confined: float = 0.5
    """Share of the effect in the last third of the layers from which on it counts as confined to them."""
    resamples: int = 1000
    """Bootstrap resamples of the samples."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = 0
    """Seed of the resamples."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ResultsError(f"there is no metric {self.metric!r}; choose one of {', '.join(METRICS)}")
        if self.resamples < 1:
            raise ResultsError(f"resamples is {self.resamples}; at least one is needed")
        for name in ("confined", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ResultsError(f"{name} is {getattr(self, name)}; it is a share between 0 and 1")


class NothingToCompare(ResultsError):
    """No component of any model was patched under two corruptions that can be compared."""


@dataclass(frozen=True, order=True)
class Like:
    """What files must have in common to be compared.

    >>> like = Like("blip", "shapes", "mlp", False, "denoising", 3, "ours")
    >>> like.place
    'blip/shapes/mlp-window3'
    >>> like.command("str", Path("results"))
    'python -m interventions.module_patching --model blip --data shapes --corruption str --components mlp --out results --window 3'
    """

    model: str
    dataset: str
    component: str
    heads: bool
    direction: str
    window: int
    definition: str

    @property
    def name(self) -> str:
        """As the files are called, and more where it is not the usual."""
        parts = [self.component, "heads" if self.heads else "", "noising" if self.direction == "noising" else ""]
        parts += [f"window{self.window}" if self.window > 1 else "", self.definition if self.definition != "ours" else ""]
        return "-".join(part for part in parts if part)

    @property
    def place(self) -> str:
        return f"{self.model}/{self.dataset}/{self.name}"

    def command(self, corruption: str, results: Path) -> str:
        """What makes the file of another corruption."""
        data = self.dataset if self.dataset == "shapes" else f"data/{self.dataset}"
        words = f"python -m interventions.{'head' if self.heads else 'module'}_patching --model {self.model} --data {data}"
        words += f" --corruption {corruption} {'--component' if self.heads else '--components'} {self.component} --out {results}"
        words += " --direction noising" if self.direction == "noising" else ""
        words += f" --window {self.window}" if self.window > 1 else ""
        return words + (f" --definition {self.definition}" if self.definition != "ours" else "")


def thirds(layers: int) -> np.ndarray:
    """The third (0, 1, 2) in which the middle of each layer lies: floor(3 (layer + 1/2) / layers).

    The early and the late third always have as many layers as each other; where 3 does not divide their number, the middle one has one
    more or one fewer (4 is 1, 2, 1; 32 is 11, 10, 11).

    >>> thirds(4), thirds(6)
    (array([0, 1, 1, 2]), array([0, 0, 1, 1, 2, 2]))
    """
    return (3 * (2 * np.arange(layers) + 1)) // (2 * layers)


def compare(effects: xr.DataArray, options: Comparing) -> xr.Dataset:
    """Maps, shares of thirds, their differences and rank correlations, with percentile intervals of a bootstrap over samples.

    A resample is of samples, the same ones under every corruption, so that differences are paired. Shares and rank correlations are of the
    cells that have an effect under every corruption; a resample in which one of them has none is left out of the intervals.

    Few samples rank heads by chance in part: that draws a rank correlation towards 0, and no interval makes up for it. What it could be is
    shown by the rank correlation of a corruption with itself, between random halves of its samples.

    Parameters
    ----------
    effects : [corruption, sample, layer, head or role], in the metric's unit; NaN where there is none

    Returns
    -------
    mean_effect, mean_absolute_effect (of |effect|) [corruption, layer, head or role], NaN where there is none; samples [corruption];
    cells, cells_left_out; and, each with _low and _high: share [corruption, third] and layer_share [corruption, layer] of the sum of mean
    |effect| over all cells, share_difference [corruption, other, third], rank_correlation [score, corruption, other] (Spearman's),
    halves_correlation [score, corruption] (the mean over random halves).

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
    coords = {str(dim): effects[dim].values for dim in of_cells.dims} | {"other": effects["corruption"].values, "score": list(SCORES)}
    coords |= {"third": list(THIRDS), "third_of_layer": ("layer", np.array(THIRDS)[thirds(layers)])}
    return xr.Dataset(variables, coords)


def shares_of_layers(sizes: np.ndarray, there: np.ndarray, layers: int) -> np.ndarray:
    """The share of the sum over cells that each layer has: [..., cell] -> [..., layer]; NaN where the sum is 0.

    Parameters
    ----------
    sizes : [..., cell], of layer after layer
    there : bool [cell], those that count

    >>> sizes = np.array([[[3.0, 0.0, 0.5, 0.5]]])  # two layers of two cells
    >>> shares_of_layers(sizes, there=np.array([True, True, True, True]), layers=2)
    array([[[0.75, 0.25]]])
    """
    of_layer = sizes[..., there] @ np.eye(layers)[np.repeat(np.arange(layers), sizes.shape[-1] // layers)[there]]
    total = of_layer.sum(axis=-1, keepdims=True)
    return np.where(total > 0, of_layer / np.where(total > 0, total, 1), np.nan)


def weighted_means(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means over the samples that have a value: [corruption, sample, cell] -> [corruption, resample, cell].

    >>> weighted_means(np.array([[[1.0], [3.0], [np.nan]]]), np.full((1, 3), 1 / 3))
    array([[[2.]]])
    """
    weight = weights @ np.isfinite(x)
    return np.where(weight > 0, (weights @ np.nan_to_num(x)) / np.where(weight > 0, weight, 1), np.nan)


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
    """The first of the resamples, which are the last axis, and the percentile interval of the others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")
        low, high = np.nanquantile(values[..., 1:], [(1 - options.confidence) / 2, (1 + options.confidence) / 2], axis=-1)
    return {name: (dims, values[..., 0]), f"{name}_low": (dims, low), f"{name}_high": (dims, high)}


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


def find(results: Path, options: Comparing | None = None) -> tuple[dict[str, xr.Dataset], list[str]]:
    """Compare the corruptions of all that is alike in a results folder.

    Returns
    -------
    By <model>/<dataset>/<component>, what `compare` gives, with claim [corruption] (see `claim`; "" where it is not of that corruption) and
    the settings as attributes; and in words what could not be compared and why.

    Raises
    ------
    ResultsError
        When there is nothing to compare; says what there is, and what makes more.

    >>> found, left_out = find(Path("results"), Comparing(component="mlp", resamples=20))
    >>> list(found), left_out
    (['blip-small/shapes/mlp'], [])
    >>> found["blip-small/shapes/mlp"]["third_of_layer"].values
    array(['early', 'middle', 'middle', 'late'], dtype='<U6')
    """
    options, results = options or Comparing(), Path(results)
    found, left_out = {}, []
    for files in _places(results, options):
        for like, of_like in _alike(files).items():
            kept, reasons = _effects(of_like, like, results, options)
            left_out += [f"{like.place}: {reason}" for reason in reasons]
            if kept is None:
                continue
            found[like.place] = _described(compare(kept, options).assign_coords(modality=kept["modality"]), kept, like, options)
    if not found:
        raise NothingToCompare(f"nothing to compare below {results.absolute()}:\n  " + "\n  ".join(left_out))
    return found, left_out


def _described(compared: xr.Dataset, effects: xr.DataArray, like: Like, options: Comparing) -> xr.Dataset:
    """With the claim for each corruption by noise, and the settings."""
    names = [str(name) for name in compared["corruption"].values]
    noises, others = [name for name in names if name.startswith(NOISE)], [name for name in names if name in SEMANTIC]
    judged = [claim(compared, name, others, options.confined) if name in noises and others else "" for name in names]
    compared["claim"] = ("corruption", judged)
    for name in SCORES:
        compared[name].attrs["units"] = METRICS[options.metric]
    missing = "" if noises and others else f"no {' or '.join(SEMANTIC) if noises else NOISE}"
    compared.attrs = vars(like) | {name: getattr(options, name) for name in ("metric", "confined", "resamples", "confidence", "seed")}
    compared.attrs |= {"heads": int(like.heads), "token": str(effects["token"].item()) if like.heads else ""}
    return compared.assign_attrs(test=TEST.format(options.confined), against=", ".join(others), not_judged=missing)


def _places(results: Path, options: Comparing) -> Iterator[list[EffectsFile]]:
    """The files of each model, data set and component, of heads and of modules."""
    files = effects_files(results)
    if not files:
        raise ResultsError(f"no effects below {results.absolute()}: run `python run_all.py --corruptions sip str gaussian_noise` first")
    there = [(file, {"model": file.model, "dataset": file.dataset, "component": file.component.split("-window")[0]}) for file in files]
    for name in ("model", "dataset", "component"):
        wanted = getattr(options, name)
        if wanted is not None:
            others = ", ".join(sorted({place[name] for _, place in there}))
            there = [(file, place) for file, place in there if place[name] == wanted]
            if not there:
                raise ResultsError(f"no effects of {name} {wanted!r} below {results.absolute()}; there are {others}")
    for place in sorted({(file.model, file.dataset, file.component, file.heads) for file, _ in there}):
        yield [file for file, _ in there if (file.model, file.dataset, file.component, file.heads) == place]


def _alike(files: list[EffectsFile]) -> dict[Like, dict[str, xr.Dataset]]:
    """The effects by what they have in common, and by corruption: image corruptions first, noise last."""
    alike: dict[Like, dict[str, xr.Dataset]] = {}
    for file in sorted(files, key=lambda file: (file.corruption.startswith(NOISE), not file.corruption.startswith("sip"), file)):
        effects = read_effects(file)
        of = {"direction": "denoising", "window": 1, "definition": "ours"} | effects.attrs
        like = Like(file.model, file.dataset, of["component"], file.heads, of["direction"], int(of["window"]), of["definition"])
        alike.setdefault(like, {})[file.corruption.removesuffix("-noising")] = effects
    return alike


def _effects(of_like: dict[str, xr.Dataset], like: Like, results: Path, options: Comparing) -> tuple[xr.DataArray | None, list[str]]:
    """The metric [corruption, sample, layer, head or role], or None where it cannot be compared; and what is left out, with reasons."""
    try:
        _check_origin(of_like)
        values, reasons = {}, []
        token = _token(of_like, options.token) if like.heads else None
        for corruption, effects in of_like.items():
            at = effects.sel(token=token).effects if like.heads else effects.effects
            of = (getattr(at, options.metric)() if like.heads else at.by_role(options.metric)).dropna("sample", how="all")
            if of.sizes["sample"] > 1:
                values[corruption] = of.drop_vars([str(name) for name in of.coords if name not in (*of.dims, "token")])
            else:
                reasons.append(f"{corruption} is left out: {of.sizes['sample']} sample(s) with an effect, and an interval needs two")
        if len(values) < 2:
            missing = next((name for name in (*SEMANTIC, NOISE) if name not in values), "...")
            only = f"only {next(iter(values))} to compare" if values else "nothing to compare"
            return None, [*reasons, f"{only}; make another corruption with `{like.command(missing, results)}`"]
        _check_layers(values)
    except ResultsError as error:
        return None, [str(error)]
    joined = xr.concat(values.values(), pd.Index(values, name="corruption"), join="outer", coords="minimal", compat="override")
    modality = [str(of_like[c].attrs.get("modality") or MODALITY.get(c, "")) for c in values]
    joined = joined.assign_coords(modality=("corruption", modality))
    if not like.heads:
        joined = joined.sel(
            role=list(dict.fromkeys(role for c in values for role in mean_by_role(of_like[c], options.metric)["role"].values))
        )
    return joined, reasons


def _check_origin(of_like: dict[str, xr.Dataset]) -> None:
    for name, what in {"model_revision": "another model", "dataset_fingerprint": "other data"}.items():
        by = {corruption: str(effects.attrs[name]) for corruption, effects in of_like.items() if name in effects.attrs}
        if len(set(by.values())) > 1:
            said = ", ".join(f"{corruption} {value[:12]}" for corruption, value in by.items())
            raise ResultsError(f"corruptions were run with {what} under the same name ({name}: {said}); run the stale ones again")


def _token(of_like: dict[str, xr.Dataset], wanted: str | None) -> str:
    """The token role at which all corruptions' heads were patched."""
    by = {corruption: [str(token) for token in effects["token"].values] for corruption, effects in of_like.items()}
    shared = [token for token in next(iter(by.values())) if all(token in tokens for tokens in by.values())]
    main = str(next(iter(of_like.values())).attrs["main_token"])
    if (wanted is not None and wanted not in shared) or not shared:
        there = "; ".join(f"{corruption}: {', '.join(tokens)}" for corruption, tokens in by.items())
        which = f"not every corruption has heads at token {wanted!r}" if wanted else "no token at which heads were patched is shared"
        raise ResultsError(f"{which} ({there}); choose one with --token, or run head patching again with --tokens")
    return wanted or (main if main in shared else shared[0])


def _check_layers(values: dict[str, xr.DataArray]) -> None:
    sizes = {corruption: (of.sizes["layer"], of.sizes.get("head")) for corruption, of in values.items()}
    if len(set(sizes.values())) > 1:
        raise ResultsError(f"different numbers of (layers, heads): {sizes}; delete the stale ones")
    layers = next(iter(sizes.values()))[0]
    if layers < len(THIRDS):
        raise ResultsError(f"it has {layers} layers, which cannot be cut into thirds")


def find_and_write(results: Path, options: Comparing | None = None) -> tuple[dict[str, xr.Dataset], str]:
    """`find`, then write tables and figures into the results folder.

    `compare_corruptions.nc` has a group <model>/<dataset>/<component> for each comparison, the CSV files the rows of `share_table` and
    `rank_table`, `figures/<model>/<dataset>/` two figures a comparison. A later run replaces the tables.

    Returns
    -------
    What `find` does, and all in words.

    >>> found, words = find_and_write(Path("results"), Comparing(component="mlp", resamples=20))
    >>> words.splitlines()[0]
    'blip-small/shapes/mlp, share of mean |effect| in layers 0 | 1-2 | 3:'
    >>> sorted(path.name for path in Path("results/figures/blip-small/shapes").glob("compare-*.png"))
    ['compare-mlp-by-layer.png', 'compare-mlp.png']
    """
    results = Path(results)
    found, left_out = find(results, options)
    shares, ranks = views.share_table(found), views.rank_table(found)
    write_tree(found, results / f"{FILE}.nc")
    for name, table in {f"{FILE}.csv": shares, f"{FILE}_ranks.csv": ranks}.items():
        write_whole(results / name, lambda temporary, table=table: table.to_csv(temporary, index=False, float_format="%.6g"))  # type: ignore[misc]
    with styled():
        for place, compared in found.items():
            folder, name = (results / FOLDER / place).parent, f"compare-{Path(place).name}"
            save(views.draw_maps(compared), folder / f"{name}.png")
            save(views.draw_layers(compared), folder / f"{name}-by-layer.png")
    return found, "\n".join([views.summary(found), *(f"left out: {reason}" for reason in left_out)])


@dataclass(frozen=True)
class CompareCorruptions(Comparing):
    """Set the effects under all corruptions of a model side by side: maps, thirds of the network, rank correlations.

    python -m analysis.compare_corruptions --results results --component cross_attention
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""


def main() -> None:
    """Command line."""
    import tyro

    with reporting("compare_corruptions"):
        options = tyro.cli(CompareCorruptions)
        _, words = find_and_write(options.results, options)
        print(words)
        print(f"wrote {options.results / FILE}.nc and .csv, {FILE}_ranks.csv and figures into {options.results / FOLDER}")


if __name__ == "__main__":
    main()
