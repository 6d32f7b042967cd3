"""Overlap of heads across tasks and corruptions: robust heads and `robust_overlap.csv` -> who is in which set, and what chance gives."""

import matplotlib
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.heads.rules import RULES, rule_title
from analysis.plots.style import LINES, SEQUENTIAL, TWO_COLUMNS
from analysis.plots.tasks import name_of, strongest
from analysis.store.folder import head_name

MOST_HEADS = 30
MOST_LABELLED = 12  # sets up to which the cells of the matrix are numbered
SAME_SIGN = " (same sign)"
ALPHA = 0.05


def sets_of(robust: xr.Dataset) -> list[tuple[str, str]]:
    """(corruption, task) of each set of heads: the tasks that ran."""
    return [
        (str(c), str(t))
        for c in robust["corruption"].values
        for t in robust["task"].values
        if int(robust["samples"].sel(corruption=c, task=t))
    ]


def draw_heads(robust: xr.Dataset, overlap: pd.DataFrame) -> Figure:
    """Which heads are important in which task (as in an UpSet plot), and how many at least k tasks share, beside chance.

    Parameters
    ----------
    robust : of one model, as `robust.judge` gives it; at most 30 heads are shown, those in the most sets first.
    overlap : the model's rows of `robust_overlap.csv`.
    """
    sets = sets_of(robust)
    together = overlap[overlap["compared"] == "tasks together"]
    figure = Figure(figsize=(TWO_COLUMNS, 0.17 * len(sets) + 3.1))
    above, below = figure.subplots(2, 1, height_ratios=[0.17 * len(sets) + 0.6, 1.6])
    _dots(above, robust, sets)
    _beside_chance(below, together)
    of = robust.attrs
    figure.suptitle(f"{of['model']}: {of['component'].replace('_', '-')} heads at '{of['token']}' that tasks share")
    return figure


