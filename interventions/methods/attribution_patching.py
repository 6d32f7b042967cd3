"""Attribution patching: the effects of patching every head, estimated from one gradient, beside the exact effects of the largest ones."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from corruptions.base import Pair
from interventions.engine.capture import CLEAN, CORRUPT, Example, capture
from interventions.engine.gradients import attribution, integrated_attribution, of_cells
from interventions.engine.oracle.patching import verify_patches
from interventions.engine.plan import patches
from interventions.engine.sweep import sweep
from interventions.methods.options import AttributionPatching, Exact
from interventions.methods.patching import head_target
from interventions.methods.per_sample import cells_of, each_sample, patching_attributes, sample_coordinates
from interventions.models.vlm import Vlm
from interventions.results import effects
from interventions.results.estimates import ESTIMATES, NOT_COMPARED, compare_estimates
from interventions.results.roles import EVERY, Cell
from interventions.results.store import Arrays, Store
from interventions.study.study import Study

EXACT_SAMPLES = 3


def write(study: Study, options: AttributionPatching) -> Path:
    """See `interventions.attribution_patching`."""
    architecture, corruption = study.vlm.architecture, study.options.corruption
    target = head_target(study, options)
    exact_samples = options.exact_samples
    if exact_samples is None:
        exact_samples = 0 if target.tokens == (EVERY,) else EXACT_SAMPLES
    if options.exact != "top":
        exact_samples = 0
    if target.component not in architecture.attention:
        raise ValueError(f"{target.component!r} of {architecture.name} has no heads; choose from {', '.join(architecture.attention)}")
    if options.steps < 0 or options.top < 1:
        raise ValueError(f"--steps must be at least 0 and --top at least 1, not {options.steps} and {options.top}")
    if exact_samples < 0:
        raise ValueError(f"--exact-samples must be at least 0, not {exact_samples}")
    wanted = replace(options, component=target.component, tokens=target.tokens, exact_samples=exact_samples)
    configuration = study.configuration(corruption, **asdict(wanted))
    path = study.folder / study.label(corruption) / f"{wanted.component}-attribution.nc"
    store = Store(path, configuration, study.options.overwrite)
    if not store.is_finished:
        first = study.pairs_for([path], corruption)[0][: wanted.exact_samples]
        whole = frozenset(pair.sample["sample_id"] for pair in first)
        pairs, parts = each_sample(study, store, corruption, partial(_of_pair, wanted=wanted, whole=whole))
        store.finish(_assemble(study, pairs, parts, wanted), effects.write)
    return path


def _of_pair(study: Study, pair: Pair, check: bool, wanted: AttributionPatching, whole: frozenset[str]) -> Arrays:
    """The arrays of each draw of the noise, or of the one corrupt run; all cells are exact in the samples of `whole`."""
    wanted = replace(wanted, exact="all") if pair.sample["sample_id"] in whole else wanted
    cells = cells_of(study, pair, wanted.tokens)
    divergence = study.options.divergence
    examples = study.examples(pair, study.options.corruption)
    draws = [study.vlm.run(_of_example, ours, cells, wanted, check, divergence) for ours in examples]
    runs = np.stack([draw["runs"] for draw in draws])
    exchanged = study.options.direction == "noising"
    return {name: np.stack([draw[name] for draw in draws]) for name in draws[0]} | {"runs": runs[:, ::-1] if exchanged else runs}


def _of_example(
    vlm: Vlm, ours: Example, cells: Sequence[Cell], wanted: AttributionPatching, check: bool, divergence: bool = False
) -> Arrays:
    """The estimates of each cell, the measurements of those that are patched, and of the two runs."""
    ours = ours.on(vlm)
    captured = capture(vlm, [ours], (wanted.component,), divergence)
    estimates = {"attribution": attribution(vlm, captured, wanted.component)}
    if wanted.steps:
        estimates["integrated_attribution"] = integrated_attribution(vlm, captured, wanted.component, wanted.steps)
    found = {name: of_cells(values, [cell.positions for cell in cells]).cpu().numpy() for name, values in estimates.items()}
    estimate = found["attribution"]
    chosen = chosen_cells(estimate, wanted.exact, wanted.top)
    patched = np.full((estimate.size, captured.measured.shape[-1]), np.nan, np.float32)
    if len(chosen):
        every = patches(wanted.component, vlm.n_layers, vlm.n_heads, cells)
        mine = [every[number] for number in chosen]
        (measured,) = sweep(vlm, captured, [mine])
        if check:
            verify_patches(vlm, ours, mine, measured)
        patched[chosen] = measured.cpu().numpy()
    return {**found, "patched": patched.reshape(*estimate.shape, -1), "runs": captured.measured[0].cpu().numpy()}


def chosen_cells(estimate: Float[np.ndarray, "layer head cell"], exact: Exact, top: int) -> Int[np.ndarray, " chosen"]:
    """The cells that are patched exactly, by their place in the flattened array: the largest |estimates| first, or all in their order."""
    if exact == "all":
        return np.arange(estimate.size)
    return np.argsort(-abs(estimate), axis=None, kind="stable")[: top if exact == "top" else 0]


def _assemble(study: Study, pairs: Sequence[Pair], parts: Sequence[Arrays], wanted: AttributionPatching) -> xr.Dataset:
    vlm, corruption = study.vlm, study.options.corruption
    every = [cells_of(study, pair, wanted.tokens) for pair in pairs]
    longest = max(map(len, every))
    dims = ("sample", "draw", "layer", "head", "token")

    def filled(name: str) -> np.ndarray:
        """[sample, draw, layer, head, token, ...], NaN past the end of shorter prompts and in layers without the component."""
        shape = parts[0][name].shape
        values = np.full((len(parts), *shape[:3], longest, *shape[4:]), np.nan, np.float32)
        for row, part in enumerate(parts):
            values[row, :, :, :, : part[name].shape[3]] = part[name]
        values[:, :, [layer for layer in range(vlm.n_layers) if wanted.component not in vlm.components_of(layer)]] = np.nan
        return values

    patched, runs = filled("patched"), np.stack([part["runs"] for part in parts])
    names = effects.MEASURED[: runs.shape[-1]]
    variables: dict[str, Any] = {name: (dims, patched[..., number]) for number, name in enumerate(names)}
    variables |= {name: (dims, filled(name)) for name in ESTIMATES if name in parts[0]}
    for number, name in enumerate(names):
        variables[f"clean_{name}"] = (("sample",), runs[:, 0, CLEAN, number])
        variables[f"corrupt_{name}"] = (("sample", "draw"), runs[:, :, CORRUPT, number])
    texts = {
        name: (
            ("sample", "token"),
            np.array([[getattr(cell, name) for cell in cells] + [""] * (longest - len(cells)) for cells in every], object),
        )
        for name in ("role", "text")
    }
    coordinates = {
        **sample_coordinates(study, pairs),
        "draw": np.arange(runs.shape[1]),
        "layer": np.arange(vlm.n_layers),
        "head": np.arange(vlm.n_heads),
        "token": np.arange(longest) if wanted.tokens == (EVERY,) else np.array(wanted.tokens, object),
        "token_role": texts["role"],
        "token_text": texts["text"],
    }
    dataset = xr.Dataset(variables, coordinates)
    if runs.shape[1] == 1:
        dataset = dataset.isel(draw=0, drop=True)
    title = f"Effects of patching {wanted.component} heads, estimated by gradients"
    dataset.attrs = patching_attributes(study, title, wanted.component, corruption) | {"granularity": "heads", "window": 1}
    dataset.attrs |= {"steps": wanted.steps, "exact": wanted.exact, "exact_samples": wanted.exact_samples, "top": wanted.top}
    return effects.validate(dataset)


def summary(path: Path, options: AttributionPatching) -> str:
    """How well the estimates and the exact effects of a file agree, as a table."""
    rows = compare_estimates(effects.read(path), options.top)
    return rows.to_string(float_format="%.3f") if len(rows) else NOT_COMPARED
