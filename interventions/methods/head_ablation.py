"""Head ablation: sets of heads are knocked out of the clean run, or kept alone, as the sets grow in order of importance.

The z of a head is replaced at every token of the prompt. Ranked sets stand beside random sets of the same size with as many heads in
each layer: only where they differ do these heads matter more than others.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from interventions.engine.ablation import run_ablated
from interventions.engine.capture import capture
from interventions.engine.oracle.ablation import verify_ablations
from interventions.engine.pairs import PreparedPair
from interventions.engine.plan import Heads, all_heads
from interventions.methods.options import HeadAblation, Replacement
from interventions.methods.per_sample import each_sample
from interventions.methods.ranking import check_sizes, growing_sizes, made_of, random_order, ranked_heads
from interventions.methods.replacements import REPLACEMENTS, Material, Sources, usual_replacements
from interventions.models.vlm import Vlm
from interventions.results import effects
from interventions.results.assembling import assemble, clean_first, stacked
from interventions.results.faithfulness import OPERATIONS, RANKED, table
from interventions.results.store import Arrays, Store
from interventions.study.options import check_bounds
from interventions.study.study import Study

NO_TOKEN = -1  # where nothing was run


def write(study: Study, options: HeadAblation) -> Path:
    """See `interventions.head_ablation`."""
    check_bounds(options)
    vlm, corruption = study.vlm, study.options.corruption
    component = options.component or vlm.architecture.head_component
    if component not in vlm.architecture.attention:
        raise ValueError(f"{component!r} of {vlm.architecture.name} has no heads; choose from {', '.join(vlm.architecture.attention)}")
    if study.options.direction == "noising":
        raise ValueError("heads are ablated in the clean run, whatever the direction of patching: leave out --direction noising")
    ranking = options.ranking or _default_ranking(study, component)
    ranked = ranked_heads(ranking, vlm, component, options.token or vlm.architecture.main_token, made_of(study))
    replacements = options.replacements or usual_replacements(study)
    sizes = options.sizes or growing_sizes(len(ranked))
    check_sizes(sizes, len(ranked))
    heads, seed = all_heads(vlm, component), study.options.seed
    orders = {RANKED: ranked} | {f"random {n + 1}": random_order(ranked, heads, seed, n) for n in range(options.random_sets)}
    configuration = study.configuration(
        corruption,
        component=component,
        ranking=hashlib.sha256(json.dumps(ranked).encode()).hexdigest()[:12],
        sizes=list(sizes),
        random_sets=options.random_sets,
        replacements=list(replacements),
    )
    store = Store(study.folder / corruption / f"{component}-ablation.nc", configuration, study.options.overwrite)
    if not store.is_finished:
        _ablate_and_write(study, store, component, Sets(orders, sizes, ranking.name), replacements)
    return store.path


def _default_ranking(study: Study, component: str) -> Path:
    path = study.folder / study.options.corruption / f"{component}-heads.nc"
    if not path.is_file():
        raise FileNotFoundError(
            f"no ranking of heads at {path}: make it with `python -m interventions.head_patching` and the same options, or name one with "
            "--ranking"
        )
    return path


@dataclass(frozen=True)
class Sets:
    """Growing sets of heads: of each order, the first of each number.

    Attributes
    ----------
    ranked_by : the file that the ranked order is of
    """

    orders: dict[str, Heads]
    sizes: tuple[int, ...]
    ranked_by: str

    def ablated(self, vlm: Vlm, component: str) -> Bool[Tensor, "operation set size layer head"]:
        """Which heads are replaced, for each of `OPERATIONS`."""
        chosen = torch.zeros(len(self.orders), len(self.sizes), vlm.n_layers, vlm.n_heads, dtype=torch.bool)
        existing = torch.zeros(vlm.n_layers, vlm.n_heads, dtype=torch.bool)
        for layer, head in all_heads(vlm, component):
            existing[layer, head] = True
        for row, order in enumerate(self.orders.values()):
            for column, size in enumerate(self.sizes):
                for layer, head in order[:size]:
                    chosen[row, column, layer, head] = True
        return torch.stack([chosen, existing & ~chosen])


def _ablate_and_write(study: Study, store: Store, component: str, sets: Sets, replacements: Sequence[Replacement]) -> None:
    vlm = study.vlm
    pairs, _ = study.pairs(study.options.corruption, [store.path])
    sources = Sources(study, component, pairs, replacements)
    masks = sets.ablated(vlm, component)
    different, which = masks.flatten(0, 2).unique(dim=0, return_inverse=True)  # sets of no and of all heads are the same in every order
    which = which.unflatten(0, masks.shape[:3]).numpy()
    compute = partial(_measure, sources=sources, component=component, different=different, which=which, replacements=replacements)
    reason = "resample was not run: no other sample's prompt has as many tokens"
    not_done = [{"sample": sample_id, "reason": reason} for sample_id in sources.lonely]
    pairs, parts = each_sample(study, store, compute, not_done)
    store.finish(_assemble(study, pairs, parts, component, sets, replacements), effects.write)


def _measure(
    study: Study,
    pair: PreparedPair,
    check: bool,
    sources: Sources,
    component: str,
    different: Bool[Tensor, "different layer head"],
    which: Int[np.ndarray, "operation set size"],
    replacements: Sequence[Replacement],
) -> Arrays:
    """The runs of a pair without the sets of heads, each of which is one of the `different` ones."""
    by_replacement, runs = study.vlm.run(_without, sources.of(study, pair), component, different, check, study.options.divergence)
    measured = np.full((len(replacements), *which.shape, runs.shape[-1]), np.nan, np.float32)
    top = np.full((len(replacements), *which.shape), NO_TOKEN, np.int32)
    for row, replacement in enumerate(replacements):
        if replacement in by_replacement:
            measured[row], top[row] = (values[which] for values in by_replacement[replacement])
    return {"measured": measured, "top": top, "runs": runs, "scored": np.array([pair.scored.correct, pair.scored.incorrect])}


def _without(
    vlm: Vlm, material: Material, component: str, different: Bool[Tensor, "different layer head"], check: bool, divergence: bool
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """By each replacement, the measurements of a pair's runs without some heads and the tokens with the largest logit, and the measurements
    of its clean and its corrupt run; where the weights are (see `Vlm.run`)."""
    examples = [example.on(vlm) for example in material.examples]
    captured = capture(vlm, examples, (component,), divergence)
    by_replacement = {}
    for replacement, values in material.put_in(captured, component).items():
        numbers, tokens = run_ablated(vlm, captured, component, different, values)
        if check:
            verify_ablations(vlm, examples[0], component, different, values, numbers)
        by_replacement[replacement] = numbers.cpu().numpy(), tokens.cpu().numpy()
    return by_replacement, clean_first(captured.measured[0].cpu().numpy(), base="clean")


def _assemble(
    study: Study,
    pairs: Sequence[PreparedPair],
    parts: Sequence[Arrays],
    component: str,
    sets: Sets,
    replacements: Sequence[Replacement],
) -> xr.Dataset:
    whole = stacked(parts, len(parts))
    dims = ("sample", "replacement", "operation", "set", "heads")
    coordinates = {
        "correct_token": ("sample", whole["scored"][:, 0]),
        "incorrect_token": ("sample", whole["scored"][:, 1]),
        "replacement": np.array(replacements, object),
        "operation": np.array(OPERATIONS, object),
        "set": np.array(list(sets.orders), object),
        "heads": np.array(sets.sizes),
        "ranked_layer": ("rank", np.array([layer for layer, _ in sets.orders[RANKED]])),
        "ranked_head": (("set", "rank"), np.array([[head for _, head in order] for order in sets.orders.values()])),
    }
    title = f"What is left of the answer as {component} heads are knocked out of the clean run, or kept alone"
    replaced = "; ".join(f"{replacement}: {REPLACEMENTS[replacement]}" for replacement in replacements)
    attributes = study.attributes(title, component, study.options.corruption) | {"replaced_by": replaced, "ranked_by": sets.ranked_by}
    attributes |= {"direction": "noising"}  # so that differences are to the clean run
    if "noise_draws" in attributes:
        attributes["noise_draws"] = 1  # the first alone
    return assemble(
        attributes,
        [pair.coordinates() for pair in pairs],
        coordinates,
        {"top_token": (dims, whole["top"])},
        (dims, whole["measured"]),
        whole["runs"],
    )


def summary(path: Path) -> str:
    """What is left of the answer, as a table."""
    with xr.open_dataset(path) as dataset:
        return table(dataset).to_string(float_format="%.3f")
