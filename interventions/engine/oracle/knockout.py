"""Attention knockout: one block, one whole trace of the run that it is in."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from nnsight import save
from torch import Tensor

from interventions.engine.blocking import Block
from interventions.engine.capture import BASE, Example
from interventions.engine.oracle.runs import add_noise, answers_of, inputs_of
from interventions.engine.oracle.verify import chosen, hold
from interventions.models.packing import additive
from interventions.models.vlm import Vlm, measure


def run_plain(vlm: Vlm, example: Example, block: Block) -> Float[Tensor, " measurement"]:
    """The measurements of a pair's base run with one block: its queries do not see its keys, and z = 0 where a query sees nothing."""
    with torch.no_grad(), vlm.model.trace(**inputs_of(vlm, example, BASE)):
        add_noise(vlm, example, BASE)
        for number in sorted(block.layers):
            for component in vlm.components_of(number):
                if component in block.keys and block.queries:
                    blind = _hide(vlm, number, component, block, example.ids.shape[1])
                    z = vlm.port(component).read(vlm.layers[number])
                    vlm.port(component).write(vlm.layers[number], z.masked_fill(blind[..., None], 0))
        measured = save(measure(vlm.logits(), answers_of(vlm, example)))
    return measured[0]


def _hide(vlm: Vlm, number: int, component: str, block: Block, tokens: int) -> Bool[Tensor, "row token"]:
    """Inside a trace, before an attention: hide the block's keys from its queries. Returns the tokens that are left nothing to see."""
    attention, keys = vlm.architecture.attention[component], block.keys[component]
    envoy = attention.probabilities.envoy(vlm.layers[number])
    arguments, options = envoy.inputs
    own = component == "self_attention"
    every = 1 if keys is None else tokens if own else options["encoder_hidden_states"].shape[1]  # one stands for all where none is named
    hidden = torch.zeros(tokens, every, dtype=torch.bool, device=vlm.device)
    for query in block.queries:
        hidden[query, slice(None) if keys is None else list(keys)] = True
    mask = options.get(attention.mask)
    if mask is None:
        seen = torch.ones_like(hidden)[None]
        seen = seen.tril() if own and vlm.architecture.causal else seen
    else:
        seen = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min / 2
    left = seen & ~hidden
    envoy.inputs = (arguments, options | {attention.mask: additive(left, vlm.dtype)})
    return hidden.any(-1) & ~left.any(-1)


def verify_blocks(
    vlm: Vlm, example: Example, blocks: Sequence[Block], measured: Float[Tensor, "block measurement"], count: int = 4
) -> None:
    """Measure some of the blocked runs again the plain way (the same ones for the same number of blocks).

    Raises
    ------
    VerificationError
        When a measurement differs by more than rounding.
    """
    for number in chosen(len(blocks), count):
        layers, positions = list(blocks[number].layers), list(blocks[number].queries)
        hold(vlm, f"blocked attention, layers {layers}, positions {positions},", measured[number], run_plain(vlm, example, blocks[number]))
