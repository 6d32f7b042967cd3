"""Curves of how findings hold up: `stability.nc` -> agreement of subsamples; `robust_power.csv` -> power and false alarms of the rules."""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from scipy import stats

from analysis.heads.power import ORDERED_RULES
from analysis.heads.rules import rule_title
from analysis.plots.overlap import SAME_SIGN
from analysis.plots.style import LINES, TWO_COLUMNS

AGREEMENT = {
    "rank_correlation": "Spearman's ρ\nof the scores",
    "jaccard": "Jaccard's index\nof the named heads",
    "none_named": "repeats in which\nneither names any",
}


def draw_stability(stability: xr.Dataset, model: str) -> Figure:
    """A subsample beside the rest of a task: thin lines are tasks, thick ones their mean; a panel a corruption and measure.

    Parameters
    ----------
    stability : of one model, a group of `stability.nc`: (rule, corruption, task, samples).
    """
    corruptions = [str(name) for name in stability["corruption"].values]
    figure = Figure(figsize=(TWO_COLUMNS, 1.25 * len(AGREEMENT) + 0.9))
    panels = figure.subplots(len(AGREEMENT), len(corruptions), squeeze=False, sharex=True, sharey="row")
    samples = stability["samples"].values
    for row, (measure, label) in zip(panels, AGREEMENT.items(), strict=True):
        for axes, corruption in zip(row, corruptions, strict=True):
            for look, rule in zip(LINES, stability["rule"].values, strict=False):
                values = stability[measure].sel(rule=rule, corruption=corruption).transpose("samples", "task").values
                axes.plot(samples, values, color=look["color"], linewidth=0.5, alpha=0.5)
                there = np.isfinite(values).any(axis=1)
                axes.plot(samples[there], np.nanmean(values[there], axis=1), label=rule_title(str(rule), SAME_SIGN), **look)
            axes.set_ylim(min(0, float(np.nanmin(stability[measure].values, initial=0.0))) - 0.03, 1.03)
            _log_samples(axes, samples)
        row[0].set_ylabel(label)
    for axes, corruption in zip(panels[0], corruptions, strict=True):
        axes.set_title(corruption)
    for axes in panels[-1]:
        axes.set_xlabel("samples of the subsample")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.suptitle(f"{model}: a subsample of each task beside the rest of its samples ({stability.attrs['repeats']} times)")
    return figure


def _log_samples(axes: Axes, samples: np.ndarray) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xticks(samples)
    axes.xaxis.set_minor_locator(NullLocator())


def draw_power(power: pd.DataFrame) -> Figure:
    """Power of each rule by the size of a planted effect, and how often it names a head where none has an effect.

    Parameters
    ----------
    power : the rows of one model, as `power.power` gives them.
    """
    figure = Figure(figsize=(TWO_COLUMNS, 2.9))
    panels = figure.subplots(1, 2 * len(ORDERED_RULES), sharey=True, width_ratios=[2.2, 1] * len(ORDERED_RULES))
    planted, none = power[power["size"] > 0], power[power["size"] == 0]
    for (curves, alarms), rule in zip(panels.reshape(-1, 2), ORDERED_RULES, strict=True):
        for look, (samples, of_samples) in zip(LINES, planted.groupby("samples"), strict=False):
            curves.plot(of_samples["size"], of_samples[rule.power], label=f"{samples} samples a task", **look)
        curves.set_title(f"{rule.title}: power")
        curves.set_xlabel("planted effect (SD of an average head)")
        _alarms(alarms, none, rule.false_runs)
    panels[0].set_ylabel("share of simulated studies")
    panels[0].set_ylim(-0.03, 1.03)
    handles, labels = panels[0].get_legend_handles_labels()
    more, noises = panels[1].get_legend_handles_labels()
    figure.legend(handles + more, labels + noises, loc="outside lower center", ncols=4)
    figure.suptitle(f"{power['model'].iloc[0]}: studies simulated from its own effects, {int(power['runs'].iloc[0])} for each point")
    return figure


def _alarms(axes: Axes, none: pd.DataFrame, column: str) -> None:
    """Share of studies without any effect in which a head is named, with Wilson's 95 % intervals."""
    sizes = sorted(set(none["samples"]))
    for (noise, rows), offset, marker in zip(none.groupby("noise", sort=False), (-0.15, 0.15), ("o", "s"), strict=False):
        rows = rows.sort_values("samples")
        low, high = np.transpose(
            [stats.binomtest(round(s * n), int(n)).proportion_ci(method="wilson") for s, n in zip(rows[column], rows["runs"], strict=True)]
        )
        x = [sizes.index(n) + offset for n in rows["samples"]]
        error = np.maximum([rows[column] - low, high - rows[column]], 0)
        face = "white" if marker == "o" else "black"
        label = f"no effect, noise {noise}"
        axes.errorbar(x, rows[column], error, fmt=marker, color="black", markerfacecolor=face, elinewidth=0.7, label=label)
    axes.axhline(0.05, color="0.5", linewidth=0.7, linestyle=":")
    axes.set_xticks(range(len(sizes)), [str(n) for n in sizes], rotation=90)
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.set_xlabel("samples")
    axes.set_title("false alarms")
