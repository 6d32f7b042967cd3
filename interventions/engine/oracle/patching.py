"""The plain path: one patch, one whole trace of the corrupt inputs, image included. Slow and obvious; tests compare the sweep with it."""

import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.engine.capture import CLEAN, CORRUPT, Example
from interventions.engine.plan import Patch
from interventions.models.vlm import Inputs, Vlm, measure


def clean_states(vlm: Vlm, example: Example, patch: Patch) -> dict[int, Float[Tensor, "token width"]]:
    """The clean run's states of a patch, by layer."""
    with torch.no_grad(), vlm.model.trace(**inputs_of(vlm, example, CLEAN)):
        add_noise(vlm, example, CLEAN)
        states: dict[int, Tensor] = save({})
        for layer in layers_of(vlm, patch):
            states[layer] = vlm.port(patch.component).read(vlm.layers[layer])[0].clone()
    return states


def run_plain(vlm: Vlm, example: Example, patch: Patch, clean: dict[int, Tensor] | None = None) -> Float[Tensor, " measurement"]:
    """The measurements of one patched run; `clean` spares a clean run where the states are at hand."""
    clean = clean_states(vlm, example, patch) if clean is None else clean
    port = vlm.port(patch.component)
    answers = torch.tensor([example.answers], device=vlm.device)
    with torch.no_grad(), vlm.model.trace(**inputs_of(vlm, example, CORRUPT)):
        add_noise(vlm, example, CORRUPT)
        for layer in layers_of(vlm, patch):
            state = port.read(vlm.layers[layer]).clone()
            start, stop = 0, state.shape[-1]
            if patch.head is not None:
                start, stop = patch.head * vlm.head_dim, (patch.head + 1) * vlm.head_dim
            for position in patch.positions:
                state[0, position, start:stop] = clean[layer][position, start:stop]
            port.write(vlm.layers[layer], state)
        measured = save(measure(vlm.logits(), answers))
    return measured[0]


def layers_of(vlm: Vlm, patch: Patch) -> list[int]:
    """The layers of a patch that have its component: in some models layers are of two kinds, and nothing is patched in the others."""
    return [layer for layer in patch.layers if patch.component in vlm.components_of(layer)]


def add_noise(vlm: Vlm, example: Example, run: int) -> None:
    """Inside a trace, first: change a run's embeddings as its noise says, if it has any."""
    if example.noise is not None and example.noisy == run:
        vlm.change_embeddings(example.noise.modality, example.noise.values[None], example.noise.kept[None])


def inputs_of(vlm: Vlm, example: Example, run: int) -> Inputs:
    """Arguments of one whole pass over a pair's clean or corrupt run."""
    pixels = {name: values[run : run + 1] for name, values in example.pixels.items()}
    return vlm.inputs(example.ids[run : run + 1], pixels, forced=[example.forced])
