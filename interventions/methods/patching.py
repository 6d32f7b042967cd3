"""Activation patching over a study: capture and sweep its pairs, some at a time, keep them, and assemble the files of effects."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from time import perf_counter

import numpy as np
import xarray as xr

from interventions.backends.running import run_batches
from interventions.backends.work import Batch
from interventions.engine.budget import Plan, batches, plan, tokens_in_a_trace
from interventions.engine.measuring import measure_pairs
from interventions.engine.memory import peak_memory
from interventions.engine.pairs import PreparedPair
from interventions.engine.plan import Patch, layers_without, patches
from interventions.methods.options import AttributionPatching, HeadPatching, ModulePatching
from interventions.results import effects
from interventions.results.assembling import assemble, clean_first, stacked, token_coordinates
from interventions.results.manifest import note_finished, read_manifest, update_manifest
from interventions.results.roles import EVERY, Cell
from interventions.results.store import Arrays, Store
from interventions.study.study import Study


@dataclass(frozen=True)
class Target:
    """What is patched, into one file of effects.

    Attributes
    ----------
    component : see the architecture's `components`
    heads : patch each head's z by itself; else the whole module
    tokens : roles whose positions are patched together ("all": every position at once), or "every" alone: each token by itself
    window : layers around each that are patched together
    """

    component: str
    heads: bool
    tokens: tuple[str, ...] = (EVERY,)
    window: int = 1

    @property
    def name(self) -> str:
        return f"{self.component}{'-heads' if self.heads else ''}{f'-window{self.window}' if self.window > 1 else ''}"


def head_target(study: Study, options: HeadPatching | AttributionPatching) -> Target:
    """All heads of a component; by default the component and the tokens of the paper."""
    architecture = study.vlm.architecture
    return Target(
        options.component or architecture.head_component,
        heads=True,
        tokens=options.tokens or (("last", "correct") if architecture.causal else (architecture.main_token,)),
    )


def module_targets(study: Study, options: ModulePatching) -> list[Target]:
    """Some components as whole modules, by default all that the architecture has."""
    names = options.components
    components = () if "none" in names else study.vlm.architecture.components if "all" in names else names
    return [Target(component, False, options.tokens, options.window) for component in components]


def patch_study(study: Study, targets: Sequence[Target]) -> list[Path]:
    """Patch some targets in every pair of a study, and write their effects; a pair's states are captured once for all targets.

    Returns
    -------
    The files, `<out>/<model>/<dataset>/<corruption>[-noising]/<component>[-heads][-window<n>].nc`; one that is already made so is left
    as it is.

    Raises
    ------
    ValueError
        Unknown component or role, heads of a component that has none.
    StoreError
        A file holds results of another configuration, or cannot be written.
    LeftOut
        No sample is left; the manifest says so too.
    VerificationError
        The first samples, measured again the plain way, differ.
    """
    corruption = study.options.corruption
    for target in targets:
        _check(study, target)
    stores = {target: _store(study, target, corruption) for target in targets}
    wanted = {target: store for target, store in stores.items() if not store.is_finished}
    if wanted:
        _patch_and_write(study, corruption, wanted)
    return [store.path for store in stores.values()]


def _check(study: Study, target: Target) -> None:
    architecture = study.vlm.architecture
    architecture.port(target.component)
    if target.heads and target.component not in architecture.attention:
        choices = ", ".join(architecture.attention)
        raise ValueError(f"{target.component!r} of {architecture.name} has no heads; choose from {choices}")
    if not 1 <= target.window <= study.vlm.n_layers:
        raise ValueError(f"a window of {target.window} layers does not fit; {study.vlm.name} has {study.vlm.n_layers}")


def _store(study: Study, target: Target, corruption: str) -> Store:
    configuration = study.configuration(
        corruption,
        component=target.component,
        granularity="heads" if target.heads else "module",
        tokens=list(target.tokens),
        window=target.window,
    )
    return Store(study.folder / study.label(corruption) / f"{target.name}.nc", configuration, study.options.overwrite)


def _patch_and_write(study: Study, corruption: str, stores: dict[Target, Store]) -> None:
    vlm, started = study.vlm, perf_counter()
    pairs, left_out = study.pairs(corruption, [store.path for store in stores.values()])
    cells = {target: [pair.cells(target.tokens) for pair in pairs] for target in stores}
    chosen = _plan(study, corruption, pairs)
    by_name = {target.name: store for target, store in stores.items()}
    todo = _batches(study, [pair.sample_id for pair in pairs], by_name, chosen.samples)
    done = len(pairs) - sum(len(batch.samples) for batch in todo)
    run_batches(study, Patching(corruption, tuple(stores), chosen), todo, by_name, f"{vlm.name} {corruption} {', '.join(by_name)}", done)
    entry = {"samples": len(pairs), "seconds": round(perf_counter() - started, 1), "left_out": left_out}
    entry |= {"peak_memory_gib": round(peak_memory(vlm.device) / 2**30, 2), "samples_a_trace": chosen.samples}
    for target, store in stores.items():
        parts = (store.get(pair.sample_id) for pair in pairs)
        note_finished(study.options.out, store.path, entry)
        store.finish(_assemble(study, corruption, target, pairs, cells[target], parts), effects.write)


def _batches(study: Study, names: Sequence[str], stores: Mapping[str, Store], samples: int) -> list[Batch]:
    """The batches of which a file lacks a sample, with these files."""
    todo: list[Batch] = []
    computed = 0
    for numbers in batches(len(names), samples):
        together = tuple(names[number] for number in numbers)
        lacking = tuple(file for file, store in stores.items() if not all(map(store.has, together)))
        if lacking:
            checked = tuple(name for i, name in enumerate(together, computed) if _to_verify(study, i, name))
            todo.append(Batch(together, lacking, checked))
            computed += len(together)
    return todo


def _plan(study: Study, corruption: str, pairs: Sequence[PreparedPair]) -> Plan:
    """The plan of a study: the one it began with, if on the same device and in the same dtype, or as the options say."""
    if study.options.batch:
        return Plan(study.options.batch if study.vlm.batches_pairs else 1, tokens_in_a_trace(study.vlm))
    key = f"{study.vlm.name}/{study.name}/{corruption}"
    setting = {"device": study.vlm.device_type, "dtype": study.vlm.number_format}
    known = read_manifest(study.options.out).get("plans", {}).get(key, {})
    if {name: known.get(name) for name in setting} == setting:
        return Plan(known["samples"], known["tokens"])
    chosen = plan(study.vlm, [len(study.vlm.prompt(pair.pair.clean_question).ids) for pair in pairs])
    update_manifest(study.options.out, "plans", key, {"samples": chosen.samples, "tokens": chosen.tokens, **setting})
    return chosen


def _to_verify(study: Study, computed: int, sample_id: str) -> bool:
    """Whether the sweep of a pair is held against the plain path: the first ones, and one in a hundred, by its id."""
    now_and_then = zlib.crc32(sample_id.encode()) % 100 == 0
    return study.options.verify > 0 and (computed < study.options.verify or now_and_then)


@dataclass(frozen=True)
class Patching:
    """The work of patching targets in some pairs at a time (see `interventions.backends.work.Work`)."""

    corruption: str
    targets: tuple[Target, ...]
    plan: Plan

    def __call__(self, study: Study, batch: Batch) -> list[Mapping[str, Arrays]]:
        pairs = [study.pair(self.corruption, name) for name in batch.samples]
        wanted = {t: [pair.cells(t.tokens) for pair in pairs] for t in self.targets if t.name in batch.files}
        checked = [i for i, name in enumerate(batch.samples) if name in batch.checked]
        return _patch_pairs(study, pairs, self.corruption, wanted, self.plan, checked)


def _patch_pairs(
    study: Study,
    pairs: Sequence[PreparedPair],
    corruption: str,
    targets: Mapping[Target, Sequence[Sequence[Cell]]],
    chosen: Plan,
    checked: Sequence[int] = (),
) -> list[Mapping[str, Arrays]]:
    """Capture some pairs together, sweep each target, and hold the checked ones against the plain path; of each pair, the measurements
    of each target, by its name."""
    vlm, draws = study.vlm, study.draws(corruption)
    components = {target: _patched_component(study, target) for target in targets}
    every = {
        target: [_patches(study, components[target], target, of_pair) for of_pair in cells for _ in range(draws)]
        for target, cells in targets.items()
    }
    runs: list[np.ndarray] = []
    patched: dict[Target, list[np.ndarray]] = {target: [] for target in targets}
    examples = chain.from_iterable(study.examples(pair, corruption) for pair in pairs)
    for start in range(0, draws * len(pairs), chosen.samples):
        some = list(islice(examples, chosen.samples))
        of_some = [of_all[start : start + len(some)] for of_all in every.values()]
        held = tuple(i for i in range(len(some)) if (start + i) // draws in checked and (start + i) % draws == 0)
        both, measured = vlm.run(measure_pairs, some, tuple(components.values()), of_some, chosen.tokens, study.options.divergence, held)
        runs += both
        for target, of_examples in zip(targets, measured, strict=True):
            patched[target] += of_examples
    kept: list[dict[str, Arrays]] = [{} for _ in pairs]
    for target, cells in targets.items():
        for i in range(len(pairs)):
            shape = (draws, vlm.n_layers, *([vlm.n_heads] if target.heads else []), len(cells[i]), runs[0].shape[-1])
            of_pair = slice(i * draws, (i + 1) * draws)
            of_runs = clean_first(np.stack(runs[of_pair]), study.base)
            kept[i][target.name] = {"patched": np.stack(patched[target][of_pair]).reshape(shape), "runs": of_runs}
    return list(kept)


def _patched_component(study: Study, target: Target) -> str:
    """The component whose states are patched for a target; with `--definition reference`, NOTICE's."""
    reference = study.vlm.architecture.reference if study.options.definition == "reference" else {}
    return reference.get(target.component, target.component)


