"""How a causal decoder reads its answer off the residual stream: a norm, then the unembedding. All of it runs inside a trace.

Its parts add up only where the norm's scale is held fixed: at the value that it has in the run itself, as is usual for direct logit
attribution (Elhage et al. 2021, "A mathematical framework for transformer circuits"; Wang et al. 2022, appendix on layer norm).
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interventions.models.vlm import Vlm


def final_norm(vlm: Vlm) -> Any:
    """The envoy of the norm before the unembedding."""
    return attrgetter(vlm.architecture.final_norm)(vlm.text_model)


def unembedding(vlm: Vlm) -> Any:
    """The envoy of the unembedding."""
    return attrgetter(vlm.architecture.answer_head)(vlm.model)


def lens(vlm: Vlm, states: Float[Tensor, "state width"]) -> Float[Tensor, "state vocabulary"]:
    """The logit lens: logits of states of the residual stream, as if no layer came after (nostalgebraist 2020)."""
    return unembedding(vlm)(final_norm(vlm)(states))


@dataclass(frozen=True)
class Readout:
    """LD as a linear function of the residual stream, at the norm's scale in one run: direction . state + constant."""

    direction: Float[Tensor, " width"]
    constant: Float[Tensor, ""]


def readout(vlm: Vlm, state: Float[Tensor, " width"], correct: int, incorrect: int) -> Readout:
    """The readout for two answers in the run whose last state this is, for RMSNorm and LayerNorm alike.

    What a norm does is read off two states of mean 0 and mean square 1, which it neither shifts nor scales: some implementations
    multiply by their weight, some by one more than it. The scale is what then takes `state` to its own norm.
    """
    norm, head = final_norm(vlm), unembedding(vlm)
    signs = torch.ones_like(state)
    signs[1::2] = -1
    up, down, normed = norm(torch.stack([signs, -signs, state])).float()
    gain, shift = (up - down) / 2 * signs, (up + down) / 2
    answers = head.weight[correct].float() - head.weight[incorrect].float()
    centred = isinstance(norm._module, torch.nn.LayerNorm)
    scaled = gain * (state.float() - state.float().mean() if centred else state.float())
    direction = (normed - shift) @ scaled / (scaled @ scaled) * gain * answers
    bias = getattr(head._module, "bias", None)
    constant = shift @ answers + (0 if bias is None else bias[correct].float() - bias[incorrect].float())
    return Readout(direction - direction.mean() if centred else direction, constant)
