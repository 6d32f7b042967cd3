"""Curves of what is left when parts are taken out: files of head ablation and of attention knockout -> lines with intervals."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.plots.style import LINES, TWO_COLUMNS
from analysis.stats.resampling import bootstrap_weights, percentile_interval, stream
from interventions.results.faithfulness import RANKED, correct, faithfulness

RESAMPLES, CONFIDENCE = 1000, 0.95
OPERATION_NAMES = {"knock_out": "knocked out", "keep_only": "kept alone"}


def draw_ablation(ablation: xr.Dataset) -> Figure:
    """Faithfulness, accuracy and logit difference by the number of heads, ranked beside random sets; a row a replacement.

    Parameters
    ----------
    ablation : a file of `interventions.head_ablation`.
    """
    left = ablation.effects.logit_difference_of()
    metrics = {
        "faithfulness": (faithfulness(ablation), 1.0),
        "accuracy (of the two options)": (correct(ablation).mean("sample"), 0.5),
        "logit difference (logits)": (left.mean("sample"), 0.0),
    }
    replacements = [str(name) for name in ablation["replacement"].values]
    figure = Figure(figsize=(TWO_COLUMNS, 1.7 * len(replacements) + 1.1))
    panels = figure.subplots(len(replacements), len(metrics), squeeze=False, sharex=True, sharey="col")
    heads = ablation["heads"].values
    for row, replacement in zip(panels, replacements, strict=True):
        for axes, (name, (values, line)) in zip(row, metrics.items(), strict=True):
            axes.axhline(line, color="0.75", linewidth=0.6, zorder=0)
            for look, operation in zip(LINES, ablation["operation"].values, strict=False):
                of = values.sel(replacement=replacement, operation=operation)
                called = OPERATION_NAMES[str(operation)]
                axes.plot(heads, of.sel(set=RANKED), label=f"highest-ranked {called}", **look)
                random = of.drop_sel(set=RANKED)
                if random.sizes["set"]:
                    low, high, middle = random.min("set"), random.max("set"), random.mean("set")
                    axes.fill_between(heads, low, high, color=look["color"], alpha=0.18, linewidth=0)
                    label = f"random sets {called}"
                    axes.plot(heads, middle, color=look["color"], linestyle=":", linewidth=0.9, marker="x", markersize=3, label=label)
            axes.set_title(f"{replacement} replacement" if name == "faithfulness" else "")
            axes.set_ylabel(name)
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xticks(heads, labels_apart(heads))
            axes.minorticks_off()
    for axes in panels[-1]:
        axes.set_xlabel("heads in the set")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    of = ablation.attrs
    figure.suptitle(
        f"{of['model']}, {of['dataset']}, clean run: {of['component'].replace('_', '-')} heads, ranked by {of['corruption']}, "
        f"mean of {ablation.sizes['sample']} samples\nshaded: all {ablation.sizes['set'] - 1} random sets"
    )
    return figure


def labels_apart(heads: np.ndarray, most: int = 5) -> list[str]:
    """Labels of growing numbers on a logarithmic axis, from the last one back; "" where one would touch the next.

    >>> labels_apart(np.array([0, 1, 2, 4, 8, 16, 24]))
    ['0', '1', '', '4', '8', '', '24']
    """
    places = np.log2(np.asarray(heads) + 1.0)
    labels = [""] * len(heads)
    after = np.inf
    for number in reversed(range(len(heads))):
        if after - places[number] >= places[-1] / most * 0.9:
            labels[number], after = str(heads[number]), places[number]
    return labels


def draw_knockout(knockout: xr.Dataset) -> Figure:
    """Relative change of the answer's probability by centre layer, a panel for each target and a line for each source.

    Parameters
    ----------
    knockout : a file of `interventions.attention_knockout`; intervals are percentiles of a bootstrap over samples.
    """
    change = knockout.effects.relative_change().transpose("sample", "edge", "layer")
    edges = [str(edge) for edge in knockout["edge"].values]
    sources, targets = (list(dict.fromkeys(edge.split(":")[side] for edge in edges)) for side in (0, 1))
    columns = min(len(targets), 3)
    rows = -(-len(targets) // columns)
    figure = Figure(figsize=(TWO_COLUMNS, 2.0 * rows + 1.0))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    layers = knockout["layer"].values
    for axes, target in zip(panels.flat, targets, strict=False):
        axes.axhline(0, color="0.75", linewidth=0.6, zorder=0)
        for edge in (edge for edge in edges if edge.split(":")[1] == target):
            values = change.sel(edge=edge).values
            values = values[np.isfinite(values).all(axis=1)]
            if not len(values):
                continue
            look = LINES[sources.index(edge.split(":")[0]) % len(LINES)]
            weights = bootstrap_weights(len(values), RESAMPLES, stream(0, "knockout", edge))
            low, high = percentile_interval(weights @ values, CONFIDENCE)
            axes.fill_between(layers, low, high, color=look["color"], alpha=0.15, linewidth=0)
            axes.plot(layers, values.mean(axis=0), label=f"from {edge.split(':')[0]}", **look)
        axes.set_title(f"to {target}")
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in list(panels.flat)[len(targets) :]:
        axes.axis("off")
    for axes in panels[:, 0]:
        axes.set_ylabel("change of P(answer)")
    for axes in panels[-1]:
        axes.set_xlabel("centre layer of the window")
    handles = {label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    of = knockout.attrs
    figure.suptitle(
        f"{of['model']}, {of['dataset']}, clean run: attention blocked in {of['window']} layer{'s' if of['window'] > 1 else ''} at a time\n"
        f"(P blocked − P clean) / P clean, mean of {knockout.sizes['sample']} samples, shaded: {CONFIDENCE:.0%} bootstrap intervals"
    )
    return figure
