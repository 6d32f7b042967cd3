"""Attention overlays: attention maps -> the image, the mean of all heads and single heads, with the object's outline, a sample a row."""

import textwrap
from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from analysis.functions.scores import INSIDE, mean_map, normalized
from analysis.plots.style import SEQUENTIAL, TWO_COLUMNS
from analysis.store.folder import head_name

OUTLINE = (("black", 2.4), ("white", 1.1))  # so that it shows on any image


def draw(
    attention: xr.Dataset, samples: Sequence[int], heads: Sequence[tuple[int, int]], notes: dict[tuple[int, int], str] | None = None
) -> Figure:
    """Attention over the image in multiples of an even share, so that 1 is an even spread; one colour scale a row.

    Parameters
    ----------
    attention : an attention file, opened (samples are read one at a time).
    samples : which samples, by position: a row each.
    heads : (layer, head) of each column after the image and the mean of all heads.
    notes : a second title line for a head, e.g. its kind and function.
    """
    columns = 3 + len(heads)
    size = (TWO_COLUMNS - 0.6) / (columns + 0.1)
    figure = Figure(figsize=(TWO_COLUMNS, size * len(samples) + 0.9))
    panels = figure.subplots(len(samples), columns, squeeze=False, width_ratios=[1.1] + [1] * (columns - 1))
    for row, sample in zip(panels, samples, strict=True):
        _draw_row(figure, row, attention.isel(sample=sample).load(), heads)
    titles = ["", "image", "mean of\nall heads"] + [f"{head_name(*at)}\n{(notes or {}).get(at, '')}" for at in heads]
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=6.5)
    attrs = attention.attrs
    component = str(attrs.get("component", "")).replace("_", "-")
    figure.suptitle(
        f"{attrs['model']}, {attrs['dataset']}, clean run: {component} from the token '{attrs.get('query', '')}' to the image\n"
        "attention in multiples of an even share; outlined: the object asked about"
    )
    return figure


def _draw_row(figure: Figure, panels: Sequence[Axes], sample: xr.Dataset, heads: Sequence[tuple[int, int]]) -> None:
    image = sample["image"].transpose("y", "x", "rgb").values
    maps = normalized(sample["attention"].transpose("layer", "head", "patch").values)
    patches = maps.shape[-1]
    shown = [patches * mean_map(maps)] + [patches * maps[at] for at in heads]
    finite = np.concatenate([values[np.isfinite(values)] for values in shown])
    limit = max(float(np.quantile(finite, 0.99)), 1.0) if finite.size else 1.0
    panels[0].text(0.0, 0.5, _describe(sample), ha="left", va="center", fontsize=5.5, transform=panels[0].transAxes)
    panels[1].imshow(image)
    for axes, values in zip(panels[2:], shown, strict=True):
        axes.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
        picture = grid(values, sample)
        seen = np.clip(np.nan_to_num(picture) / limit, 0, 1)
        axes.imshow(picture, cmap=SEQUENTIAL, vmin=0, vmax=limit, alpha=0.45 + 0.45 * seen, extent=(0, image.shape[1], image.shape[0], 0))
    for axes in panels:
        axes.set_axis_off()
    for axes in panels[1:]:
        _outline_object(axes, sample, image.shape)
        axes.set_xlim(0, image.shape[1])
        axes.set_ylim(image.shape[0], 0)
    scale = ScalarMappable(Normalize(0, limit), SEQUENTIAL)
    figure.colorbar(scale, ax=list(panels), shrink=0.85, pad=0.01, extend="max").ax.tick_params(labelsize=6)


def grid(values: np.ndarray, sample: xr.Dataset) -> np.ndarray:
    """Values [patch] as the picture [row, column] that its patches make; NaN where there is no patch.

    >>> places = xr.Dataset(coords={"patch_row": ("patch", [0, 0, 1]), "patch_col": ("patch", [0, 1, 0])})
    >>> grid(np.array([1.0, 2.0, 3.0]), places)
    array([[ 1.,  2.],
           [ 3., nan]])
    """
    rows, columns = sample["patch_row"].values.astype(int), sample["patch_col"].values.astype(int)
    picture = np.full((rows.max() + 1, columns.max() + 1), np.nan)
    picture[rows, columns] = values
    return picture


def _outline_object(axes: Axes, sample: xr.Dataset, shape: tuple[int, ...]) -> None:
    """The edges of the patches of the object, where there is a mask."""
    inside = np.pad(grid(sample["object_share"].values, sample) >= INSIDE, 1)
    height, width = shape[0] / (inside.shape[0] - 2), shape[1] / (inside.shape[1] - 2)
    across = [[((c - 1) * width, r * height), (c * width, r * height)] for r, c in np.argwhere(inside[1:] != inside[:-1])]
    down = [[(c * width, (r - 1) * height), (c * width, r * height)] for r, c in np.argwhere(inside[:, 1:] != inside[:, :-1])]
    for color, linewidth in OUTLINE:
        axes.add_collection(LineCollection(across + down, colors=color, linewidths=linewidth, capstyle="projecting"))


def _describe(sample: xr.Dataset) -> str:
    question = str(sample["question"].item()) if "question" in sample.variables else ""
    lines = [f"task: {sample['category'].item()}", *textwrap.wrap(question, 16)[:5]]
    answer = f"answer: {sample['correct_answer'].item()}" if "correct_answer" in sample.variables else ""
    return "\n".join([*lines, answer])
