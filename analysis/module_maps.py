"""Module maps: effects of whole modules -> layer x token role, one panel a component, for one corruption."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from analysis.drawing import UNITS, diverging_map, heading

NAMES = {
    "mlp": "MLP",
    "self_attention": "self-attention",
    "cross_attention": "cross-attention",
    "block": "block (residual stream after the layer)",
}


def draw(components: dict[str, xr.Dataset], metric: str = "logit_difference") -> Figure:
    """The mean effect over samples of each component, each on its own colour scale.

    Parameters
    ----------
    components : by component, effects (sample, layer, token) of the same model, data set and corruption.
    metric : a metric of the effects accessor.
    """
    maps = {name: mean_by_role(effects, metric) for name, effects in components.items()}
    any_effects = next(iter(components.values()))
    layers, roles = max(m.sizes["layer"] for m in maps.values()), max(m.sizes["role"] for m in maps.values())
    columns = len(maps) if len(maps) % 2 and layers > 12 else 2 - len(maps) % 2
    rows = -(-len(maps) // columns)
    height = float(np.clip(0.19 * layers, 1.5, 4.5)) + 1.0
    figure = Figure(figsize=(columns * (0.33 * roles + 1.5), rows * height + 0.5))
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, (name, values) in zip(panels.flat, maps.items(), strict=False):
        image = diverging_map(axes, values.values)
        axes.set_xticks(
            range(values.sizes["role"]), [str(role) for role in values["role"].values], rotation=45, ha="right", rotation_mode="anchor"
        )
        axes.set_xlabel("token role")
        axes.set_title(NAMES.get(name, name))
        figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
    for axes in list(panels.flat)[len(maps) :]:
        axes.axis("off")
    attrs = any_effects.attrs
    title = heading(attrs["model"], attrs["dataset"], attrs["corruption"], attrs.get("modality"))
    figure.suptitle(f"{title}: restoring whole modules\nmean of {any_effects.sizes['sample']} samples, {UNITS[metric]}")
    return figure


def mean_by_role(effects: xr.Dataset, metric: str = "logit_difference") -> xr.DataArray:
    """The mean effect over samples (layer, role), roles in the order of their mean place in the prompts."""
    values = effects.effects.by_role(metric).mean("sample")
    names = effects["token_role"].values
    place = {role: np.nonzero(names == role)[1].mean() for role in values["role"].values}
    return values.transpose("layer", "role").sel(role=sorted(place, key=lambda role: place[role]))
