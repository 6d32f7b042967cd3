"""Corruptions side by side: what `compare_corruptions.find` gives -> maps on one colour scale, and shares by layer."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.plots.style import LINES, ONE_COLUMN, TWO_COLUMNS, diverging_map, mark_negative, ticks
from interventions.results.metrics import label_of

MOST_COLUMNS = 4


def draw_maps(compared: xr.Dataset) -> Figure:
    """The mean effect of every head or of every layer and role, a panel a corruption, all on the same colour scale."""
    names = [str(name) for name in compared["corruption"].values]
    maps = compared["mean_effect"]
    limit = float(np.nanmax(np.abs(maps.values))) or 1.0
    across = str(maps.dims[2])
    layers = maps.sizes["layer"]
    columns = min(len(names), MOST_COLUMNS)
    rows = -(-len(names) // columns)
    height = np.clip(0.15 * layers, 1.1, 2.6)
    labels = 0.4 if across == "head" else 0.75
    figure = Figure(figsize=(TWO_COLUMNS, rows * (height + labels + 0.3) + 0.6))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    negative = False
    for axes, name in zip(panels.flat, names, strict=False):
        values = maps.sel(corruption=name).values
        image = diverging_map(axes, values, limit)
        negative |= mark_negative(axes, values, limit)
        _label_columns(axes, maps[across])
        one = compared.sel(corruption=name)
        modality = f" ({one['modality'].item()})" if one["modality"].item() else ""
        for before in _cuts(compared):
            axes.axhline(before + 0.5, color="0.5", linewidth=0.8, linestyle=":")
        axes.set_title(f"{name}{modality}\n{int(one['samples'])} samples")
    for axes in panels[:, 1:].flat:
        axes.set_ylabel("")
    for axes in list(panels.flat)[len(names) :]:
        axes.axis("off")
    figure.colorbar(image, ax=panels, pad=0.02, label=label_of(compared.attrs["metric"], compared.attrs["direction"]))
    marked = "; −: below zero" if negative else ""
    figure.suptitle(f"{_heading(compared)}\nmean effect on one colour scale{marked}; dotted: thirds of the layers")
    return figure


def _cuts(compared: xr.Dataset) -> np.ndarray:
    """Positions of the last layers of the early and of the middle third."""
    third = compared["third_of_layer"].values
    return np.flatnonzero(third[1:] != third[:-1])


def _label_columns(axes: Axes, columns: xr.DataArray) -> None:
    if columns.name == "head":
        axes.set_xticks(ticks(columns.size, 8))
        axes.set_xlabel("head")
    else:
        axes.set_xticks(range(columns.size), [str(role) for role in columns.values], rotation=45, ha="right", rotation_mode="anchor")
        axes.set_xlabel("token role")


def draw_layers(compared: xr.Dataset) -> Figure:
    """The share of the mean |effect| that each layer has, a line a corruption, with intervals; the thirds' shares in the legend."""
    names = [str(name) for name in compared["corruption"].values]
    layer = compared["layer"].values
    figure = Figure(figsize=(ONE_COLUMN, 2.5 + 0.14 * len(names)))
    axes = figure.subplots()
    offsets = (np.arange(len(names)) - (len(names) - 1) / 2) * 0.08
    for position, (name, offset) in enumerate(zip(names, offsets, strict=True)):
        one = compared.sel(corruption=name)
        share = one["layer_share"].values
        beyond = np.maximum([share - one["layer_share_low"].values, one["layer_share_high"].values - share], 0)
        thirds = " | ".join(f"{100 * value:.0f}" for value in one["share"].values)
        late = one.sel(third="late")
        interval = (
            f"last {100 * float(late['share_low']):.0f}–{100 * float(late['share_high']):.0f}" if late["share"].notnull() else "no effect"
        )
        look = LINES[position % len(LINES)]
        axes.errorbar(layer + offset, share, beyond, label=f"{name}: {thirds} % ({interval})", elinewidth=0.8, **look)
    third = compared["third_of_layer"].values
    for before in _cuts(compared):
        axes.axvline(layer[before] + 0.5, color="0.5", linewidth=0.8)
    for title in compared["third"].values:
        axes.text(layer[third == title].mean(), 1.01, str(title), transform=axes.get_xaxis_transform(), ha="center", va="bottom")
    axes.axhline(1 / len(layer), color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlim(layer[0] - 0.5, layer[-1] + 0.5)
    top = 1.08 * float(np.nan_to_num(compared["layer_share_high"].values).max()) or 1.0
    axes.set_ylim(-0.03 * top, top)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("layer")
    axes.set_ylabel("share of the mean |effect|")
    figure.legend(
        loc="outside lower center", ncols=1, title=f"early | middle | late third ({compared.attrs['confidence']:.0%} interval); grey: even"
    )
    figure.suptitle(f"{_heading(compared)}\nwhere the effect is")
    return figure


def _heading(compared: xr.Dataset) -> str:
    of = compared.attrs
    what = (
        f"{of['component'].replace('_', '-')} heads at '{of['token']}'"
        if of["heads"]
        else f"whole {of['component'].replace('_', '-').replace('mlp', 'MLP')}"
    )
    more = [of["direction"] if of["direction"] != "denoising" else "", f"window of {of['window']} layers" if of["window"] > 1 else ""]
    return ", ".join([of["model"], of["dataset"], what, *(part for part in more if part)])
