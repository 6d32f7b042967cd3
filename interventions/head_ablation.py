"""Head ablation: sets of heads are knocked out of the clean run, or kept alone, as the sets grow in order of importance.

The z of a head is replaced at every token of the prompt. Ranked sets stand beside random sets of the same size with as many heads in
each layer: only where they differ do these heads matter more than others.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import tyro
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from corruptions.base import Pair
from interventions.engine.ablation import run_ablated
from interventions.engine.capture import CLEAN, CORRUPT, capture
from interventions.engine.oracle.ablation import verify_ablations
from interventions.models.vlm import Vlm
from interventions.results import effects
from interventions.results.faithfulness import OPERATIONS, RANKED, table
from interventions.results.store import Arrays, Store
from interventions.study.command import reporting_errors
from interventions.study.per_sample import attributes, each_sample, sample_coordinates
from interventions.study.ranking import Heads, all_heads, check_sizes, growing_sizes, made_of, random_order, ranked_heads
from interventions.study.replacements import REPLACEMENTS, Material, Replacement, Sources, usual_replacements
from interventions.study.study import Options, Study, prepare

NO_TOKEN = -1  # where nothing was run


@dataclass
class HeadAblation(Options):
    """Knock out heads of the clean run, or keep them alone, in order of importance and beside random sets, and write what is left.

    Example: python -m interventions.head_ablation --model llava-shapes --samples 20 --replacements mean zero
    """

    component: str | None = None
    """Attention component. Default: the paper's (BLIP cross_attention, causal decoders self_attention)."""
    ranking: Path | None = None
    """Effects of head patching (.nc), whose mean |logit difference| ranks the heads, or a table (.csv) with columns layer and head, the
    most important first. Default: <component>-heads.nc of this results folder, model, data set and corruption."""
    token: str | None = None
    """Token role of the effects that rank the heads. Default: the paper's (BLIP correct, causal decoders last)."""
    sizes: tuple[int, ...] = ()
    """Sizes of the sets. Default: 0, 1, 2, 4, ... and all that are ranked."""
    random_sets: int = 5
    """Random sets of each size, drawn by the seed."""
    replacements: tuple[Replacement, ...] = ()
    """What replaces z: mean (over the other samples' clean runs at the same place), zero, resample (another sample's clean run of the same
    length), corrupt (the sample's own corrupt run). Default: mean; on a remote host, which z does not leave, the other three."""


