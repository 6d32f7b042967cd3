"""The dataset of every method's file: common coordinates and attributes, the measured variables, and the baselines.

In: what was measured of each sample, as plain arrays. Out: one `xarray.Dataset`. No torch is needed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from interventions.results import effects
from interventions.results.roles import EVERY, Cell
from interventions.results.store import Arrays

CLEAN, CORRUPT = 0, 1  # the order in which the measurements of a sample's two runs are stored, whatever the direction
ATTRIBUTES = (  # of every file
    *("title", "model", "model_revision", "dataset", "dataset_fingerprint", "component", "main_token", "definition", "dtype", "device"),
    *("seed", "architecture", "library_versions", "python_version", "created"),
)
TEXTS = ("category", "correct_answer", "incorrect_answer", "clean_prompt", "corrupt_prompt", "given_answer")
Variable = tuple[tuple[str, ...], np.ndarray]


def assemble(
    attributes: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
    coordinates: Mapping[str, Any],
    variables: Mapping[str, Variable],
    measured: Variable | None = None,
    runs: np.ndarray | None = None,
) -> xr.Dataset:
    """The dataset of one file.

    Parameters
    ----------
    attributes : those of `ATTRIBUTES`, and the method's others. With a `granularity` of heads or module the dataset is one of effects, and
        is validated
    samples : of each sample its id, category, answers, order of the options, prompts and the part of the answer that is given
    coordinates, variables : the method's own
    measured : dims and values of the measured variables, the last axis of the values being the measurement
    runs : measurements of the clean run and of the corrupt run [sample, (draw,) run, measurement], or of the clean run alone

    Returns
    -------
    The dataset. The dimension `draw` is dropped where there is one draw.

    Raises
    ------
    ValueError
        When an attribute of `ATTRIBUTES` is missing.
    """
    if missing := [name for name in ATTRIBUTES if name not in attributes]:
        raise ValueError(f"a results file needs the attributes {', '.join(missing)}")
    every: dict[str, Variable] = dict(variables)
    if measured is not None:
        every |= _by_name("", *measured)
    if runs is not None:
        every |= _baselines(runs)
    dataset = xr.Dataset(every, {**sample_coordinates(samples), **coordinates}, dict(attributes))
    if "draw" in dataset.dims:
        one = dataset.sizes["draw"] == 1
        dataset = dataset.isel(draw=0, drop=True) if one else dataset.assign_coords(draw=np.arange(dataset.sizes["draw"]))
    for variable in map(str, dataset.variables):
        if variable in effects.DESCRIPTIONS:
            dataset[variable].attrs["long_name"] = effects.DESCRIPTIONS[variable]
    return effects.validate(dataset) if attributes.get("granularity") in ("heads", "module") else dataset


def _by_name(prefix: str, dims: tuple[str, ...], values: np.ndarray) -> dict[str, Variable]:
    """One variable a measurement: three, or four where the divergence was measured."""
    return {f"{prefix}{name}": (dims, values[..., number]) for number, name in enumerate(effects.MEASURED[: values.shape[-1]])}


def _baselines(runs: np.ndarray) -> dict[str, Variable]:
    """`clean_*` and `corrupt_*`. The clean run is the same in every draw."""
    draws = ("draw",) if runs.ndim == 4 else ()
    clean = runs[:, 0, CLEAN] if draws else runs[:, CLEAN]
    baselines = _by_name("clean_", ("sample",), clean)
    if runs.shape[-2] > 1:
        baselines |= _by_name("corrupt_", ("sample", *draws), runs[..., CORRUPT, :])
    return baselines


def sample_coordinates(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The coordinates on `sample` that all files have."""
    return {
        "sample": np.array([sample["sample_id"] for sample in samples], object),
        "correct_first": ("sample", np.array([sample["correct_first"] for sample in samples])),
        **{name: ("sample", np.array([sample[name] for sample in samples], object)) for name in TEXTS},
    }


def clean_first(runs: np.ndarray, base: str) -> np.ndarray:
    """Measurements of the source run and the base run [..., run, measurement], in the order in which files keep them: clean, corrupt."""
    return runs[..., ::-1, :] if base == "clean" else runs


def token_coordinates(cells: Sequence[Sequence[Cell]], tokens: Sequence[str]) -> dict[str, Any]:
    """The coordinates on `token` of cells: numbers for `every` token, else roles; role and text of each sample's, "" past its end."""
    longest = max(map(len, cells))

    def texts(name: str) -> np.ndarray:
        return np.array([[getattr(cell, name) for cell in row] + [""] * (longest - len(row)) for row in cells], object)

    return {
        "token": np.arange(longest) if list(tokens) == [EVERY] else np.array(tokens, object),
        "token_role": (("sample", "token"), texts("role")),
        "token_text": (("sample", "token"), texts("text")),
    }


def stacked(parts: Iterable[Arrays], count: int, longest: int = 0, cell_axis: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """The arrays of all samples by name, [sample, ...]. The parts are read one after the other.

    Parameters
    ----------
    count : how many parts there are
    longest : cells of the sample that has most
    cell_axis : of each array that has cells, their axis in a sample's array; past a sample's last cell there is NaN
    """
    whole: dict[str, np.ndarray] = {}
    for row, part in enumerate(parts):
        for name, values in part.items():
            axis = (cell_axis or {}).get(name)
            if name not in whole:
                shape = values.shape if axis is None else (*values.shape[:axis], longest, *values.shape[axis + 1 :])
                whole[name] = np.full((count, *shape), 0 if axis is None else np.nan, values.dtype)
            index: Any = (row,) if axis is None else (row, *[slice(None)] * axis, slice(values.shape[axis]))
            whole[name][index] = values
    return whole