def _patches(study: Study, component: str, target: Target, cells: Sequence[Cell]) -> list[Patch]:
    return patches(component, study.vlm.n_layers, study.vlm.n_heads if target.heads else None, cells, target.window)


def _assemble(
    study: Study,
    corruption: str,
    target: Target,
    pairs: Sequence[PreparedPair],
    cells: Sequence[Sequence[Cell]],
    parts: Iterable[Arrays],
) -> xr.Dataset:
    """The file of effects; `parts` are the pairs' arrays, which are read one after the other."""
    vlm, component, heads = study.vlm, target.component, target.heads
    whole = stacked(parts, len(pairs), max(map(len, cells)), {"patched": 3 if heads else 2})
    whole["patched"][:, :, layers_without(vlm, component)] = np.nan
    dims = ("sample", "draw", "layer", *(["head"] if heads else []), "token")
    title = f"Effects of patching {component}{' heads' if heads else ''}"
    attributes = study.patching_attributes(title, component, corruption)
    return assemble(
        attributes | {"granularity": "heads" if heads else "module", "window": target.window},
        [pair.coordinates() for pair in pairs],
        {
            "layer": np.arange(vlm.n_layers),
            **({"head": np.arange(vlm.n_heads)} if heads else {}),
            **token_coordinates(cells, target.tokens),
        },
        {},
        (dims, whole["patched"]),
        whole["runs"],
    )
