"""Attribution patching: the effects of patching every head, estimated from one gradient, beside the exact effects of the largest ones."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from interventions.engine.capture import Example, capture
from interventions.engine.gradients import attribution, integrated_attribution, of_cells
from interventions.engine.oracle.attribution import verify_attributions
from interventions.engine.oracle.patching import verify_patches
from interventions.engine.pairs import PreparedPair
from interventions.engine.plan import layers_without, patches
from interventions.engine.sweep import sweep
from interventions.methods.options import AttributionPatching, Exact
from interventions.methods.patching import head_target
from interventions.methods.per_sample import each_sample
from interventions.models.vlm import Vlm
from interventions.results import effects
from interventions.results.assembling import assemble, clean_first, stacked, token_coordinates
from interventions.results.estimates import ESTIMATES, NOT_COMPARED, compare_estimates
from interventions.results.roles import EVERY, Cell
from interventions.results.store import Arrays, Store
from interventions.study.options import check_bounds
from interventions.study.study import Study

EXACT_SAMPLES = 3


def write(study: Study, options: AttributionPatching) -> Path:
    """See `interventions.attribution_patching`."""
    check_bounds(options)
    architecture, corruption = study.vlm.architecture, study.options.corruption
    target = head_target(study, options)
    exact_samples = options.exact_samples
    if exact_samples is None:
        exact_samples = 0 if target.tokens == (EVERY,) else EXACT_SAMPLES
    if options.exact != "top":
        exact_samples = 0
    if target.component not in architecture.attention:
        raise ValueError(f"{target.component!r} of {architecture.name} has no heads; choose from {', '.join(architecture.attention)}")
    wanted = replace(options, component=target.component, tokens=target.tokens, exact_samples=exact_samples)
    configuration = study.configuration(corruption, **asdict(wanted))
    path = study.folder / study.label(corruption) / f"{wanted.component}-attribution.nc"
    store = Store(path, configuration, study.options.overwrite)
    if not store.is_finished:
        first = study.pairs(corruption, [path]).pairs[: wanted.exact_samples]
        whole = frozenset(pair.sample_id for pair in first)
        pairs, parts = each_sample(study, store, partial(_of_pair, wanted=wanted, whole=whole))
        store.finish(_assemble(study, pairs, parts, wanted), effects.write)
    return path


def _of_pair(study: Study, pair: PreparedPair, check: bool, wanted: AttributionPatching, whole: frozenset[str]) -> Arrays:
    """The arrays of each draw of the noise, or of the one corrupt run; all cells are exact in the samples of `whole`."""
    wanted = replace(wanted, exact="all") if pair.sample_id in whole else wanted
    cells = pair.cells(wanted.tokens)
    divergence = study.options.divergence
    examples = study.examples(pair, study.options.corruption)
    draws = [study.vlm.run(_of_example, ours, cells, wanted, check, divergence) for ours in examples]
    arrays = {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}
    return arrays | {"runs": clean_first(arrays["runs"], study.base)}


def _of_example(
    vlm: Vlm, ours: Example, cells: Sequence[Cell], wanted: AttributionPatching, check: bool, divergence: bool = False
) -> Arrays:
    """The estimates of each cell, the measurements of those that are patched, and of the two runs."""
    ours = ours.on(vlm)
    captured = capture(vlm, [ours], (wanted.component,), divergence)
    estimates = {"attribution": attribution(vlm, captured, wanted.component)}
    if wanted.steps:
        estimates["integrated_attribution"] = integrated_attribution(vlm, captured, wanted.component, wanted.steps)
    if check:
        for name, values in estimates.items():
            verify_attributions(vlm, ours, wanted.component, values, steps=0 if name == "attribution" else wanted.steps)
    of_cell = {name: of_cells(values, [cell.positions for cell in cells]).cpu().numpy() for name, values in estimates.items()}
    estimate = of_cell["attribution"]
    chosen = chosen_cells(estimate, wanted.exact, wanted.top)
    patched = np.full((estimate.size, captured.measured.shape[-1]), np.nan, np.float32)
    if len(chosen):
        every = patches(wanted.component, vlm.n_layers, vlm.n_heads, cells)
        largest = [every[number] for number in chosen]
        (measured,) = sweep(vlm, captured, [largest])
        if check:
            verify_patches(vlm, ours, largest, measured)
        patched[chosen] = measured.cpu().numpy()
    return {**of_cell, "patched": patched.reshape(*estimate.shape, -1), "runs": captured.measured[0].cpu().numpy()}


def chosen_cells(estimate: Float[np.ndarray, "layer head cell"], exact: Exact, top: int) -> Int[np.ndarray, " chosen"]:
    """The cells that are patched exactly, by their number in the flattened array: the largest |estimates| first, or all in their order."""
    if exact == "all":
        return np.arange(estimate.size)
    return np.argsort(-abs(estimate), axis=None, kind="stable")[: top if exact == "top" else 0]


def _assemble(study: Study, pairs: Sequence[PreparedPair], parts: Sequence[Arrays], wanted: AttributionPatching) -> xr.Dataset:
    vlm, cells = study.vlm, [pair.cells(wanted.tokens) for pair in pairs]
    estimates = [name for name in ESTIMATES if name in parts[0]]
    whole = stacked(parts, len(parts), max(map(len, cells)), dict.fromkeys(["patched", *estimates], 3))
    for name in ["patched", *estimates]:
        whole[name][:, :, layers_without(vlm, wanted.component)] = np.nan
    dims = ("sample", "draw", "layer", "head", "token")
    title = f"Effects of patching {wanted.component} heads, estimated by gradients"
    attributes = study.patching_attributes(title, wanted.component, study.options.corruption) | {"granularity": "heads", "window": 1}
    return assemble(
        attributes | {name: getattr(wanted, name) for name in ("steps", "exact", "exact_samples", "top")},
        [pair.coordinates() for pair in pairs],
        {"layer": np.arange(vlm.n_layers), "head": np.arange(vlm.n_heads), **token_coordinates(cells, wanted.tokens)},
        {name: (dims, whole[name]) for name in estimates},
        (dims, whole["patched"]),
        whole["runs"],
    )


def summary(path: Path, options: AttributionPatching) -> str:
    """How well the estimates and the exact effects of a file agree, as a table."""
    rows = compare_estimates(effects.read(path), options.top)
    return rows.to_string(float_format="%.3f") if len(rows) else NOT_COMPARED
