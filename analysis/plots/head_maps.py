"""Head maps: effects of heads -> layer x head, important heads dotted, universal heads outlined and lettered by kind."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from analysis.plots.style import ONE_COLUMN, TWO_COLUMNS, diverging_map, heading, mark_negative, ticks
from interventions.results.metrics import label_of

OUTLINES: dict[str, dict[str, Any]] = {
    "vision": {"edgecolor": "#0072B2", "linestyle": "-", "linewidth": 1.3},
    "text": {"edgecolor": "#D55E00", "linestyle": (0, (3, 1)), "linewidth": 1.3},
    "multimodal": {"edgecolor": "black", "linestyle": "-", "linewidth": 1.8},
    "important": {"edgecolor": "0.35", "linestyle": (0, (1, 1)), "linewidth": 1.0},
}
LABELS = {
    "vision": "V  vision head",
    "text": "T  text head",
    "multimodal": "M  multimodal head",
    "important": "important in a task, not universal",
}


def draw(effects: xr.Dataset, universal: xr.Dataset | None = None, metric: str = "logit_difference", token: str | None = None) -> Figure:
    """The mean effect over samples of every head.

    Parameters
    ----------
    effects : effects (sample, layer, head, token) of one model, data set, corruption and component.
    universal : the model's universal heads, as `universal_heads.find` gives them; drawn where they are of the same component.
    token : the role whose heads are drawn; without it the main one, or the first where the main one was not patched.
    """
    attrs = effects.attrs
    there = [str(role) for role in effects["token"].values]
    token = token or (attrs["main_token"] if attrs["main_token"] in there else there[0])
    values = getattr(effects.sel(token=token).effects, metric)().mean("sample").transpose("layer", "head").values
    layers, heads = values.shape
    wide = heads > 12
    figure = Figure(figsize=(TWO_COLUMNS if wide else ONE_COLUMN, float(np.clip((0.17 if wide else 0.2) * layers, 1.2, 6.5)) + 1.5))
    axes = figure.subplots()
    image = diverging_map(axes, values)
    negative = mark_negative(axes, values)
    axes.set_xticks(ticks(heads))
    axes.set_xlabel("head")
    figure.colorbar(image, ax=axes, pad=0.02, label=label_of(metric, attrs.get("direction", "denoising")))
    marked = (
        marks(universal, attrs["corruption"], attrs["dataset"])
        if universal is not None and universal.attrs["component"] == attrs["component"]
        else {}
    )
    for (layer, head), mark in marked.items():
        _outline(axes, layer, head, mark)
    shown = [mark for mark in OUTLINES if mark in marked.values()]
    handles = [Patch(facecolor="none", label=LABELS[mark], **OUTLINES[mark]) for mark in shown]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=4 if wide else 2)
    title = heading(attrs["model"], attrs["dataset"], attrs["corruption"], attrs["modality"])
    component, note = attrs["component"].replace("_", "-"), "; −: below zero" if negative else ""
    figure.suptitle(f"{title}:\nrestoring one {component} head at the token '{token}', mean of {effects.sizes['sample']} samples{note}")
    return figure


def marks(universal: xr.Dataset, corruption: str, dataset: str) -> dict[tuple[int, int], str]:
    """The mark of each head that has one: its kind, or "important" where it is important in a task of this corruption and data set.

    >>> from pathlib import Path
    >>> from analysis import universal_heads
    >>> found = universal_heads.find(Path("results"), universal_heads.UniversalHeads(permutations=0))["blip-small"]
    >>> marks(found, "sip", "shapes")
    {(1, 2): 'vision', (3, 0): 'multimodal', (0, 5): 'text'}
    """
    found = {}
    if corruption in universal["corruption"].values:
        tasks = [task for task in universal["task"].values if str(task).split("/")[0] == dataset]
        important = universal["important"].sel(corruption=corruption, task=tasks).any("task").values.astype(bool)
        found = {(int(layer), int(head)): "important" for layer, head in np.argwhere(important)}
    kind = universal["kind"].values
    return found | {(int(layer), int(head)): str(kind[layer, head]) for layer, head in np.argwhere(kind != "none")}


def _outline(axes: Axes, layer: int, head: int, mark: str) -> None:
    halo = [withStroke(linewidth=OUTLINES[mark]["linewidth"] + 1.4, foreground="white")]
    axes.add_patch(Rectangle((head - 0.46, layer - 0.46), 0.92, 0.92, fill=False, path_effects=halo, **OUTLINES[mark]))
    if mark != "important":
        axes.text(head, layer, mark[0].upper(), ha="center", va="center", fontsize=6, fontweight="bold").set_bbox(
            {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
        )
