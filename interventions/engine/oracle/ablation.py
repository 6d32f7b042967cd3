"""Head ablation: one set of heads, one whole trace of the run that they are ablated in."""

import torch
from jaxtyping import Bool, Float
from nnsight import save
from torch import Tensor

from interventions.engine.capture import BASE, Example
from interventions.engine.oracle.runs import add_noise, answers_of, columns_of, inputs_of
from interventions.engine.oracle.verify import chosen, hold
from interventions.models.vlm import Vlm, measure


def run_plain(
    vlm: Vlm, example: Example, component: str, ablated: Bool[Tensor, "layer head"], put_in: Float[Tensor, "layer token width"]
) -> Float[Tensor, " measurement"]:
    """The measurements of a pair's base run with the z of some heads replaced by `put_in` at every token."""
    port = vlm.port(component)
    with torch.no_grad(), vlm.model.trace(**inputs_of(vlm, example, BASE)):
        add_noise(vlm, example, BASE)
        for number, layer in enumerate(vlm.layers):
            if component in vlm.components_of(number):
                z = port.read(layer).clone()
                for head in ablated[number].nonzero().flatten().tolist():
                    columns = columns_of(vlm, head)
                    z[0, :, columns] = put_in[number, :, columns]
                port.write(layer, z)
        measured = save(measure(vlm.logits(), answers_of(vlm, example)))
    return measured[0]


def verify_ablations(
    vlm: Vlm,
    example: Example,
    component: str,
    ablated: Bool[Tensor, "run layer head"],
    put_in: Float[Tensor, "layer token width"],
    measured: Float[Tensor, "run measurement"],
    count: int = 4,
) -> None:
    """Measure some of the runs again the plain way (the same ones for the same number of runs).

    Raises
    ------
    VerificationError
        When a measurement differs by more than rounding.
    """
    for index in chosen(len(ablated), count):
        plain = run_plain(vlm, example, component, ablated[index], put_in)
        hold(vlm, f"{component} without {int(ablated[index].sum())} heads", measured[index], plain)
