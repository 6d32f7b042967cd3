"""The clean and the corrupt run of a pair: one trace over two rows gives the states that are patched and the two baselines."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from nnsight import save
from torch import Tensor

from corruptions.pair import Pair, Prompt
from interventions.models.vlm import Vlm, measure

CLEAN, CORRUPT = 0, 1


class PairError(ValueError):
    """A pair that cannot be patched position by position: says why."""


@dataclass(frozen=True)
class Captured:
    """States of both runs of a pair.

    Attributes
    ----------
    ids : token ids of the clean and the corrupt prompt
    answers : the tokens that the correct and the incorrect answer are scored by
    states : for each captured component, of each run and layer
    image : of both runs, what spares later traces from encoding the image (the model's `image_states`)
    entering : of the corrupt run, the residual stream that enters each layer
    image_projected : of the corrupt run, keys and values of the image in each layer's cross-attention
    cache : of the corrupt run of a causal decoder, keys and values of each layer, [1, key-value head, token, head_dim] each
    measured : the stored measurements of both runs
    """

    ids: Int[Tensor, "run token"]
    answers: tuple[int, int]
    states: dict[str, Float[Tensor, "run layer token width"]]
    image: Any
    entering: Float[Tensor, "layer token width"]
    image_projected: list[list[Tensor]]
    cache: list[tuple[Tensor, Tensor]]
    measured: Float[Tensor, "run measurement"]


def prompts_of(vlm: Vlm, pair: Pair) -> tuple[Prompt, Prompt]:
    """The clean and the corrupt prompt; `PairError` if they differ in length, for then positions do not correspond."""
    clean, corrupt = vlm.prompt(pair.clean_question), vlm.prompt(pair.corrupt_question)
    if len(clean.ids) != len(corrupt.ids):
        raise PairError(f"the corrupt prompt has {len(corrupt.ids)} tokens, the clean prompt {len(clean.ids)}")
    return clean, corrupt


def capture(
    vlm: Vlm,
    ids: Int[Tensor, "run token"],
    pixels: Float[Tensor, "run channel y x"],
    answers: tuple[int, int],
    components: tuple[str, ...],
) -> Captured:
    """Run a pair, row 0 clean and row 1 corrupt, and keep the states of some components at every layer and position."""
    with torch.no_grad(), vlm.model.trace(**vlm.inputs(ids, pixels, cache=True)):
        image = save(vlm.image_states())
        found: dict[str, list[Tensor]] = save({component: [] for component in components})
        entering: list[Tensor] = save([])
        projected: list[list[Tensor]] = save([])
        for layer in vlm.layers:
            entering.append(layer.input[CORRUPT].clone())
            projected.append([])
            for component in vlm.architecture.components:
                for port in vlm.image_projections(component):
                    projected[-1].append(port.read(layer)[CORRUPT:].clone())
                if component in components:
                    found[component].append(vlm.port(component).read(layer).clone())
        measured = save(measure(vlm.logits(), *answers))
        cache = save(vlm.cache())
    states = {name: torch.stack(layers, 1) for name, layers in found.items()}
    corrupt_cache = [(keys[CORRUPT:], values[CORRUPT:]) for keys, values in cache]
    return Captured(ids, answers, states, image, torch.stack(entering), projected, corrupt_cache, measured)
