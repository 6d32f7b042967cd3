"""Direct effects: what the answer loses when the output of one head or MLP is taken out of the last residual stream, at its norm's
scale."""

from typing import Any

import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.engine.capture import Example
from interventions.engine.oracle.runs import columns_of, inputs_of
from interventions.models.architecture import Port
from interventions.models.readout import final_norm, unembedding
from interventions.models.vlm import Vlm

COMPONENT = "self_attention"


@torch.no_grad()
def run_plain(vlm: Vlm, example: Example, number: int, head: int | None) -> Float[Tensor, ""]:
    """The direct effect on LD of a head of one layer, or of its MLP (None), in a pair's clean run, in logits."""
    layer, last = vlm.layers[number], vlm.layers[-1]
    with vlm.model.trace(**inputs_of(vlm, example, example.clean_run)):
        state = save(vlm.port("mlp" if head is None else COMPONENT).read(layer)[0, -1].clone())
        stream = save(vlm.architecture.block.read(last)[0, -1].clone())
    part = state
    if head is not None:
        projection = Port(vlm.architecture.attention[COMPONENT].projection).envoy(layer)._module
        alone = torch.zeros_like(state)
        alone[columns_of(vlm, head)] = state[columns_of(vlm, head)]
        part = projection(alone) - projection(torch.zeros_like(state))  # without the bias, which is no head's
    norm, unembed = final_norm(vlm)._module, unembedding(vlm)._module

    def logit_difference(at: Tensor) -> Tensor:
        shift = norm(torch.zeros_like(at))
        logits = unembed((norm(at) - shift) * (_scale(norm, at) / _scale(norm, stream)) + shift).float()
        return logits[example.answers[0]] - logits[example.answers[1]]

    return logit_difference(stream) - logit_difference(stream - part)


def _scale(norm: torch.nn.Module, state: Float[Tensor, " width"]) -> Float[Tensor, ""]:
    """What a norm divides by."""
    centred = state - state.mean() if isinstance(norm, torch.nn.LayerNorm) else state
    epsilon: Any = getattr(norm, "variance_epsilon", None) or norm.eps
    return (centred.pow(2).mean() + epsilon).sqrt()
