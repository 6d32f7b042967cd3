"""How much goes into one trace: enough to fill the device and to outweigh what a trace costs in Python, and no more than fits.

A plan depends on the sizes of the model and of the prompts, and on free memory only where that is short; an interrupted study keeps
the plan it began with, so that it ends with the same numbers. What a plan gets wrong, `sweep` mends by halving.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from interventions.engine.memory import free_memory
from interventions.models.vlm import Vlm

MOST_SAMPLES = 16
SHARE_OF_FREE_MEMORY = 0.5
WORK_OF_A_LAYER = {"cpu": 3e7, "cuda": 3e10}  # tokens x width^2 beside which nnsight and Python are cheap
FEWEST_TOKENS = {"cpu": 256, "cuda": 8192}  # that fill matrix products
MOST_TOKENS = {"cpu": 4096, "cuda": 16384}  # attention grows with their square


@dataclass(frozen=True)
class Plan:
    """What goes into one trace.

    Attributes
    ----------
    samples : pairs that are captured together, and whose patched runs are swept together
    tokens : tokens of packed runs, of all these pairs
    """

    samples: int
    tokens: int


def tokens_in_a_trace(vlm: Vlm) -> int:
    """Tokens of packed runs that fill a device, where memory is no matter."""
    kind = vlm.device_type if vlm.device_type in MOST_TOKENS else "cpu"
    outweigh = min(MOST_TOKENS[kind], WORK_OF_A_LAYER[kind] / vlm.width**2)
    return int(max(FEWEST_TOKENS[kind], vlm.width // 2, outweigh))


def plan(vlm: Vlm, lengths: Sequence[int], free: int | None = None) -> Plan:
    """Plan a study.

    Parameters
    ----------
    lengths : tokens of its prompts
    free : bytes that may be filled, default: half of what the device has left (what a server has is not known: `measure_pairs` sees to it)
    """
    if not lengths:
        raise ValueError("there is nothing to plan: no prompts")
    if free is None:
        free = int(SHARE_OF_FREE_MEMORY * free_memory(vlm.device)) if vlm.server is None else sys.maxsize
    longest = max(lengths)
    tokens = tokens_in_a_trace(vlm)
    of_a_pair = 2 * (longest + (0 if vlm.architecture.causal else vlm.image_states_per_image))
    samples = max(1, min(MOST_SAMPLES, tokens // of_a_pair)) if vlm.batches_pairs else 1
    while samples > 1 and samples * bytes_of_a_pair(vlm, longest) + tokens * bytes_of_a_token(vlm, longest) > free:
        samples = samples // 2
    while tokens > longest and samples * bytes_of_a_pair(vlm, longest) + tokens * bytes_of_a_token(vlm, longest) > free:
        tokens = tokens // 2
    return Plan(samples, tokens)


def bytes_of_a_pair(vlm: Vlm, tokens: int) -> int:
    """About what a captured pair takes: states of every component and the residual stream, of both runs, twice while they are stacked;
    the base run's cache or keys and values of the image; and its two images on their way through the vision tower."""
    size = torch.finfo(vlm.dtype).bits // 8
    components = len(vlm.architecture.components)
    states = 2 * 2 * (components + 2) * vlm.n_layers * tokens * vlm.width
    projected = 2 * 2 * vlm.n_layers * max(tokens, vlm.image_states_per_image) * vlm.width
    vision = 2 * 16 * vlm.image_states_per_image * vlm.width
    return size * (states + projected + vision)


def bytes_of_a_token(vlm: Vlm, tokens: int) -> int:
    """About what a packed token takes at once: activations of one layer, its row of the mask, and a row of logits."""
    size = torch.finfo(vlm.dtype).bits // 8
    layers = getattr(vlm.module.config, vlm.architecture.text_config)
    vocabulary = vlm.module.config.get_text_config().vocab_size
    activations = 8 * vlm.width + 3 * layers.intermediate_size
    return size * (activations + 2 * (tokens + tokens_in_a_trace(vlm)) + vocabulary) + 4 * vocabulary


def batches(count: int, samples: int) -> list[range]:
    """The numbers 0 to `count`, in runs of `samples`: a pair's companions are the same however often a study was interrupted."""
    return [range(start, min(start + samples, count)) for start in range(0, count, samples)]
