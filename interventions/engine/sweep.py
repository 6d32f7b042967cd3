"""Many patched runs in one trace. None of what is left out is an approximation:

- the image is encoded once, in `capture`, and so are its keys and values in cross-attention;
- the patched runs of a sample are laid end to end in one row, so that these need not be copied (`packing`);
- layers below the first patched one are skipped: a patched run is the base run in them;
- so is, in that layer, what is done before the patch, where that is more than a small part of the work;
- so are, in a causal decoder, the tokens before the patch;
- a patch whose source states equal the base states bit for bit is not run: it changes nothing, and its effect is exactly 0.

Where a model's attention does not allow packing, each patched run is a row by itself, and the rest holds.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest

import numpy as np
import torch
from jaxtyping import Bool, Float
from nnsight import save
from torch import Tensor

from interventions.engine.budget import tokens_in_a_trace
from interventions.engine.capture import BASE, SOURCE, Captured, rows_of
from interventions.engine.memory import halving
from interventions.engine.plan import Patch
from interventions.models.packing import Packing, pack
from interventions.models.vlm import Known, Vlm, measure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A patched run that differs from the base run.

    Attributes
    ----------
    sample : whose pair it is, by its number among those captured
    number : its row in the results
    sites : of each layer where the source and the base state differ, the positions where they do
    start : the first position that must be run
    apart : it cannot be packed
    """

    sample: int
    number: int
    patch: Patch
    sites: dict[int, tuple[int, ...]]
    start: int
    apart: bool = False

    @property
    def first_layer(self) -> int:
        return min(self.sites)


def sweep(
    vlm: Vlm, captured: Captured, patches: Sequence[Sequence[Patch]], tokens: int | None = None
) -> list[Float[Tensor, "patch measurement"]]:
    """The measurements of each patched run.

    Parameters
    ----------
    patches : of each captured pair
    tokens : at most so many tokens in one trace (but at least one run of each sample), default: `budget.tokens_in_a_trace`. The
        numbers do not depend on it beyond rounding.
    """
    sizes = [len(of_sample) for of_sample in patches]
    results = captured.measured[:, BASE].repeat_interleave(torch.tensor(sizes, device=vlm.device), 0)
    runs = changing_runs(vlm, captured, patches)
    for apart in (False, True):
        of_kind = [[run for run in of_sample if run.apart == apart] for of_sample in runs]
        for trace in _traces(of_kind, captured.lengths, tokens or tokens_in_a_trace(vlm)):
            parts = halving(lambda some: run_together(vlm, captured, some), trace, "patched runs")
            results[[run.number for run in trace]] = torch.cat(parts)
    return list(results.split(sizes))


@cache
def say_once(message: str) -> None:
    log.warning(message)


def changing_runs(vlm: Vlm, captured: Captured, patches: Sequence[Sequence[Patch]]) -> list[list[Run]]:
    """For each sample, the runs that a patch changes, in order of the first layer where it does."""
    differ = {name: _differ(vlm, states) for name, states in captured.states.items()}
    runs: list[list[Run]] = []
    number = 0
    for sample, of_sample in enumerate(patches):
        changing = []
        length = captured.lengths[sample]
        packs_from, reason = vlm.packs_from(captured.ids[sample, :length])
        for patch in of_sample:
            at = differ[patch.component][sample][list(patch.layers)][:, list(patch.positions)]
            changed = at.any(-1) if patch.head is None else at[..., patch.head]
            differing = [tuple(np.asarray(patch.positions)[row].tolist()) for row in changed]
            if sites := {layer: positions for layer, positions in zip(patch.layers, differing, strict=True) if positions}:
                start = min(map(min, sites.values())) if vlm.architecture.causal else 0
                apart = start < packs_from
                if apart and reason:
                    say_once(f"{vlm.name}: {reason}: such patched runs are not packed, but batched whole prompt by whole prompt")
                changing.append(Run(sample, number, patch, sites, start, apart))
            number += 1
        runs.append(sorted(changing, key=lambda run: run.first_layer))
    return runs


def _differ(vlm: Vlm, states: Float[Tensor, "sample run layer token width"]) -> Bool[np.ndarray, "sample layer token head"]:
    """Where the source and the base state differ; states that are no heads' count as one."""
    width = vlm.head_dim if states.shape[-1] == vlm.n_heads * vlm.head_dim else states.shape[-1]
    return (states[:, SOURCE] != states[:, BASE]).unflatten(-1, (-1, width)).any(-1).cpu().numpy()


def _traces(runs: Sequence[Sequence[Run]], lengths: Sequence[int], tokens: int) -> Iterator[list[Run]]:
    """Cut the runs into traces: from each sample in turn its next ones, in its share of the tokens."""
    share = tokens // max(1, sum(map(bool, runs)))
    cut = [_cut(of_sample, length, share) for of_sample, length in zip(runs, lengths, strict=True)]
    for parts in zip_longest(*cut, fillvalue=[]):
        yield [run for part in parts for run in part]


