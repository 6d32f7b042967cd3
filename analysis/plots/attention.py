"""Heads against the mean of all heads: attention file -> maps averaged over samples, and how each differs from the mean head's."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from analysis.functions.scores import mean_map, normalized
from analysis.plots.overlays import grid
from analysis.plots.style import DIVERGING, SEQUENTIAL, TWO_COLUMNS, mark_negative
from analysis.store.folder import head_name

MOST_SAMPLES = 100


def mean_maps(attention: xr.Dataset, heads: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Attention to each patch in multiples of an even share: of the mean head [patch] and of heads [head, patch], means over samples.

    At most 100 samples are read, at even distances; a sample in which a head gives the image nothing does not count for that head.

    Returns
    -------
    The two means, and the number of samples read.
    """
    chosen = np.unique(np.linspace(0, attention.sizes["sample"] - 1, min(MOST_SAMPLES, attention.sizes["sample"])).astype(int))
    of_mean, of_heads = [], []
    for sample in chosen:
        maps = normalized(attention["attention"].isel(sample=int(sample)).transpose("layer", "head", "patch").values)
        of_mean.append(mean_map(maps))
        of_heads.append([maps[at] for at in heads])
    patches = attention.sizes["patch"]
    return patches * np.nanmean(of_mean, axis=0), patches * np.nanmean(of_heads, axis=0), len(chosen)


def draw(attention: xr.Dataset, heads: Sequence[tuple[int, int]], notes: dict[tuple[int, int], str] | None = None) -> Figure:
    """The mean head's map, then for each head its map and its difference to the mean head's; 1 is an even share.

    Parameters
    ----------
    attention : an attention file, opened (samples are read one at a time).
    heads : (layer, head) of each column after the mean of all heads.
    notes : more lines of a head's title, e.g. its kind and function.
    """
    mean, maps, samples = mean_maps(attention, heads)
    columns = 1 + len(heads)
    size = (TWO_COLUMNS - 0.8) / max(columns, 4)
    figure = Figure(figsize=(TWO_COLUMNS, 2 * size + 1.1))
    panels = figure.subplots(2, columns, squeeze=False)
    limit, apart = float(np.nanmax([mean, *maps])), float(np.nanmax(np.abs(maps - mean)))
    for axes, values in zip(panels[0], [mean, *maps], strict=True):
        above = axes.imshow(grid(values, attention), cmap=SEQUENTIAL, vmin=0, vmax=limit)
    for axes, values in zip(panels[1, 1:], maps - mean, strict=True):
        below = axes.imshow(grid(values, attention), cmap=DIVERGING, vmin=-apart, vmax=apart)
        mark_negative(axes, grid(values, attention), apart)
    for axes in panels.flat:
        axes.set_axis_off()
    panels[0, 0].set_title("mean of\nall heads", fontsize=6.5)
    for axes, at in zip(panels[0, 1:], heads, strict=True):
        axes.set_title(f"{head_name(*at)}\n{(notes or {}).get(at, '')}", fontsize=6.5)
    panels[1, 0].text(0.95, 0.5, "head −\nmean of\nall heads", ha="right", va="center", transform=panels[1, 0].transAxes, fontsize=6.5)
    figure.colorbar(above, ax=list(panels[0]), pad=0.01, label="even shares")
    figure.colorbar(below, ax=list(panels[1]), pad=0.01, label="difference")
    of = attention.attrs
    component = str(of.get("component", "")).replace("_", "-")
    figure.suptitle(
        f"{of['model']}, {of['dataset']}, clean run: {component} from '{of.get('query', '')}' to the image\n"
        f"mean of {samples} samples, in multiples of an even share; −: less than the mean of all heads"
    )
    return figure
