"""What all figures share: the style in a context, widths of columns, colour-blind safe maps and lines, PNG and PDF written whole.

In: matplotlib figures and arrays [row, column]. Out: files, the same bytes for the same numbers.
"""

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from analysis.store.folder import write_whole

STYLE = Path(__file__).with_name("style.mplstyle")
ONE_COLUMN, TWO_COLUMNS = 3.25, 6.75  # inches: a column and a page of the usual conference templates
PAGE = 9.0  # inches of height
LETTERS = 15  # of a title to an inch
DIVERGING = "PRGn"  # purple and green: told apart in all common kinds of colour blindness; in grey, by the marks of `mark_negative`
SEQUENTIAL = "viridis"  # lightness grows with the value
NEGATIVE = 0.1  # of the scale: what is further below zero is marked, since grey does not show signs
LINES: tuple[dict[str, Any], ...] = (  # colours of Okabe and Ito; told apart by marker and dashes too
    {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    {"color": "black", "marker": "^", "linestyle": ":"},
    {"color": "#009E73", "marker": "D", "linestyle": "-."},
    {"color": "#CC79A7", "marker": "v", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": "#E69F00", "marker": "P", "linestyle": (0, (1, 3))},
    {"color": "#56B4E9", "marker": "X", "linestyle": (0, (8, 3))},
)


@contextmanager
def styled() -> Iterator[None]:
    """The project's style, for this block only."""
    with style.context(STYLE):
        yield


def heading(model: str, dataset: str, corruption: str, modality: str = "") -> str:
    """The title of a figure.

    >>> heading("blip", "SVO-Probes", "sip", "image")
    'blip, SVO-Probes, sip corruption (image)'
    """
    return f"{model}, {dataset}, {corruption} corruption" + (f" ({modality})" if modality else "")


def diverging_map(axes: Axes, values: np.ndarray, limit: float | None = None) -> AxesImage:
    """Draw values [layer, column] with layer 0 at the bottom; colours centred at zero, grey where there is no value."""
    finite = np.abs(values[np.isfinite(values)])
    limit = limit or (float(finite.max()) if finite.size else 0.0) or 1.0
    colours = matplotlib.colormaps[DIVERGING].with_extremes(bad="0.8")
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=-limit, vmax=limit, origin="lower", aspect="auto")
    axes.set_yticks(ticks(values.shape[0]))
    axes.set_ylabel("layer")
    return image


def mark_negative(axes: Axes, values: np.ndarray, limit: float | None = None) -> bool:
    """Mark the cells [layer, column] of a diverging map that are well below zero with a minus; returns whether any is."""
    limit = limit or float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    layers, columns = np.nonzero(values < -NEGATIVE * limit)
    if not layers.size:
        return False
    colours = np.where(values[layers, columns] < -0.55 * limit, "white", "black")
    size = 16 if max(values.shape) <= 16 else 5
    axes.scatter(columns, layers, s=size, marker="_", color=colours, linewidths=0.9 if size > 5 else 0.6)
    return True


def ticks(count: int, most: int = 16) -> list[int]:
    """Positions to label among `count`: all, or every 2nd, 4th, ... so that no more than `most` stay.

    >>> ticks(12, most=8)
    [0, 2, 4, 6, 8, 10]
    """
    step = 1
    while count > most * step:
        step *= 2
    return list(range(0, count, step))


def save(figure: Figure, path: Path) -> Path:
    """Write `path` (.png) and the PDF beside it, without dates, one or two columns wide; returns the PNG's path."""
    fit(figure)
    for target in (path, path.with_suffix(".pdf")):
        metadata = {"Software": None} if target.suffix == ".png" else {"CreationDate": None, "Producer": None, "Creator": None}
        write_whole(target, lambda temporary, metadata=metadata: figure.savefig(temporary, metadata=metadata))  # type: ignore[misc]
        figure.set_layout_engine("none")  # the PDF has the PNG's layout, which is not made twice
    return path


def fit(figure: Figure) -> None:
    """Make a figure one or two columns wide, no higher than a page, and break its title's lines to that width."""
    width, height = figure.get_size_inches()
    wide = ONE_COLUMN if width <= ONE_COLUMN else TWO_COLUMNS
    figure.set_size_inches(wide, min(height * min(wide / width, 1) ** 0.5, PAGE))  # letters stay as large, so height shrinks less
    title = figure.get_suptitle()
    if title:
        figure.suptitle("\n".join(part for line in title.split("\n") for part in broken(line, int(wide * LETTERS))))


def broken(line: str, letters: int) -> list[str]:
    """A line of a title in lines of at most so many letters: broken after commas and colons where that leaves no stub, else between words.

    >>> broken("llava-shapes, shapes, self-attention heads at 'last'", 48)
    ['llava-shapes, shapes,', "self-attention heads at 'last'"]
    >>> broken("llava: a subsample of each task beside the rest of its samples", 48)
    ['llava: a subsample of each task beside the rest', 'of its samples']
    """
    lines = [""]
    for part in re.findall(r".+?(?:[,:;]\s+|$)", line):
        if len((lines[-1] + part).rstrip()) <= letters:
            lines[-1] += part
        else:
            before = lines.pop() if len(lines[-1]) < letters / 3 else ""
            lines += textwrap.wrap(before + part, letters, break_long_words=False, break_on_hyphens=False)
            lines[-1] += " "
    return [text.rstrip() for text in lines if text.strip()]
