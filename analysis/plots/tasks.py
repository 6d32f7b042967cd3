"""Heads by task: universal heads -> mean |effect| against the threshold; robust heads -> signed effects with their intervals."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from analysis.plots.style import LINES, SEQUENTIAL, TWO_COLUMNS, ticks
from analysis.store.folder import head_name
from interventions.results.metrics import label_of

MOST_TASKS, MOST_COLUMNS = 12, 4  # panels of a corruption, and of a row
MOST_HEADS = 12


def draw_thresholds(universal: xr.Dataset) -> Figure:
    """Mean |effect| of every head in every task, in multiples of the task's threshold, so that a head is important from 1 on.

    Parameters
    ----------
    universal : of one model, as `universal_heads.find` gives it; the first 12 tasks of each corruption are drawn.
    """
    by_corruption = {str(c): tasks[:MOST_TASKS] for c in universal["corruption"].values if (tasks := _ran(universal, str(c)))}
    tasks_of_all = [str(task) for task in universal["task"].values]
    columns = min(max(map(len, by_corruption.values())), MOST_COLUMNS)
    rows = [(c, tasks[i : i + columns]) for c, tasks in by_corruption.items() for i in range(0, len(tasks), columns)]
    layers, heads = universal.sizes["layer"], universal.sizes["head"]
    figure = Figure(figsize=(TWO_COLUMNS, len(rows) * (float(np.clip(0.14 * layers, 0.8, 1.5)) + 0.55) + 0.6))
    panels = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
    strength = universal["mean_absolute_effect"] / universal["threshold"].where(universal["threshold"] > 0)
    limit = max(1.2, float(np.nanmax(strength.values, initial=0.0)))
    for axes_of_row, (corruption, tasks) in zip(panels, rows, strict=True):
        for axes, task in zip(axes_of_row, tasks, strict=False):
            at = {"corruption": corruption, "task": task}
            values = strength.sel(at).transpose("layer", "head").values
            image = axes.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=limit, origin="lower", aspect="auto")
            _outline(axes, universal["important"].sel(at).values.astype(bool), layers > 16)
            axes.set_title(f"{corruption}, {name_of(task, tasks_of_all)}\nthreshold {float(universal['threshold'].sel(at)):.3g}")
            axes.set_xticks(ticks(heads, 8))
            axes.set_yticks(ticks(layers, 8))
        for axes in axes_of_row[len(tasks) :]:
            axes.axis("off")
        axes_of_row[0].set_ylabel("layer")
    for axes in panels[-1]:
        axes.set_xlabel("head")
    bar = figure.colorbar(image, ax=panels, pad=0.02, label="mean |effect| / threshold")
    bar.ax.axhline(1, color="white", linewidth=2.4)
    bar.ax.axhline(1, color="black", linewidth=1)
    of = universal.attrs
    left = max(len(_ran(universal, c)) - MOST_TASKS for c in by_corruption)
    unit = universal["threshold"].attrs.get("units", of["metric"].replace("_", " "))
    figure.suptitle(
        f"{of['model']}: {of['component'].replace('_', '-')} heads at '{of['token']}', thresholds in {unit}\n"
        f"outlined: important, at least mean + {of['deviations']:g} SD over heads{f'; {left} more tasks are not shown' if left > 0 else ''}"
    )
    return figure


def name_of(task: str, tasks: list[str]) -> str:
    """A task's name, without its data set where all are of one.

    >>> name_of("shapes/colour", ["shapes/colour", "shapes/shape"]), name_of("shapes/colour", ["shapes/colour", "faces/sad"])
    ('colour', 'shapes/colour')
    """
    return task.split("/", 1)[-1] if len({other.split("/", 1)[0] for other in tasks}) == 1 else task


def _ran(dataset: xr.Dataset, corruption: str) -> list[str]:
    """The tasks that ran under a corruption."""
    return [str(task) for task in dataset["task"].values if int(dataset["samples"].sel(corruption=corruption, task=task))]


def _outline(axes: Axes, important: np.ndarray, many: bool) -> None:
    width = 0.7 if many else 1.2
    for layer, head in np.argwhere(important):
        halo = [withStroke(linewidth=width + 1, foreground="black")]
        axes.add_patch(Rectangle((head - 0.45, layer - 0.45), 0.9, 0.9, fill=False, edgecolor="white", linewidth=width, path_effects=halo))


def draw_intervals(robust: xr.Dataset, most: int = MOST_HEADS) -> Figure:
    """Mean effect, with its sign and bootstrap interval, of the strongest heads in each task; a panel a corruption.

    Shown are the heads that are universal or important in a task by the robust rule, strongest first, then the strongest others.

    Parameters
    ----------
    robust : of one model, as `robust.judge` gives it.
    most : heads shown.
    """
    heads = strongest(robust, most)
    corruptions = [str(name) for name in robust["corruption"].values]
    figure = Figure(figsize=(TWO_COLUMNS, 0.22 * len(heads) + 1.4))
    panels = figure.subplots(1, len(corruptions), squeeze=False, sharey=True)[0]
    tasks = [str(task) for task in robust["task"].values]
    looks = [look for look in LINES if look["color"] != "black"]
    shown = tasks if len(tasks) <= len(looks) else []
    for axes, corruption in zip(panels, corruptions, strict=True):
        of = robust.sel(corruption=corruption)
        offsets = np.linspace(-0.3, 0.3, len(shown) + 1)
        for number, task in enumerate(shown):
            look = {"label": name_of(task, tasks)} | looks[number] | {"linestyle": "none", "markersize": 2.8}
            _points(axes, of.sel(task=task), heads, offsets[number], look)
        names_of = {"overall_effect": "mean_effect", "overall_low": "low", "overall_high": "high"}
        overall = xr.Dataset({name: of[whole] for whole, name in names_of.items() if whole in of})
        look = {"color": "black", "marker": "|", "markersize": 5, "linestyle": "none", "label": "mean of tasks"}
        _points(axes, overall, heads, offsets[-1], look)
        axes.axvline(0, color="0.5", linewidth=0.6, zorder=0)
        modality = str(robust["modality"].sel(corruption=corruption).item())
        axes.set_title(f"{corruption} ({modality})")
        axes.set_xlabel(label_of(robust.attrs["metric"]))
    kind = robust["kind"].values
    names = [head_name(*at) + (f" ({kind[at]})" if kind[at] != "none" else "") for at in heads]
    panels[0].set_yticks(range(len(heads)), names)
    panels[0].set_ylim(len(heads) - 0.5, -0.5)
    for axes in panels:
        for line in range(1, len(heads)):
            axes.axhline(line - 0.5, color="0.9", linewidth=0.5, zorder=0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(handles), 5))
    of_model = robust.attrs
    interval = f" with {of_model['confidence']:.0%} bootstrap intervals" if "low" in robust else ""
    component = of_model["component"].replace("_", "-")
    figure.suptitle(f"{of_model['model']}: mean effect of {component} heads at '{of_model['token']}'{interval}")
    return figure


def _points(axes: Axes, of: xr.Dataset, heads: list[tuple[int, int]], offset: float, look: dict) -> None:
    """Means and, where there are any, intervals of heads, a row each."""
    mean = np.array([of["mean_effect"].values[at] for at in heads])
    error = None
    if "low" in of:
        error = np.maximum([mean - [of["low"].values[at] for at in heads], [of["high"].values[at] for at in heads] - mean], 0)
    axes.errorbar(mean, np.arange(len(heads)) + offset, xerr=error, elinewidth=0.7, **look)


def strongest(robust: xr.Dataset, most: int) -> list[tuple[int, int]]:
    """(layer, head): universal heads, then those important in a task, then others; each the largest |mean effect| over tasks first."""
    size = np.nan_to_num(np.abs(robust["overall_effect"].transpose("corruption", "layer", "head").values).max(axis=0))
    rank = np.where(robust["kind"].values != "none", 2, robust["important"].any(("corruption", "task")).values.astype(int))
    order = np.lexsort((-size.ravel(), -rank.ravel()))[:most]
    return [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, size.shape), strict=True)]
