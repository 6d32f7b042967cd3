"""What heads do beside the mean of all heads: head functions -> attention to objects and outliers, heads by function."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.functions.registry import NONE, OVERALL, UNDECIDABLE, labels, look, words
from analysis.plots.style import TWO_COLUMNS
from analysis.plots.tasks import name_of
from analysis.store.folder import head_name

MOST_NAMES, MOST_TASKS = 12, 20
LEAST = 0.01  # of a ratio: less is drawn as this
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def draw(functions: xr.Dataset, universal: xr.Dataset | None = None) -> Figure:
    """Left: attention to the object and to the outlier patches, in multiples of the mean head's, over all tasks; right: heads by function.

    Without masks of objects the left panel has the evenness of the attention on other patches instead.

    Parameters
    ----------
    functions : of one model, as in `head_functions.nc`; the right panel shows at most 20 tasks.
    universal : the model's universal heads, which are named in the left panel; without any, heads that have a function.
    """
    tasks = [str(task) for task in functions["task"].values][: MOST_TASKS + 1]
    figure = Figure(figsize=(TWO_COLUMNS, max(2.6, 0.2 * len(tasks) + 1.2)))
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    there = [name for name in labels(functions["function"].values.ravel()) if (functions["function"] == name).any()]
    _scatter(left, functions.sel(task=OVERALL), there, universal)
    start = np.zeros(len(tasks))
    for name in there:
        count = (functions["function"].sel(task=tasks) == name).sum(("layer", "head")).values
        bar = look(name)
        right.barh(range(len(tasks)), count, left=start, color=bar["color"], hatch=bar["hatch"], edgecolor="white", linewidth=0.3)
        start += count
    named = [task for task in tasks if task != OVERALL]
    right.set_yticks(range(len(tasks)), [task if task == OVERALL else name_of(task, named) for task in tasks])
    right.invert_yaxis()
    right.set_xlabel("heads")
    right.spines[["top", "right"]].set_visible(False)
    handles, texts = left.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=len(handles))
    of = functions.attrs
    component, query = str(of.get("component", "")).replace("_", "-"), of.get("query", "")
    figure.suptitle(f"{of['model']}: what {component} heads look at from '{query}', against the mean of all heads")
    return figure


def _scatter(axes: Axes, overall: xr.Dataset, there: list[str], universal: xr.Dataset | None) -> None:
    x, masks = np.maximum(overall["outlier_ratio"].values, LEAST), bool(np.isfinite(overall["object_ratio"].values).any())
    y = np.maximum(overall["object_ratio" if masks else "evenness"].values, LEAST)
    for name in there:
        of = overall["function"].values == name
        mark, size = look(name), 8 if name in (NONE, UNDECIDABLE) else 14
        axes.scatter(x[of], y[of], s=size, color=mark["color"], marker=mark["marker"], linewidths=0.6, label=words(name))
    named = sorted((at for at in _named(overall, universal) if np.isfinite([x[at], y[at]]).all()), key=lambda at: y[at])
    for number, at in enumerate(named):
        side = 1 if number % 2 else -1
        across, up = ("left", "top") if side > 0 else ("right", "bottom")
        axes.annotate(
            head_name(*at), (x[at], y[at]), xytext=(3 * side, -2 * side), textcoords="offset points", fontsize=6, ha=across, va=up
        )
    axes.axvline(1, color="0.6", linewidth=0.6, zorder=0)
    _logarithmic(axes, "x", x)
    if masks:
        axes.axhline(1, color="0.6", linewidth=0.6, zorder=0)
        _logarithmic(axes, "y", y)
    axes.set_xlabel("attention to outlier patches / mean head's")
    axes.set_ylabel("attention to the object / mean head's" if masks else "evenness on the other patches")


def _logarithmic(axes: Axes, which: str, values: np.ndarray) -> None:
    """A logarithmic axis with few plain numbers, which has room around the values and 1."""
    low, high = np.nanmin([*values.ravel(), 1]) / 1.5, np.nanmax([*values.ravel(), 1]) * 1.5
    axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    marks = [mark for mark in TICKS if low <= mark <= high]
    axis.set_ticks(marks, [f"{mark:g}" for mark in marks])
    axis.set_ticks([], minor=True)


def _named(overall: xr.Dataset, universal: xr.Dataset | None) -> list[tuple[int, int]]:
    """(layer, head) of those that are named: universal heads, else those that have a function, the furthest from the mean head first."""
    kinds = universal["kind"].values if universal is not None and universal["kind"].shape == overall["function"].shape else np.array("none")
    chosen = kinds != "none"
    if not chosen.any():
        chosen = ~np.isin(overall["function"].values.astype(str), (NONE, UNDECIDABLE))
    far = np.abs(np.log(np.maximum(np.nan_to_num(overall["outlier_ratio"].values, nan=1.0), 0.01)))
    heads = [(int(layer), int(head)) for layer, head in np.argwhere(chosen)]
    return sorted(heads, key=lambda at: -far[at])[:MOST_NAMES]