def _cut(runs: Sequence[Run], length: int, tokens: int) -> Iterator[list[Run]]:
    part: list[Run] = []
    used = 0
    for run in runs:
        needed = length - (0 if run.apart else run.start)
        if part and used + needed > tokens:
            yield part
            part, used = [], 0
        part.append(run)
        used += needed
    if part:
        yield part


def run_together(vlm: Vlm, captured: Captured, runs: Sequence[Run]) -> Float[Tensor, "run measurement"]:
    """One trace that holds some patched runs, ascending by sample, all packed or all apart, from the first patched layer on."""
    first = min(run.first_layer for run in runs)
    packing = pack([run.sample for run in runs], [run.start for run in runs], captured.lengths, runs[0].apart)
    sites = {site: index.to(vlm.device) for site, index in _sites(vlm, runs, packing, captured.lengths).items()}
    packing = packing.to(vlm.device)
    known = known_of(captured, packing, [captured.forced[run.sample] for run in runs])
    samples = [run.sample for run in runs]
    answers, clean = captured.answers[samples], None if captured.clean_log_probs is None else captured.clean_log_probs[samples]
    with torch.no_grad(), vlm.model.trace(**vlm.packed(packing, known)):
        vlm.enter_packed(packing, known)
        for number in range(first):
            vlm.layers[number].skip(packing.gather(captured.leaving[number]))
        for number in range(first, vlm.n_layers):
            layer = vlm.layers[number]
            todo = _enter_layer(vlm, captured, packing, sites, number) if number == first else vlm.components_of(number)
            for component in todo:
                ports = vlm.image_projections(component)
                for port, projected in zip(ports, captured.image_projected[number] if ports else (), strict=True):
                    port.skip(layer, projected[packing.sample])
                if (number, component) in sites:
                    state = vlm.port(component).read(layer)
                    vlm.port(component).write(layer, _patched(vlm, captured, component, number, sites[number, component], state))
        measured = save(measure(vlm.packed_logits(packing), answers, clean))
    return measured


def known_of(captured: Captured, packing: Packing, forced: Sequence[Sequence[int]]) -> Known:
    """What was captured, for each row."""
    prefix = int(packing.start.max())
    return Known(
        ids=packing.gather(captured.ids),
        embedded=packing.gather(captured.embedded),
        image=None if captured.image is None else captured.image[packing.sample],
        text_inputs=rows_of(captured.text_inputs, packing.sample, len(captured.lengths)),
        cache=[(keys[packing.sample, :, :prefix], values[packing.sample, :, :prefix]) for keys, values in captured.cache],
        forced=forced,
    )


def _enter_layer(vlm: Vlm, captured: Captured, packing: Packing, sites: "Sites", number: int) -> list[str]:
    """Inside a trace, in the first patched layer: what comes before the first patch is put in as the base run has it, and so is the
    patched state, where nothing else of the module that makes it is needed. Returns the components that are still to come."""
    layer = vlm.layers[number]
    components = vlm.components_of(number)
    at, component = next((i, name) for i, name in enumerate(components) if (number, name) in sites)
    for port in vlm.done_before(component, number):
        port.skip(layer, packing.gather(captured.before[number, port.module]))
    port = vlm.port(component)
    if port.side == "input":
        return components[at:]
    state = packing.gather(captured.states[component][:, BASE, number])
    port.skip(layer, _patched(vlm, captured, component, number, sites[number, component], state))
    return components[at + 1 :]


@dataclass(frozen=True)
class Site:
    """Where the states of one layer's component are patched: for each, its packed row, and where its source state stands."""

    row: Tensor
    sample: Tensor
    position: Tensor
    head: Tensor

    def to(self, device: torch.device) -> "Site":
        return Site(*(index.to(device) for index in (self.row, self.sample, self.position, self.head)))


Sites = dict[tuple[int, str], Site]


def _sites(vlm: Vlm, runs: Sequence[Run], packing: Packing, lengths: Sequence[int]) -> Sites:
    indices: dict[tuple[int, str], list[np.ndarray]] = {}
    for run, last in zip(runs, packing.last.tolist(), strict=True):
        component, head = run.patch.component, run.patch.head
        heads = range(vlm.groups(component)) if head is None else (head,)
        for layer, positions in run.sites.items():
            at, which = (grid.ravel() for grid in np.meshgrid(positions, heads, indexing="ij"))
            row = at + last - lengths[run.sample] + 1
            indices.setdefault((layer, component), []).append(np.stack([row, np.full_like(at, run.sample), at, which]))
    return {site: Site(*torch.from_numpy(np.concatenate(index, 1))) for site, index in indices.items()}


def _patched(vlm: Vlm, captured: Captured, component: str, layer: int, site: Site, state: Tensor) -> Tensor:
    """A packed state [row, packed, width] with the source states put in."""
    heads = vlm.groups(component)
    source = captured.states[component].unflatten(-1, (heads, -1))[site.sample, SOURCE, layer, site.position, site.head]
    patched = state.flatten(0, 1).unflatten(-1, (heads, -1)).clone()
    patched[site.row, site.head] = source.to(patched.dtype)
    return patched.flatten(-2).unflatten(0, state.shape[:2])