def ablate_heads(
    study: Study,
    component: str | None = None,
    ranking: Path | None = None,
    token: str | None = None,
    sizes: Sequence[int] = (),
    random_sets: int = 5,
    replacements: Sequence[Replacement] = (),
) -> Path:
    """Write `<out>/<model>/<dataset>/<corruption>/<component>-ablation.nc`.

    Variables, of the dims sample, replacement, operation (knock_out: the set is replaced; keep_only: all other heads are), set ("ranked",
    "random 1", ...) and heads (their number): logit_correct, logit_incorrect, log_normalizer, kl_from_clean (with the option
    `divergence`), and top_token, the token with the largest logit; NaN and -1 where nothing was run: `resample` of a sample whose length
    no other has. Baselines clean_* and corrupt_*; on sample, correct_token and incorrect_token, by which the answers are scored.
    ranked_layer (rank) and ranked_head (set, rank): a set of n heads is the first n. `results.faithfulness` has the metrics, and
    `ds.effects` gives differences to the clean run. Where the corruption is noise, `corrupt` is its first draw.

    Raises
    ------
    ValueError
        Unknown component; a ranking or sizes that cannot be used; the noising direction, which has no meaning here.
    """
    vlm, corruption = study.vlm, study.options.corruption
    component = component or vlm.architecture.head_component
    if component not in vlm.architecture.attention:
        raise ValueError(f"{component!r} of {vlm.architecture.name} has no heads; choose from {', '.join(vlm.architecture.attention)}")
    if study.options.direction == "noising":
        raise ValueError("heads are ablated in the clean run, whatever the direction of patching: leave out --direction noising")
    if random_sets < 0:
        raise ValueError(f"--random-sets cannot be {random_sets}")
    ranking = ranking or _default_ranking(study, component)
    ranked = ranked_heads(ranking, vlm, component, token or vlm.architecture.main_token, made_of(study))
    replacements = tuple(replacements) or usual_replacements(study)
    sizes = tuple(sizes) or growing_sizes(len(ranked))
    check_sizes(sizes, len(ranked))
    heads = all_heads(vlm, component)
    orders = {RANKED: ranked} | {f"random {n + 1}": random_order(ranked, heads, study.options.seed, n) for n in range(random_sets)}
    configuration = study.configuration(
        corruption,
        component=component,
        ranking=hashlib.sha256(json.dumps(ranked).encode()).hexdigest()[:12],
        sizes=list(sizes),
        random_sets=random_sets,
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
        there = torch.zeros(vlm.n_layers, vlm.n_heads, dtype=torch.bool)
        for layer, head in all_heads(vlm, component):
            there[layer, head] = True
        for row, order in enumerate(self.orders.values()):
            for column, size in enumerate(self.sizes):
                for layer, head in order[:size]:
                    chosen[row, column, layer, head] = True
        return torch.stack([chosen, there & ~chosen])


def _ablate_and_write(study: Study, store: Store, component: str, sets: Sets, replacements: Sequence[Replacement]) -> None:
    vlm = study.vlm
    pairs, _ = study.pairs_for([store.path], study.options.corruption)
    sources = Sources(study, component, pairs, replacements)
    masks = sets.ablated(vlm, component)
    different, which = masks.flatten(0, 2).unique(dim=0, return_inverse=True)  # sets of no and of all heads are the same in every order
    which = which.unflatten(0, masks.shape[:3]).numpy()
    compute = partial(_measure, sources=sources, component=component, different=different, which=which, replacements=replacements)
    reason = "resample was not run: no other sample's prompt has as many tokens"
    not_done = [{"sample": sample_id, "reason": reason} for sample_id in sources.lonely]
    pairs, parts = each_sample(study, store, study.options.corruption, compute, not_done)
    store.finish(_assemble(study, pairs, parts, component, sets, replacements), effects.write)


def _measure(
    study: Study,
    pair: Pair,
    check: bool,
    sources: Sources,
    component: str,
    different: Bool[Tensor, "different layer head"],
    which: Int[np.ndarray, "operation set size"],
    replacements: Sequence[Replacement],
) -> Arrays:
    """The runs of a pair without the sets of heads, each of which is one of the `different` ones."""
    found, runs = study.vlm.run(_without, sources.of(study, pair), component, different, check, study.options.divergence)
    measured = np.full((len(replacements), *which.shape, runs.shape[-1]), np.nan, np.float32)
    top = np.full((len(replacements), *which.shape), NO_TOKEN, np.int32)
    for row, replacement in enumerate(replacements):
        if replacement in found:
            measured[row], top[row] = (values[which] for values in found[replacement])
    scored = study.scored(pair)
    return {"measured": measured, "top": top, "runs": runs, "scored": np.array([scored.correct, scored.incorrect])}


def _without(
    vlm: Vlm, material: Material, component: str, different: Bool[Tensor, "different layer head"], check: bool, divergence: bool
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """By each replacement, the measurements of a pair's runs without some heads and the tokens with the largest logit, and the measurements
    of its clean and its corrupt run; where the weights are (see `Vlm.run`)."""
    examples = [example.on(vlm) for example in material.examples]
    captured = capture(vlm, examples, (component,), divergence)
    found = {}
    for replacement, values in material.put_in(captured, component).items():
        numbers, tokens = run_ablated(vlm, captured, component, different, values)
        if check:
            verify_ablations(vlm, examples[0], component, different, values, numbers)
        found[replacement] = numbers.cpu().numpy(), tokens.cpu().numpy()
    return found, captured.measured[0].flip(0).cpu().numpy()


def _assemble(
    study: Study,
    pairs: Sequence[Pair],
    parts: Sequence[Arrays],
    component: str,
    sets: Sets,
    replacements: Sequence[Replacement],
) -> xr.Dataset:
    dims = ("sample", "replacement", "operation", "set", "heads")
    measured, runs, scored = (np.stack([part[name] for part in parts]) for name in ("measured", "runs", "scored"))
    names = effects.MEASURED[: runs.shape[-1]]
    variables: dict[str, Any] = {name: (dims, measured[..., number]) for number, name in enumerate(names)}
    variables["top_token"] = (dims, np.stack([part["top"] for part in parts]))
    for run, label in ((CLEAN, "clean"), (CORRUPT, "corrupt")):
        variables |= {f"{label}_{name}": (("sample",), runs[:, run, number]) for number, name in enumerate(names)}
    coordinates = {
        **sample_coordinates(study, pairs),
        "correct_token": ("sample", scored[:, 0]),
        "incorrect_token": ("sample", scored[:, 1]),
        "replacement": np.array(replacements, object),
        "operation": np.array(OPERATIONS, object),
        "set": np.array(list(sets.orders), object),
        "heads": np.array(sets.sizes),
        "ranked_layer": ("rank", np.array([layer for layer, _ in sets.orders[RANKED]])),
        "ranked_head": (("set", "rank"), np.array([[head for _, head in order] for order in sets.orders.values()])),
    }
    title = f"What is left of the answer as {component} heads are knocked out of the clean run, or kept alone"
    replaced = "; ".join(f"{replacement}: {REPLACEMENTS[replacement]}" for replacement in replacements)
    attrs = attributes(study, title, component, study.options.corruption) | {"replaced_by": replaced, "ranked_by": sets.ranked_by}
    attrs |= {"direction": "noising"}  # so that differences are to the clean run
    if "noise_draws" in attrs:
        attrs["noise_draws"] = 1  # the first alone
    return xr.Dataset(variables, coordinates, attrs)


def main() -> None:
    options = tyro.cli(HeadAblation)
    with reporting_errors():
        path = ablate_heads(
            prepare(options),
            options.component,
            options.ranking,
            options.token,
            options.sizes,
            options.random_sets,
            options.replacements,
        )
        with xr.open_dataset(path) as dataset:
            print(table(dataset).to_string(float_format="%.3f"))
        print(path)


if __name__ == "__main__":
    from interventions.head_ablation import main as by_name  # where other processes find what is measured

    by_name()
