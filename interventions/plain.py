"""The plain path: one patch, one whole trace of the corrupt inputs, image included. Slow and obvious; tests compare the sweep with it."""

import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.capture import CLEAN, CORRUPT, Captured
from interventions.models.vlm import Vlm, measure
from interventions.plan import Patch


def run_plain(vlm: Vlm, captured: Captured, pixels: Float[Tensor, "run channel y x"], patch: Patch) -> Float[Tensor, " measurement"]:
    """The measurements of one patched run."""
    port, layer = vlm.port(patch.component), vlm.layers[patch.layer]
    clean = captured.states[patch.component][CLEAN, patch.layer]
    start, stop = 0, clean.shape[-1]
    if patch.head is not None:
        start, stop = patch.head * vlm.head_dim, (patch.head + 1) * vlm.head_dim
    with torch.no_grad(), vlm.model.trace(**vlm.inputs(captured.ids[CORRUPT:], pixels[CORRUPT:])):
        state = port.read(layer).clone()
        for position in patch.positions:
            state[0, position, start:stop] = clean[position, start:stop]
        port.write(layer, state)
        measured = save(measure(vlm.logits(), *captured.answers))
    return measured[0]