def _dots(axes: Axes, robust: xr.Dataset, sets: list[tuple[str, str]]) -> None:
    important, selected, sign = (
        np.stack([robust[name].sel(corruption=c, task=t).values for c, t in sets]) for name in ("important", "selected", "sign")
    )
    important, selected = important.astype(bool), selected.astype(bool)
    times = (important | selected).sum(axis=0)
    order = strongest(robust, times.size)
    heads = sorted((at for at in order if times[at]), key=lambda at: (-important[:, *at].sum(), -times[at]))
    left, heads = len(heads) - MOST_HEADS, heads[:MOST_HEADS]
    for column, at in enumerate(heads):
        rows = np.flatnonzero((important | selected)[:, *at])
        axes.plot([column, column], [rows.min(), rows.max()], color="0.75", linewidth=1, zorder=1)
    for marker, side, label in (("^", 1, "important, positive effect"), ("v", -1, "important, negative effect")):
        x, y = _where(important & (sign == side), heads)
        axes.scatter(x, y, marker=marker, s=22, color=LINES[0 if side > 0 else 1]["color"], label=label, zorder=3)
    x, y = _where(selected, heads)
    axes.scatter(x, y, marker="o", s=52, facecolors="none", edgecolors="black", linewidths=0.7, label="NOTICE's rule")
    axes.set_xticks(range(len(heads)), [head_name(*at) for at in heads], rotation=90)
    axes.set_yticks(range(len(sets)), [f"{c}, {name_of(t, [t for _, t in sets])}" for c, t in sets])
    axes.set_xlim(-0.7, max(len(heads), 8) - 0.3)
    axes.set_ylim(len(sets) - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    if left > 0:
        axes.set_xlabel(f"{left} more heads are important in a task and not shown")


def _where(sets: np.ndarray, heads: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the heads that are in sets [set, layer, head]."""
    rows, columns = np.nonzero(np.stack([sets[:, *at] for at in heads], axis=1)) if heads else (np.array([]), np.array([]))
    return columns, rows


def _beside_chance(axes: Axes, together: pd.DataFrame) -> None:
    """Heads shared by at least k tasks, for each rule and corruption, beside those that chance gives."""
    groups = list(together.groupby(["rule", "a"], sort=False))
    labels, position = [], 0
    for (rule, corruption), rows in groups:
        for row in rows.sort_values("at_least").itertuples():
            seen = position == 0
            axes.bar(position, row.shared, width=0.6, color=LINES[0]["color"], alpha=0.75, label="seen" if seen else None)
            axes.plot(position, row.expected, "_", color="black", markersize=11, label="chance" if seen else None)
            axes.plot(position, row.expected_in_layers, "D", color="black", markersize=2.8, label="chance within layers" if seen else None)
            if row.p_in_layers <= ALPHA:
                axes.text(position, max(row.shared, row.expected_in_layers), "*", ha="center", va="bottom", fontsize=8)
            labels.append((position, f"≥{row.at_least}"))
            position += 1
        middle = position - (len(rows) + 1) / 2
        axes.text(
            middle,
            -0.2,
            f"{rule_title(rule, SAME_SIGN)}, {corruption}",
            ha="center",
            va="top",
            transform=axes.get_xaxis_transform(),
            fontsize=6.5,
        )
        position += 1
    axes.set_xticks([at for at, _ in labels], [label for _, label in labels])
    axes.set_ylabel("heads shared")
    axes.set_xlabel(f"tasks that share them (at least); *: beyond chance within layers, p ≤ {ALPHA:g}", labelpad=18)
    top = max([1.0, *together["shared"], *together["expected"], *together["expected_in_layers"]])
    axes.set_ylim(0, 1.25 * top)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", ncols=3)


def draw_matrix(robust: xr.Dataset, overlap: pd.DataFrame) -> Figure:
    """Jaccard's index of the heads of every two tasks, and of a task under two corruptions; for each rule.

    In each cell are the heads shared and, in brackets, how many chance within layers gives; bold where p <= 0.05. Cells that were not
    compared, and two empty sets, are grey.

    Parameters
    ----------
    robust, overlap : as in `draw_heads`.
    """
    sets = sets_of(robust)
    layout = ConstrainedLayoutEngine(compress=True, h_pad=0.06)
    figure = Figure(figsize=(TWO_COLUMNS, min(0.3 * len(sets), 2.4) + 1.3), layout=layout)
    panels = figure.subplots(1, len(RULES), sharey=True)
    for axes, rule in zip(panels, RULES, strict=True):
        image = _matrix(axes, sets, overlap[(overlap["rule"] == rule.name) & overlap["compared"].isin(("two tasks", "two corruptions"))])
        axes.set_title(rule_title(rule.name, SAME_SIGN))
    figure.colorbar(image, ax=panels, pad=0.02, shrink=0.8, label="Jaccard's index")
    figure.suptitle(f"{robust.attrs['model']}: heads that two tasks share (in brackets: by chance within layers; bold: p ≤ {ALPHA:g})")
    return figure


def _matrix(axes: Axes, sets: list[tuple[str, str]], pairs: pd.DataFrame) -> AxesImage:
    names, tasks = [f"{c} {t}" for c, t in sets], [t for _, t in sets]
    values = np.full((len(sets), len(sets)), np.nan)
    for row in pairs.itertuples():
        if row.a in names and row.b in names:
            y, x = sorted((names.index(row.a), names.index(row.b)), reverse=True)
            values[y, x] = row.jaccard
            if len(sets) <= MOST_LABELLED:
                bold = "bold" if row.p_in_layers <= ALPHA else "normal"
                colour = "white" if row.jaccard < 0.55 else "black"
                text = f"{row.shared}\n({row.expected_in_layers:.1f})"
                axes.text(
                    x, y, text, ha="center", va="center", fontsize=5, fontweight=bold, color=colour if np.isfinite(row.jaccard) else "black"
                )
    colours = matplotlib.colormaps[SEQUENTIAL].with_extremes(bad="0.88")
    image = axes.imshow(
        np.ma.masked_invalid(values[1:, :-1]), cmap=colours, vmin=0, vmax=1, extent=(-0.5, len(sets) - 1.5, len(sets) - 0.5, 0.5)
    )
    axes.set_xticks(range(len(sets) - 1), [f"{c}, {name_of(t, tasks)}" for c, t in sets[:-1]], rotation=90)
    axes.set_yticks(range(1, len(sets)), [f"{c}, {name_of(t, tasks)}" for c, t in sets[1:]])
    return image
