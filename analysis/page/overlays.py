"""Attention overlays of the page: attention files -> for chosen heads and samples, small coloured maps to lay over the picture.

Attention is in multiples of an even share, on one colour scale for all heads of a study.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from PIL import Image

from analysis.functions.scores import INSIDE, mean_map, normalized
from analysis.page.encoding import Pictures, png
from analysis.store.folder import DAMAGED, damaged

COLOURS = "viridis"
GALLERY = 8  # samples shown for every head
BLOCK = 256e6  # bytes of attention read at a time, where the file's chunks allow it


@dataclass
class Seen:
    """One sample: the picture as the model saw it, the patches of the object, and attention [patch] of the mean head and of heads."""

    key: str
    picture: Image.Image
    object: np.ndarray
    at: tuple[np.ndarray, np.ndarray]
    mean: np.ndarray
    maps: dict[int, np.ndarray]


def first_of_each(categories: list[str], most: int = GALLERY) -> list[int]:
    """Positions of the first sample of each category, then the second of each, until there are `most`."""
    turns = [(categories[:position].count(category), position) for position, category in enumerate(categories)]
    return [position for _, position in sorted(turns)[:most]]


def look(path: Path, dataset: str, heads: list[int], extremes: Mapping[int, set[str]]) -> tuple[list[Seen], list[str]]:
    """The maps of `heads` on the gallery's samples, and of each head on its own extreme samples; and the keys of the gallery.

    Samples are read in blocks, so that memory stays bounded. A key is "<dataset>/<sample>".

    Raises
    ------
    ResultsError
        When the file is damaged.
    """
    try:
        with xr.open_dataset(path, engine="netcdf4") as attention:
            if "image" not in attention:
                return [], []
            samples = attention["sample"].values.astype(str).tolist()
            gallery = first_of_each(attention["category"].values.astype(str).tolist())
            wanted = {row: set(heads) for row in gallery}
            for row, sample in enumerate(samples):
                if of := {head for head, ids in extremes.items() if sample in ids}:
                    wanted[row] = wanted.get(row, set()) | of
            seen = [_seen(one, f"{dataset}/{samples[row]}", wanted[row]) for row, one in _rows(attention, sorted(wanted))]
            return seen, [f"{dataset}/{samples[row]}" for row in gallery]
    except DAMAGED as error:
        raise damaged(path) from error


def _rows(attention: xr.Dataset, rows: list[int]) -> Iterator[tuple[int, xr.Dataset]]:
    values = attention["attention"]
    of_sample = values[0].size * values.dtype.itemsize
    block = max((values.encoding.get("chunksizes") or (1,))[0], int(BLOCK // max(of_sample, 1)), 1)
    for start in range(0, len(attention["sample"]), block):
        here = [row for row in rows if start <= row < start + block]
        if here:
            loaded = attention.isel(sample=slice(start, start + block)).load()
            yield from ((row, loaded.isel(sample=row - start)) for row in here)


def _seen(one: xr.Dataset, key: str, heads: set[int]) -> Seen:
    maps = normalized(one["attention"].transpose("layer", "head", "patch").values)
    patches, flat = maps.shape[-1], maps.reshape(-1, maps.shape[-1])
    return Seen(
        key,
        Image.fromarray(one["image"].transpose("y", "x", "rgb").values),
        one["object_share"].values >= INSIDE,
        (one["patch_row"].values.astype(int), one["patch_col"].values.astype(int)),
        patches * mean_map(maps),
        {head: patches * flat[head] for head in sorted(heads)},
    )


def content(seen: list[Seen], gallery: list[str], pictures: Pictures) -> dict[str, Any] | None:
    """For the page: the end of the colour scale, each sample's picture, outline and mean map, and the maps of each head."""
    shown = [values for one in seen for values in (one.mean, *one.maps.values())]
    finite = np.concatenate([values[np.isfinite(values)] for values in shown]) if shown else np.empty(0)
    if not finite.size:
        return None
    limit = float(f"{max(np.quantile(finite, 0.98), 2):.2g}")
    maps: dict[int, dict[str, str]] = {}
    for one in seen:
        for head, values in one.maps.items():
            maps.setdefault(head, {})[one.key] = _coloured(one, values, limit)
    samples = {
        one.key: {"picture": pictures.add(one.picture), "mean": _coloured(one, one.mean, limit)} | _outline(one.object, one.at)
        for one in seen
    }
    return {"limit": limit, "gallery": gallery, "samples": samples, "maps": maps, "colours": _scale()}


def _grid(values: np.ndarray, at: tuple[np.ndarray, np.ndarray], empty: float) -> np.ndarray:
    grid = np.full((at[0].max() + 1, at[1].max() + 1), empty)
    grid[at] = values
    return grid


def _coloured(one: Seen, values: np.ndarray, limit: float) -> str:
    """More opaque where there is more attention; transparent where there is no value."""
    grid = _grid(values, one.at, np.nan)
    share = np.round(np.clip(np.nan_to_num(grid) / limit, 0, 1) * 31) / 31
    colours = matplotlib.colormaps[COLOURS](share)
    colours[..., 3] = np.where(np.isfinite(grid), 0.1 + 0.75 * share, 0)
    return png(np.round(colours * 255).astype("uint8"))


def _scale() -> list[str]:
    return [matplotlib.colors.to_hex(matplotlib.colormaps[COLOURS](share)) for share in np.linspace(0, 1, 6)]


def _outline(inside: np.ndarray, at: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """The edges of the patches of the object as an SVG path, in units of patches; "" without a mask."""
    grid = np.pad(_grid(inside, at, 0) > 0, 1)
    across = [f"M{column - 1} {row}h1" for row, column in np.argwhere(grid[1:] != grid[:-1])]
    down = [f"M{column} {row - 1}v1" for row, column in np.argwhere(grid[:, 1:] != grid[:, :-1])]
    return {"outline": "".join(across + down), "size": [grid.shape[1] - 2, grid.shape[0] - 2]}
