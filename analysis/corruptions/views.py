"""Corruptions side by side: what `compare_corruptions.find` gives -> maps on one colour scale, shares by layer, tables, words."""

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.plots.style import LINES, ONE_COLUMN, TWO_COLUMNS, diverging_map, mark_negative, ticks
from interventions.results.metrics import label_of

LIKE = ("model", "dataset", "component", "heads", "direction", "window", "definition", "token")  # what all in a comparison have in common
BOUNDS = ("", "_low", "_high")
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


def share_table(found: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Where in the network the effect is: a row a corruption, for each noise its difference to SIP and STR, and the claim.

    Columns: `LIKE`, cut (the layers of each third), even (the late third's share of the layers), row (share, difference or claim),
    corruption, samples, early, middle, late (shares of the sum of mean |effect|, or their differences), each with _low and _high, claim
    (holds, does not hold, undecided, or why it is not judged).
    """
    rows = [row for compared in found.values() for row in _share_rows(compared)]
    columns = [
        *LIKE,
        "cut",
        "even",
        "row",
        "corruption",
        "samples",
        *(f"{t}{b}" for t in ("early", "middle", "late") for b in BOUNDS),
        "claim",
    ]
    return pd.DataFrame(rows, columns=columns).astype({"samples": "Int64"})


def _share_rows(compared: xr.Dataset) -> Iterator[dict[str, Any]]:
    third = compared["third_of_layer"]
    place = {name: compared.attrs[name] for name in LIKE} | {"cut": cut(compared), "even": float((third == "late").mean())}
    against = [name for name in compared.attrs["against"].split(", ") if name]
    for name in map(str, compared["corruption"].values):
        one = compared.sel(corruption=name)
        yield place | {"row": "share", "corruption": name, "samples": int(one["samples"])} | _by_third(one, "share")
    for name in map(str, compared["corruption"].values):
        one = compared.sel(corruption=name)
        if one["claim"].item():
            for other in against:
                yield place | {"row": "difference", "corruption": f"{name} - {other}"} | _by_third(one.sel(other=other), "share_difference")
            yield place | {"row": "claim", "corruption": f"{name} against {', '.join(against)}", "claim": one["claim"].item()}
    if compared.attrs["not_judged"]:
        yield place | {"row": "claim", "claim": f"not judged: {compared.attrs['not_judged']}"}


def _by_third(one: xr.Dataset, name: str) -> dict[str, float]:
    return {f"{third}{bound}": float(one[name + bound].sel(third=third)) for third in one["third"].values for bound in BOUNDS}


def cut(compared: xr.Dataset) -> str:
    """The layers of each third: "0-3 | 4-7 | 8-11".

    >>> third = ("layer", ["early", "middle", "middle", "late"])
    >>> cut(xr.Dataset(coords={"layer": range(4), "third": ["early", "middle", "late"], "third_of_layer": third}))
    '0 | 1-2 | 3'
    >>> cut(xr.Dataset(coords={"layer": [0], "third": ["early", "late"], "third_of_layer": ("layer", ["late"])}))
    'none | 0'
    """
    layers = [compared["layer"].values[compared["third_of_layer"].values == third] for third in compared["third"].values]
    return " | ".join(str(of[0]) if len(of) == 1 else f"{of[0]}-{of[-1]}" if len(of) else "none" for of in layers)


def rank_table(found: dict[str, xr.Dataset]) -> pd.DataFrame:
    """How alike two corruptions rank the heads (or the cells of layer and role): a row a pair, and one for each with itself.

    Columns: `LIKE`, a, b (the same where random halves of its samples are compared), cells, then mean_absolute_effect and mean_effect
    (Spearman's rank correlations of those), each with _low, _high and, for two corruptions, _ceiling, the largest that the samples allow.
    """
    rows = []
    for compared in found.values():
        for a, b in combinations_with_replacement(compared["corruption"].values, 2):
            name, pair = "halves_correlation" if a == b else "rank_correlation", compared.sel(corruption=a, other=b)
            row = {name: compared.attrs[name] for name in LIKE} | {"a": a, "b": b, "cells": int(compared["cells"])}
            for score in pair["score"].values:
                row |= {f"{score}{bound}": float(pair[name + bound].sel(score=score)) for bound in BOUNDS}
                row[f"{score}_ceiling"] = float(pair["ceiling"].sel(score=score)) if a != b else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def summary(found: dict[str, xr.Dataset]) -> str:
    """The tables in words, a paragraph a comparison."""
    lines = []
    for place, compared in found.items():
        at = f" at {compared.attrs['token']!r}" if compared.attrs["token"] else ""
        lines.append(f"{place}{at}, share of mean |effect| in layers {cut(compared)}:")
        claims = []
        for row in share_table({place: compared}).itertuples():
            if row.row == "claim":
                which = f" ({row.corruption})" if pd.notna(row.corruption) else ""
                claims.append(f"  claim, noise in the last layers only{which}: {row.claim}")
            else:
                lines.append(f"  {row.corruption}: {row.early:.2f} | {row.middle:.2f} | {_number(row, 'late')}")
        for row in rank_table({place: compared}).itertuples():
            pair = f"{row.a}, halves of its samples" if row.a == row.b else f"{row.a}, {row.b}"
            numbers = f"of mean |effect| {_correlation(row, 'mean_absolute_effect')}, of mean effect {_correlation(row, 'mean_effect')}"
            lines.append(f"  rank correlation, {pair}: {numbers}")
        if compared["cells_left_out"]:
            lines.append(f"  not counted: {int(compared['cells_left_out'])} cells that have no effect under some corruption")
        lines += claims
    some = next(iter(found.values())).attrs
    brackets = f"In brackets: {some['confidence']:.0%} intervals over samples; rank correlations are drawn towards 0 by few samples"
    return "\n".join([*lines, f"The claim {some['test']}. {brackets}, which allow at most what is named."])


def _correlation(row: Any, name: str) -> str:
    """With its interval and, of two corruptions, the largest that the samples allow."""
    ceiling = getattr(row, f"{name}_ceiling")
    return _number(row, name) + (f" (at most {ceiling:.2f})" if np.isfinite(ceiling) else "")


def _number(row: Any, name: str) -> str:
    """With its interval."""
    return f"{getattr(row, name):.2f} [{getattr(row, f'{name}_low'):.2f}, {getattr(row, f'{name}_high'):.2f}]"
