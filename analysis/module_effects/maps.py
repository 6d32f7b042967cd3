"""One file of whole-module effects -> its maps (layer x token role), their peaks and the shares of early, middle and late layers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analysis.module_effects.options import MapRule
from analysis.plots.module_maps import place_of_roles
from analysis.stats.resampling import bootstrap_weights, paired, percentile_interval, stream, weighted_means
from analysis.stats.thirds import PAIRS, THIRDS, pairwise, shares_of_layers, size_by_third, thirds
from analysis.store.errors import ResultsError

ORDERS = ("all", "correct_first", "correct_second")
PEAK = ("peak_effect", "peak_low", "peak_high", "peak_frequency", "peak_layer_frequency")


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


def by_order(effects: xr.Dataset, metric: str) -> dict[str, xr.DataArray]:
    """Effects by role [sample, layer, role], of all samples and of those with either order of the options; no order without any.

    Roles are in the order of their mean place in the prompts; samples without an effect are left out.

    >>> from pathlib import Path
    >>> from analysis.store.folder import effects_files, read_effects
    >>> effects = read_effects(next(file for file in effects_files(Path("results")) if file.component == "mlp"))
    >>> {order: values.sizes["sample"] for order, values in by_order(effects, "logit_difference").items()}
    {'all': 24, 'correct_first': 12, 'correct_second': 12}
    """
    values = effects.effects.by_role(metric).transpose("sample", "layer", "role").sel(role=list(place_of_roles(effects)))
    values = values.drop_vars([str(name) for name in values.coords if name not in (*values.dims, "correct_first")])
    values = values.dropna("sample", how="all")
    parts = {order: values.isel(sample=chosen).drop_vars("correct_first") for order, chosen in _orders(values).items()}
    return {order: part for order, part in parts.items() if part.sizes["sample"]}


def _orders(of_samples: xr.Dataset | xr.DataArray) -> dict[str, Any]:
    first = of_samples["correct_first"].values.astype(bool)
    return dict(zip(ORDERS, (slice(None), first, ~first), strict=True))


def describe(effects: xr.Dataset, rule: MapRule | None = None) -> xr.Dataset:
    """The maps of one file of whole modules, and their statistics.

    Returns
    -------
    (order, layer, role): mean_effect, low, high (percentile bootstrap over samples); NaN where no sample has the role
    (order, role): place, the mean number of the role's tokens in the prompts
    (order): samples; peak_layer (-1 where there is none), peak_role, peak_effect, peak_low, peak_high, peak_frequency,
    peak_layer_frequency (see `module_statistics.Peak`)
    (order, third): share of the sum of mean |effect|, share_low, share_high (see `corruption_statistics.compare`)
    (third): even, the third's share of the layers
    (order, pair): difference between thirds of mean |effect| a layer, paired over samples; difference_low, difference_high, p (sign flips).
    Shares and differences are NaN with fewer than 3 layers or 2 samples.

    Raises
    ------
    ResultsError
        When no sample has an effect.

    >>> from pathlib import Path
    >>> from analysis.store.folder import effects_files, read_effects
    >>> effects = read_effects(next(file for file in effects_files(Path("results")) if file.component == "mlp"))
    >>> maps = describe(effects, MapRule(resamples=100))
    >>> dict(maps["mean_effect"].sizes), int(maps["peak_layer"].sel(order="all"))
    ({'order': 3, 'layer': 4, 'role': 8}, 3)
    >>> maps["share"].sel(order="all").values.round(2)  # early, middle, late
    array([0.11, 0.48, 0.41])
    """
    rule = rule or MapRule()
    parts = by_order(effects, rule.metric)
    if not parts:
        raise ResultsError("no sample has an effect")
    described = xr.concat([_describe(part, order, rule) for order, part in parts.items()], pd.Index(parts, name="order"))
    described = described.reindex(order=list(ORDERS), fill_value={"samples": 0, "peak_layer": -1, "peak_role": ""})
    places, roles = [place_of_roles(effects.isel(sample=chosen)) for chosen in _orders(effects).values()], described["role"].values
    described["place"] = (
        ("order", "role"),
        [[of_order.get(str(role), np.nan) for role in roles] for of_order in places],
    )
    third = thirds(effects.sizes["layer"])
    described["even"] = ("third", [float((third == number).mean()) for number in range(len(THIRDS))])
    return described.assign_coords(third_of_layer=("layer", np.array(THIRDS)[third]))


def _describe(values: xr.DataArray, order: str, rule: MapRule) -> xr.Dataset:
    x, cells = values.values, ("layer", "role")
    samples, layers, roles = x.shape
    drawn = bootstrap_weights(samples, rule.resamples, stream(rule.seed, "modules", order))
    weights = np.concatenate([np.full((1, samples), 1 / samples), drawn])  # the samples as they are, then the resamples
    means = weighted_means(x.reshape(1, samples, -1), weights).reshape(-1, layers, roles)
    bounds, there = np.full((2, layers, roles), np.nan), np.isfinite(means).any(axis=0)
    bounds[:, there] = _interval(means[1:, there], rule.confidence)
    found: dict[str, Any] = {"mean_effect": (cells, means[0]), "low": (cells, bounds[0]), "high": (cells, bounds[1]), "samples": samples}
    at = peak(means, rule.confidence)
    found["peak_layer"], found["peak_role"] = (int(values["layer"][at.layer]), str(values["role"].values[at.role])) if at else (-1, "")
    found |= {name: getattr(at, name.removeprefix("peak_")) if at else np.nan for name in PEAK}
    judged = layers >= len(THIRDS) and samples > 1
    shares = np.full((len(weights), len(THIRDS)), np.nan)
    if judged:
        sizes = weighted_means(np.abs(x).reshape(1, samples, -1), weights)[0]
        of_layers = shares_of_layers(sizes, np.isfinite(x).any(axis=0).ravel(), layers)
        shares = of_layers @ np.eye(len(THIRDS))[thirds(layers)]
    low, high = _interval(shares[1:], rule.confidence) if np.isfinite(shares[0]).all() else np.full((2, len(THIRDS)), np.nan)
    found |= {name: ("third", of_thirds) for name, of_thirds in {"share": shares[0], "share_low": low, "share_high": high}.items()}
    differences = pairwise(size_by_third(x)) if judged else np.full((samples, len(PAIRS)), np.nan)
    tested = paired(differences, rule.resamples, rule.confidence, stream(rule.seed, "modules", order, "thirds"))
    names = {"mean": "difference", "low": "difference_low", "high": "difference_high", "p": "p"}
    found |= {names[name]: ("pair", of_pairs) for name, of_pairs in tested.items()}
    coords = {"layer": values["layer"].values, "role": values["role"].values.astype(object), "third": list(THIRDS)}
    return xr.Dataset(found, coords | {"pair": [f"{one} - {other}" for one, other in PAIRS]})


def _interval(resampled: np.ndarray, confidence: float) -> np.ndarray:
    """The percentile interval over those resamples that have a value: low and high."""
    return np.nanquantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
