"""Module maps: effects of whole modules -> layer x token role; a panel a component, or text beside image corruption and both orders."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from analysis.plots.style import diverging_map, heading, mark_negative
from interventions.models import sites
from interventions.results import metrics

ORDER_NAMES = {"correct_first": "correct option first", "correct_second": "correct option second"}


def draw(components: dict[str, xr.Dataset], metric: str = "logit_difference") -> Figure:
    """The mean effect over samples of each component, each on its own colour scale.

    Parameters
    ----------
    components : by component, effects (sample, layer, token) of the same model, data set and corruption.
    metric : a metric of the effects accessor.

    >>> from pathlib import Path
    >>> from analysis.store.folder import effects_files, read_effects
    >>> effects = read_effects(next(file for file in effects_files(Path("results")) if file.component == "mlp"))
    >>> draw({"mlp": effects}).axes[0].get_title()
    'MLP'
    """
    maps = {name: mean_by_role(effects, metric) for name, effects in components.items()}
    any_effects = next(iter(components.values()))
    layers, roles = max(m.sizes["layer"] for m in maps.values()), max(m.sizes["role"] for m in maps.values())
    columns = len(maps) if len(maps) % 2 and layers > 12 else 2 - len(maps) % 2
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(columns * (0.33 * roles + 1.5), rows * (_height(layers) + 1.0) + 0.5))
    panels = figure.subplots(rows, columns, squeeze=False)
    negative = False
    for axes, (name, values) in zip(panels.flat, maps.items(), strict=False):
        image = diverging_map(axes, values.values)
        negative |= mark_negative(axes, values.values)
        _label_roles(axes, values["role"].values)
        axes.set_title(sites.label_of(name))
        figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
    for axes in list(panels.flat)[len(maps) :]:
        axes.axis("off")
    attrs = any_effects.attrs
    title = heading(attrs["model"], attrs["dataset"], attrs["corruption"], attrs["modality"])
    note = "; −: below zero" if negative else ""
    figure.suptitle(f"{title}: restoring whole modules\nmean of {any_effects.sizes['sample']} samples, {metrics.label_of(metric)}{note}")
    return figure


def draw_side_by_side(maps: xr.Dataset) -> Figure:
    """One component's maps with a column for each corruption, image before text, and a row for each order of the options.

    Every column has its own colour scale, since corruptions differ in size; the box is the peak, with the share of resamples that have
    it there. Roles are in the order of their places in these prompts.

    Parameters
    ----------
    maps : (corruption, order, layer, role), as in `modules.nc`.

    >>> from pathlib import Path
    >>> from analysis.modules import Modules, find
    >>> maps = find(Path("results"), Modules(resamples=20))["blip-small/shapes/mlp"]
    >>> titles = [axes.get_title().split("\\n")[:2] for axes in draw_side_by_side(maps).axes[:2]]
    >>> titles
    [['sip (image)', 'correct option first'], ['str (text)', 'correct option first']]
    """
    corruptions = [str(name) for name in maps["corruption"].values]
    orders = [order for order in ORDER_NAMES if (maps["samples"].sel(order=order) > 0).any()] or ["all"]
    layers, roles = maps.sizes["layer"], maps.sizes["role"]
    size = (max(0.25 * roles + 1.3, 2.6) * len(corruptions), len(orders) * (_height(layers) + 1.25) + 0.9)
    figure = Figure(figsize=size)
    panels = figure.subplots(len(orders), len(corruptions), squeeze=False)
    for column, corruption in zip(panels.T, corruptions, strict=True):
        of_corruption = maps.sel(corruption=corruption)
        limit = float(np.nanmax(np.abs(of_corruption["mean_effect"].sel(order=orders).values), initial=0.0)) or 1.0
        for axes, order in zip(column, orders, strict=True):
            image = _draw_order(axes, of_corruption.sel(order=order), limit)
        modality = str(of_corruption["modality"].item())
        column[0].set_title(f"{corruption}{f' ({modality})' if modality else ''}\n{column[0].get_title()}")
        figure.colorbar(image, ax=list(column), shrink=0.9, pad=0.02)
    for axes in panels[:, 1:].flat:
        axes.set_ylabel("")
    of = maps.attrs
    unit = metrics.label_of(of["metric"], of["direction"])
    more = [of["direction"] if of["direction"] != "denoising" else "", f"window of {of['window']} layers" if of["window"] > 1 else ""]
    title = ", ".join([of["model"], of["dataset"], f"whole {sites.label_of(of['component'])}", *filter(None, more)])
    figure.suptitle(f"{title}\n{unit}\nbox: peak, and the resamples that have it there; −: below zero")
    return figure


def _draw_order(axes: Axes, maps: xr.Dataset, limit: float) -> AxesImage:
    place = maps["place"].values
    there = [int(number) for number in np.argsort(place, kind="stable") if np.isfinite(place[number])]
    maps = maps.isel(role=there)
    image = diverging_map(axes, maps["mean_effect"].values, limit)
    mark_negative(axes, maps["mean_effect"].values, limit)
    _label_roles(axes, maps["role"].values)
    title = f"{ORDER_NAMES.get(str(maps['order'].item()), 'both orders')}\n{int(maps['samples'])} samples"
    if maps["peak_layer"] >= 0:
        layer = int(np.flatnonzero(maps["layer"].values == int(maps["peak_layer"]))[0])
        role = int(np.flatnonzero(maps["role"].values == maps["peak_role"].item())[0])
        axes.add_patch(Rectangle((role - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.2))
        title += f", peak here in {float(maps['peak_frequency']):.0%}"
    axes.set_title(title)
    return image


def _height(layers: int) -> float:
    return float(np.clip(0.19 * layers, 1.5, 4.5))


def _label_roles(axes: Axes, roles: np.ndarray) -> None:
    axes.set_xticks(range(len(roles)), [str(role) for role in roles], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("token role")


def place_of_roles(effects: xr.Dataset) -> dict[str, float]:
    """The mean number, over samples, of the tokens that have each role; roles in the order of their places.

    >>> from pathlib import Path
    >>> from analysis.store.folder import effects_files, read_effects
    >>> effects = read_effects(next(file for file in effects_files(Path("results")) if file.component == "mlp"))
    >>> list(place_of_roles(effects).items())[:3]
    [('[CLS]', 0.0), ('question', 1.0), ('noun', 2.0)]
    """
    names = effects["token_role"].values
    place = {str(role): float(np.nonzero(names == role)[1].mean()) for role in dict.fromkeys(names.ravel()) if role}
    return dict(sorted(place.items(), key=lambda of_role: of_role[1]))


def mean_by_role(effects: xr.Dataset, metric: str = "logit_difference") -> xr.DataArray:
    """The mean effect over samples (layer, role), roles in the order of their mean place in the prompts.

    >>> from pathlib import Path
    >>> from analysis.store.folder import effects_files, read_effects
    >>> effects = read_effects(next(file for file in effects_files(Path("results")) if file.component == "mlp"))
    >>> dict(mean_by_role(effects).sizes)
    {'layer': 4, 'role': 8}
    """
    values = effects.effects.by_role(metric).mean("sample")
    return values.transpose("layer", "role").sel(role=list(place_of_roles(effects)))
