"""Attention patterns: one layer's probabilities, one whole trace of the clean run."""

import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.engine.capture import Example
from interventions.engine.oracle.runs import inputs_of
from interventions.models.vlm import Vlm


def run_plain(vlm: Vlm, example: Example, component: str, number: int) -> Float[Tensor, "head query key"]:
    """The probabilities of one layer in a pair's clean run."""
    with vlm.showing_attention(), torch.no_grad(), vlm.model.trace(**inputs_of(vlm, example, example.clean_run)):
        probabilities = save(vlm.architecture.attention[component].probabilities.read(vlm.layers[number])[0].clone())
    return probabilities
