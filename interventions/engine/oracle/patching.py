"""Activation patching of modules and heads, in one layer or in a window: one patch, one whole trace of the base run."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.engine.capture import BASE, SOURCE, Example
from interventions.engine.oracle.runs import add_noise, answers_of, columns_of, inputs_of
from interventions.engine.oracle.verify import chosen, hold
from interventions.engine.plan import Patch
from interventions.models.vlm import Vlm, measure


def source_states(vlm: Vlm, example: Example, patch: Patch) -> dict[int, Float[Tensor, "token width"]]:
    """The source run's states of a patch, by layer."""
    with torch.no_grad(), vlm.model.trace(**inputs_of(vlm, example, SOURCE)):
        add_noise(vlm, example, SOURCE)
        states: dict[int, Tensor] = save({})
        for layer in layers_of(vlm, patch):
            states[layer] = vlm.port(patch.component).read(vlm.layers[layer])[0].clone()
    return states


def run_plain(vlm: Vlm, example: Example, patch: Patch, source: dict[int, Tensor] | None = None) -> Float[Tensor, " measurement"]:
    """The measurements of one patched run; `source` spares a source run where the states are at hand."""
    source = source_states(vlm, example, patch) if source is None else source
    port, columns = vlm.port(patch.component), columns_of(vlm, patch.head)
    with torch.no_grad(), vlm.model.trace(**inputs_of(vlm, example, BASE)):
        add_noise(vlm, example, BASE)
        for layer in layers_of(vlm, patch):
            state = port.read(vlm.layers[layer]).clone()
            for position in patch.positions:
                state[0, position, columns] = source[layer][position, columns]
            port.write(vlm.layers[layer], state)
        measured = save(measure(vlm.logits(), answers_of(vlm, example)))
    return measured[0]


def layers_of(vlm: Vlm, patch: Patch) -> list[int]:
    """The layers of a patch that have its component: in some models layers are of two kinds, and nothing is patched in the others."""
    return [layer for layer in patch.layers if patch.component in vlm.components_of(layer)]


def verify_patches(
    vlm: Vlm, example: Example, patches: Sequence[Patch], measured: Float[Tensor, "patch measurement"], count: int = 4
) -> None:
    """Measure some of the patches again the plain way (the same ones for the same number of patches).

    Raises
    ------
    VerificationError
        When a measurement differs by more than rounding.
    """
    for index in chosen(len(patches), count):
        patch = patches[index]
        where = f"layer {', '.join(map(str, patch.layers))}" + ("" if patch.head is None else f", head {patch.head}")
        hold(vlm, f"{patch.component}, {where}, positions {list(patch.positions)}", measured[index], run_plain(vlm, example, patch))
