"""Other measures of heads: files of attribution patching and of direct effects -> estimates beside exact effects; logit lens."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy import stats

from analysis.plots.style import LINES, ONE_COLUMN, TWO_COLUMNS, diverging_map, heading, mark_negative, ticks

ESTIMATES = {"attribution": "attribution (one gradient)", "integrated_attribution": "integrated attribution"}
MOST_POINTS = 5000
MOST_TOKENS = 3


def draw_attribution(effects: xr.Dataset) -> Figure | None:
    """Estimated beside exact effects of the cells that were patched exactly, a row an estimate, a column a token; None without any.

    Parameters
    ----------
    effects : a file of `interventions.attribution_patching`; at most 5000 cells a panel and 3 tokens are drawn.
    """
    exact = effects.effects.logit_difference()
    names = [name for name in ESTIMATES if name in effects]
    tokens = [token for token in effects["token"].values if np.isfinite(exact.sel(token=token).values).any()][:MOST_TOKENS]
    if not names or not tokens:
        return None
    wide = TWO_COLUMNS if len(tokens) > 1 else ONE_COLUMN
    size = min((wide - 0.6) / len(tokens), 2.6)
    figure = Figure(figsize=(wide, size * len(names) + 0.9))
    panels = figure.subplots(len(names), len(tokens), squeeze=False)
    for row, name in zip(panels, names, strict=True):
        estimate = effects[name].astype("float64")
        estimate = estimate.mean("draw") if "draw" in estimate.dims else estimate
        for axes, token in zip(row, tokens, strict=True):
            x, y = exact.sel(token=token).transpose("sample", "layer", "head").values.ravel(), (
                estimate.sel(token=token).transpose("sample", "layer", "head").values.ravel()
            )  # fmt: skip
            there = np.isfinite(x) & np.isfinite(y)
            x, y = x[there], y[there]
            rho = float(stats.spearmanr(x, y).statistic) if len(x) > 2 and np.ptp(x) and np.ptp(y) else np.nan
            shown = np.random.default_rng(0).permutation(len(x))[:MOST_POINTS]
            axes.axline((0, 0), slope=1, color="0.6", linewidth=0.7, zorder=0)
            axes.scatter(x[shown], y[shown], s=3, color=LINES[0]["color"], alpha=0.4, linewidths=0, rasterized=True)
            axes.set_title(f"at '{token}': {len(x)} cells" + (f", Spearman's ρ = {rho:.2f}" if np.isfinite(rho) else ""))
            axes.set_xlabel("exact effect (logits)")
        row[0].set_ylabel(f"{ESTIMATES[name]} (logits)")
    of = effects.attrs
    title = heading(of["model"], of["dataset"], of["corruption"], of["modality"])
    figure.suptitle(f"{title}:\n{of['component'].replace('_', '-')} heads, estimated by gradients and patched exactly")
    return figure


def draw_direct(direct: xr.Dataset) -> Figure:
    """Mean direct effects of heads and MLPs on the clean logit difference, and the logit difference after each layer (logit lens).

    Parameters
    ----------
    direct : a file of `interventions.direct_effect`.
    """
    heads = direct["head_effect"].mean("sample").transpose("layer", "head").values.astype("float64")
    layers, wide = heads.shape
    figure = Figure(figsize=(TWO_COLUMNS, float(np.clip(0.17 * layers, 1.4, 4.0)) + 1.1))
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.6, 1, 1], sharey=True)
    image = diverging_map(left, heads)
    negative = mark_negative(left, heads)
    left.set_xticks(ticks(wide, 8))
    left.set_xlabel("head")
    left.set_title("heads")
    figure.colorbar(image, ax=left, pad=0.02, label="direct effect (logits)")
    number = np.arange(layers)
    middle.barh(number, direct["mlp_effect"].mean("sample"), height=0.7, color=LINES[0]["color"])
    middle.set_title("MLPs")
    middle.set_xlabel("direct effect (logits)")
    lens = (direct["logit_correct"] - direct["logit_incorrect"]).mean("sample")
    right.plot(lens, number, **LINES[2])
    clean = float((direct["clean_logit_correct"] - direct["clean_logit_incorrect"]).mean())
    right.axvline(clean, color="0.5", linewidth=0.7, linestyle="--")
    right.set_title("logit lens (dashed: clean run)")
    right.set_xlabel("logit difference (logits)")
    for axes in (middle, right):
        axes.axvline(0, color="0.75", linewidth=0.6, zorder=0)
    of = direct.attrs
    rest = " and ".join(f"{name} {round(float(direct[f'{name}_effect'].mean('sample')), 2) + 0:.2f}" for name in ("embedding", "bias"))
    note = "; −: below zero" if negative else ""
    figure.suptitle(
        f"{of['model']}, {of['dataset']}, clean run: direct effects on the logit difference, mean of {direct.sizes['sample']} samples\n"
        f"with {rest} they sum to {clean:.2f} logits{note}"
    )
    return figure
