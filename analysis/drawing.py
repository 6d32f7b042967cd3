"""What all figures share: the style in a context, diverging maps centred at zero, ticks of layers, PNG and PDF written whole.

In: matplotlib figures and arrays [row, column]. Out: files, the same bytes for the same numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from analysis.results import write_whole

STYLE = Path(__file__).with_name("style.mplstyle")
DIVERGING = "PRGn"  # purple and green: told apart in all common kinds of colour blindness
UNITS = {
    "logit_difference": "LD patched − LD corrupt (logits)",
    "restoration_probability": "P patched − P corrupt of the correct answer",
    "log_odds": "log-odds patched − corrupt (logits)",
    "normalized_effect": "share of the clean run's LD restored",
}
MODALITY = dict.fromkeys(("sip", "gaussian_noise", "inpainting", "object_removal"), "image")
MODALITY |= dict.fromkeys(("str", "gaussian_noise_text", "constraint"), "text")


@contextmanager
def styled() -> Iterator[None]:
    """The project's style, for this block only."""
    with style.context(STYLE):
        yield


def heading(model: str, dataset: str, corruption: str, modality: str | None = None) -> str:
    """The title of a figure: "blip, SVO-Probes, sip corruption (image)"."""
    modality = modality or MODALITY.get(corruption)
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


def ticks(count: int, most: int = 16) -> list[int]:
    """Positions to label among `count`: all, or every 2nd, 4th, ... so that no more than `most` stay."""
    step = 1
    while count > most * step:
        step *= 2
    return list(range(0, count, step))


def save(figure: Figure, path: Path) -> Path:
    """Write `path` (.png) and the PDF beside it, without dates; returns the PNG's path."""
    for target in (path, path.with_suffix(".pdf")):
        metadata = {"Software": None} if target.suffix == ".png" else {"CreationDate": None, "Producer": None, "Creator": None}
        write_whole(target, lambda temporary, metadata=metadata: figure.savefig(temporary, metadata=metadata))  # type: ignore[misc]
    return path
