"""Attention patterns: one layer's probabilities, one whole trace of the clean run."""

import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.engine.capture import Example
from interventions.engine.oracle.runs import inputs_of
from interventions.engine.oracle.verify import chosen, hold
from interventions.models.vlm import Vlm


def run_plain(vlm: Vlm, example: Example, component: str, number: int) -> Float[Tensor, "head query key"]:
    """The probabilities of one layer in a pair's clean run."""
    with vlm.showing_attention(), torch.no_grad(), vlm.model.trace(**inputs_of(vlm, example, example.clean_run)):
        probabilities = save(vlm.architecture.attention[component].probabilities.read(vlm.layers[number])[0].clone())
    return probabilities


def verify_attention(vlm: Vlm, example: Example, component: str, maps: Float[Tensor, "layer head query key"], count: int = 1) -> None:
    """Read some of the layers again the plain way (the same ones for the same number of layers).

    Raises
    ------
    VerificationError
        When a probability differs by more than rounding.
    """
    having = [number for number in range(vlm.n_layers) if component in vlm.components_of(number)]
    for index in chosen(len(having), count):
        number = having[index]
        plain = run_plain(vlm, example, component, number)
        hold(vlm, f"attention of {component}, layer {number},", maps[number].flatten(), plain.flatten())
