"""Many patched runs in one trace. None of what is left out is an approximation:

- the image is encoded once, in `capture`, and so are its keys and values in cross-attention;
- the patched runs are laid end to end in one row, so that these need not be copied (`packing`);
- layers below the first patched one are skipped: there, a patched run is the corrupt run;
- so are, in a causal decoder, the tokens before the patch;
- a patch whose clean state equals the corrupt one bit for bit is not run: it changes nothing, and its effect is exactly 0.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.capture import CLEAN, CORRUPT, Captured
from interventions.models.vlm import Vlm, measure
from interventions.packing import Packing, first_position, pack
from interventions.plan import Patch


def sweep(vlm: Vlm, captured: Captured, patches: Sequence[Patch], tokens: int | None = None) -> Float[Tensor, "patch measurement"]:
    """The measurements of each patched run.

    Parameters
    ----------
    tokens : at most so many tokens in one trace (but at least one run). The numbers do not depend on it beyond rounding. By default
        half the model's width (at least 256): enough to fill matrix products, while attention, which grows with their square, stays
        cheap and few layers are run below a patch.
    """
    results = captured.measured[CORRUPT].repeat(len(patches), 1)
    changing = sorted((i for i, patch in enumerate(patches) if changes(vlm, captured, patch)), key=lambda i: patches[i].layer)
    for chunk in _chunks(vlm, captured, patches, changing, tokens or max(256, vlm.width // 2)):
        results[chunk] = _run_in_memory(vlm, captured, [patches[i] for i in chunk])
    return results


def _run_in_memory(vlm: Vlm, captured: Captured, patches: Sequence[Patch]) -> Float[Tensor, "patch measurement"]:
    """One trace, or two of half the patches each where the device's memory does not do, and so on."""
    try:
        return run_packed(vlm, captured, patches)
    except torch.OutOfMemoryError:
        if len(patches) == 1:
            raise
    half = len(patches) // 2
    return torch.cat([_run_in_memory(vlm, captured, part) for part in (patches[:half], patches[half:])])


def changes(vlm: Vlm, captured: Captured, patch: Patch) -> bool:
    """Whether the clean and the corrupt state differ at a site."""
    states = captured.states[patch.component][:, patch.layer, list(patch.positions)]
    if patch.head is not None:
        states = states.unflatten(-1, (vlm.groups(patch.component), -1))[:, :, patch.head]
    return not torch.equal(states[CLEAN], states[CORRUPT])


def _chunks(vlm: Vlm, captured: Captured, patches: Sequence[Patch], changing: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Cut the patches, in order of layer, into traces of at most `tokens` tokens."""
    chunk: list[int] = []
    used = 0
    for index in changing:
        needed = captured.ids.shape[1] - first_position(patches[index], vlm.architecture.causal)
        if chunk and used + needed > tokens:
            yield chunk
            chunk, used = [], 0
        chunk.append(index)
        used += needed
    if chunk:
        yield chunk


def run_packed(vlm: Vlm, captured: Captured, patches: Sequence[Patch]) -> Float[Tensor, "patch measurement"]:
    """One trace over one row that holds every patched run, from the first patched layer on."""
    first = min(patch.layer for patch in patches)
    ids, image = captured.ids[CORRUPT], captured.image[CORRUPT]
    packing = pack(patches, len(ids), vlm.architecture.causal, vlm.device)
    sites = _sites(vlm, captured, patches, packing)
    with torch.no_grad(), vlm.model.trace(**vlm.packed(packing, ids, image, captured.cache)):
        vlm.enter_packed(packing, image, captured.entering[0])
        for layer in vlm.layers[:first]:
            layer.skip(captured.entering[first][packing.position][None])
        for number in range(first, vlm.n_layers):
            for component in vlm.architecture.components:
                if ports := vlm.image_projections(component):
                    for port, projected in zip(ports, captured.image_projected[number], strict=True):
                        port.envoy(vlm.layers[number]).skip(projected)
                if (number, component) in sites:
                    _put(vlm, number, component, *sites[number, component])
        measured = save(measure(vlm.packed_logits(packing), *captured.answers))
    return measured


Site = tuple[int, str]


def _sites(vlm: Vlm, captured: Captured, patches: Sequence[Patch], packing: Packing) -> dict[Site, tuple[Tensor, Tensor]]:
    """For each (layer, component): where it is patched, bool [token, head], and the clean state there."""
    named = {(patch.layer, patch.component) for patch in patches}
    wanted = {site: torch.zeros(len(patches), captured.ids.shape[1], vlm.groups(site[1]), dtype=torch.bool) for site in named}
    for number, patch in enumerate(patches):
        head = slice(None) if patch.head is None else patch.head
        wanted[patch.layer, patch.component][number, list(patch.positions), head] = True
    return {
        (layer, component): (here.to(vlm.device)[packing.run, packing.position], captured.states[component][CLEAN, layer][packing.position])
        for (layer, component), here in wanted.items()
    }


def _put(vlm: Vlm, layer: int, component: str, here: Tensor, clean: Tensor) -> None:
    """Inside a trace: the clean state in the place of the model's own, where `here` says so."""
    port, groups = vlm.port(component), (vlm.groups(component), -1)
    state = port.read(vlm.layers[layer])
    mixed = torch.where(here[..., None], clean.unflatten(-1, groups), state.unflatten(-1, groups)).flatten(-2)
    port.write(vlm.layers[layer], mixed)
