"""Many patched runs in one trace. None of what is left out is an approximation:

- the image is encoded once, in `capture`;
- layers below the first patched one are skipped: there, a patched run is the corrupt run;
- so are, in a causal decoder, the tokens before the patch (`packing`);
- a patch whose clean state equals the corrupt one bit for bit is not run: it changes nothing, and its effect is exactly 0.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.capture import CLEAN, CORRUPT, Captured
from interventions.models.vlm import Vlm, measure
from interventions.packing import pack
from interventions.plan import Patch

Run = Callable[[Vlm, Captured, Sequence[Patch]], Tensor]
TOKENS_PER_TRACE = 2048  # rows of an encoder are cut into traces of at most so many tokens in all
PACKED_TOKENS = 512  # and the packed row of a decoder, whose attention grows with its square, after so many


def sweep(vlm: Vlm, captured: Captured, patches: Sequence[Patch], tokens: int | None = None) -> Float[Tensor, "patch measurement"]:
    """The measurements of each patched run.

    Parameters
    ----------
    tokens : at most so many tokens in one trace (but at least one run). The numbers do not depend on it beyond rounding.
    """
    results = captured.measured[CORRUPT].repeat(len(patches), 1)
    changing = sorted((i for i, patch in enumerate(patches) if changes(vlm, captured, patch)), key=lambda i: patches[i].layer)
    run = run_packed if vlm.architecture.causal else run_rows
    for chunk in _chunks(vlm, captured, patches, changing, tokens):
        results[chunk] = _run_in_memory(run, vlm, captured, [patches[i] for i in chunk])
    return results


def _run_in_memory(run: Run, vlm: Vlm, captured: Captured, patches: Sequence[Patch]) -> Float[Tensor, "patch measurement"]:
    """One trace, or two of half the patches each where the device's memory does not do, and so on."""
    try:
        return run(vlm, captured, patches)
    except torch.OutOfMemoryError:
        if len(patches) == 1:
            raise
    half = len(patches) // 2
    return torch.cat([_run_in_memory(run, vlm, captured, part) for part in (patches[:half], patches[half:])])


def changes(vlm: Vlm, captured: Captured, patch: Patch) -> bool:
    """Whether the clean and the corrupt state differ at a site."""
    states = captured.states[patch.component][:, patch.layer, list(patch.positions)]
    if patch.head is not None:
        states = states.unflatten(-1, (vlm.groups(patch.component), -1))[:, :, patch.head]
    return not torch.equal(states[CLEAN], states[CORRUPT])


def _chunks(vlm: Vlm, captured: Captured, patches: Sequence[Patch], changing: Sequence[int], tokens: int | None) -> Iterator[list[int]]:
    """Cut the patches, in order of layer, into traces of at most `tokens` tokens."""
    prompt = captured.ids.shape[1]
    causal = vlm.architecture.causal
    most = tokens or (PACKED_TOKENS if causal else TOKENS_PER_TRACE)
    chunk: list[int] = []
    used = 0
    for index in changing:
        needed = prompt - min(patches[index].positions) if causal else prompt
        if chunk and used + needed > most:
            yield chunk
            chunk, used = [], 0
        chunk.append(index)
        used += needed
    if chunk:
        yield chunk


def run_rows(vlm: Vlm, captured: Captured, patches: Sequence[Patch]) -> Float[Tensor, "patch measurement"]:
    """One trace over the corrupt run, a row for each patch, from the first patched layer on."""
    image, ids = captured.image[CORRUPT], captured.ids[CORRUPT]
    first = min(patch.layer for patch in patches)
    row = torch.arange(len(patches), device=vlm.device)[:, None].expand(-1, len(ids))
    position = torch.arange(len(ids), device=vlm.device).expand(len(patches), -1)
    sites = _sites(vlm, captured, patches, row, position)
    with torch.no_grad(), vlm.model.trace(**vlm.repeated(ids, image, len(patches))):
        vlm.reuse_image(image)
        for layer in vlm.layers[:first]:
            layer.skip(captured.entering[first].expand(len(patches), -1, -1))
        for (number, component), (here, clean) in sites.items():
            _put(vlm, number, component, here, clean)
        measured = save(measure(vlm.logits(), *captured.answers))
    return measured


def run_packed(vlm: Vlm, captured: Captured, patches: Sequence[Patch]) -> Float[Tensor, "patch measurement"]:
    """One trace over one row that holds every patched run from its first patched token on, from the first patched layer on."""
    first = min(patch.layer for patch in patches)
    packing = pack(patches, captured.ids.shape[1], vlm.device)
    sites = _sites(vlm, captured, patches, packing.run[None], packing.position[None])
    with torch.no_grad(), vlm.model.trace(**vlm.packed(packing, captured.image[CORRUPT], captured.cache)):
        for layer in vlm.layers[:first]:
            layer.skip(captured.entering[first][packing.position][None])
        for (number, component), (here, clean) in sites.items():
            _put(vlm, number, component, here, clean)
        measured = save(measure(vlm.packed_logits(), *captured.answers))
    return measured


Site = tuple[int, str]


def _sites(vlm: Vlm, captured: Captured, patches: Sequence[Patch], run: Tensor, position: Tensor) -> dict[Site, tuple[Tensor, Tensor]]:
    """For each (layer, component), in the order of computation: where it is patched, bool [row, token, head], and the clean state there.

    Parameters
    ----------
    run, position : of each token of the trace's rows, [row, token], the patched run it belongs to and its position in the prompt
    """
    order = vlm.architecture.components
    named = sorted({(p.layer, p.component) for p in patches}, key=lambda site: (site[0], order.index(site[1])))
    wanted = {site: torch.zeros(len(patches), captured.ids.shape[1], vlm.groups(site[1]), dtype=torch.bool) for site in named}
    for number, patch in enumerate(patches):
        head = slice(None) if patch.head is None else patch.head
        wanted[patch.layer, patch.component][number, list(patch.positions), head] = True
    return {
        (layer, component): (here.to(vlm.device)[run, position], captured.states[component][CLEAN, layer][position])
        for (layer, component), here in wanted.items()
    }


def _put(vlm: Vlm, layer: int, component: str, here: Tensor, clean: Tensor) -> None:
    """Inside a trace: the clean state in the place of the model's own, where `here` says so."""
    port, groups = vlm.port(component), (vlm.groups(component), -1)
    state = port.read(vlm.layers[layer])
    mixed = torch.where(here[..., None], clean.unflatten(-1, groups), state.unflatten(-1, groups)).flatten(-2)
    port.write(vlm.layers[layer], mixed)
