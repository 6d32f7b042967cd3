"""Many patched runs in one trace: each is one row, its image already encoded."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.capture import CLEAN, CORRUPT, Captured
from interventions.models.vlm import Vlm, measure
from interventions.plan import Patch

TOKENS_PER_TRACE = 4096  # rows are cut into traces of at most so many tokens in all


def sweep(
    vlm: Vlm, captured: Captured, patches: Sequence[Patch], tokens_per_trace: int = TOKENS_PER_TRACE
) -> Float[Tensor, "patch measurement"]:
    """The measurements of each patched run.

    A patch whose clean state equals the corrupt one bit for bit changes nothing: it gets the corrupt run's own
    measurements, so that its effect is exactly 0.
    """
    results = captured.measured[CORRUPT].repeat(len(patches), 1)
    changing = [i for i, patch in enumerate(patches) if changes(vlm, captured, patch)]
    rows = max(1, tokens_per_trace // captured.ids.shape[1])
    for start in range(0, len(changing), rows):
        chunk = changing[start : start + rows]
        results[chunk] = run_rows(vlm, captured, [patches[i] for i in chunk])
    return results


def changes(vlm: Vlm, captured: Captured, patch: Patch) -> bool:
    """Whether the clean and the corrupt state differ at a site."""
    states = captured.states[patch.component][:, patch.layer, list(patch.positions)]
    if patch.head is not None:
        states = states.unflatten(-1, (vlm.groups(patch.component), -1))[:, :, patch.head]
    return not torch.equal(states[CLEAN], states[CORRUPT])


def run_rows(vlm: Vlm, captured: Captured, patches: Sequence[Patch]) -> Float[Tensor, "patch measurement"]:
    """One trace over the corrupt run, a row for each patch."""
    image, ids = captured.image[CORRUPT], captured.ids[CORRUPT]
    sites = _sites(vlm, patches, len(ids))
    with torch.no_grad(), vlm.model.trace(**vlm.repeated(ids, image, len(patches))):
        vlm.reuse_image(image)
        for (number, component), here in sites.items():
            port, layer = vlm.port(component), vlm.layers[number]
            state = port.read(layer)
            clean = captured.states[component][CLEAN, number]
            parts = (vlm.groups(component), -1)
            port.write(layer, torch.where(here[..., None], clean.unflatten(-1, parts), state.unflatten(-1, parts)).flatten(-2))
        measured = save(measure(vlm.logits(), *captured.answers))
    return measured


def _sites(vlm: Vlm, patches: Sequence[Patch], tokens: int) -> dict[tuple[int, str], Tensor]:
    """For each (layer, component) in the order of computation, where it is patched: bool [row, token, head]."""
    order = vlm.architecture.components
    sites: dict[tuple[int, str], Tensor] = {}
    for number, component in sorted({(p.layer, p.component) for p in patches}, key=lambda site: (site[0], order.index(site[1]))):
        sites[number, component] = torch.zeros(len(patches), tokens, vlm.groups(component), dtype=torch.bool, device=vlm.device)
    for row, patch in enumerate(patches):
        head = slice(None) if patch.head is None else patch.head
        sites[patch.layer, patch.component][row, list(patch.positions), head] = True
    return sites
