"""One whole run of a pair: its inputs, and the noise that it may have."""

import torch
from torch import Tensor

from interventions.engine.capture import Example
from interventions.models.vlm import Inputs, Vlm


def inputs_of(vlm: Vlm, example: Example, run: int) -> Inputs:
    """Arguments of one whole pass over one of a pair's two runs."""
    pixels = {name: values[run : run + 1] for name, values in example.pixels.items()}
    return vlm.inputs(example.ids[run : run + 1], pixels, forced=[example.forced])


def add_noise(vlm: Vlm, example: Example, run: int) -> None:
    """Inside a trace, first: change a run's embeddings as its noise says, if it has any."""
    if (noise := example.noise_of(run)) is not None:
        vlm.change_embeddings(noise.modality, noise.values[None], noise.kept[None])


def answers_of(vlm: Vlm, example: Example) -> Tensor:
    """What the run is scored by, [row, option]."""
    return torch.tensor([example.answers], device=vlm.device)


def columns_of(vlm: Vlm, head: int | None) -> slice:
    """Where a head stands in z; everything for no head."""
    return slice(None) if head is None else slice(head * vlm.head_dim, (head + 1) * vlm.head_dim)
