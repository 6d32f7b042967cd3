"""What is measured of some pairs in one go, wherever the weights are (see `Vlm.run`): tensors stay there, numbers come back."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from interventions.capture import Example, capture
from interventions.models.vlm import Vlm
from interventions.plan import Patch
from interventions.sweep import sweep
from interventions.verify import verify

log = logging.getLogger(__name__)
Measured = tuple[list[np.ndarray], list[list[np.ndarray]]]


def measure_pairs(
    vlm: Vlm,
    examples: Sequence[Example],
    components: Sequence[str],
    every: Sequence[Sequence[Sequence[Patch]]],
    tokens: int,
    divergence: bool = False,
    checked: Sequence[int] = (),
) -> Measured:
    """Capture some pairs together, sweep their patched runs, and hold some of these against the plain path.

    Where the device's memory does not do for all pairs, of half of them at a time.

    Parameters
    ----------
    components : of each target, what is patched
    every : of each target, the patched runs of each pair
    tokens : see `sweep`
    divergence : see `capture`
    checked : the pairs that are held against the plain path

    Returns
    -------
    The measurements of each pair's two runs, [run, measurement], and of each target those of each pair's patched runs, [patch,
    measurement].

    Raises
    ------
    VerificationError
        See `verify`.
    """
    try:
        captured = capture(vlm, examples, tuple(dict.fromkeys(components)), divergence)
        swept = [sweep(vlm, captured, of_examples, tokens) for of_examples in every]
    except torch.OutOfMemoryError:
        if len(examples) == 1:
            raise
        return _by_halves(vlm, examples, components, every, tokens, divergence, checked)
    for number in checked:
        ours = examples[number].on(vlm)
        for of_examples, measured in zip(every, swept, strict=True):
            verify(vlm, ours, of_examples[number], measured[number])
    return list(captured.measured.cpu().numpy()), [[of_one.cpu().numpy() for of_one in measured] for measured in swept]


def _by_halves(
    vlm: Vlm,
    examples: Sequence[Example],
    components: Sequence[str],
    every: Sequence[Sequence[Sequence[Patch]]],
    tokens: int,
    divergence: bool,
    checked: Sequence[int],
) -> Measured:
    half = len(examples) // 2
    log.warning("%d pairs did not fit in memory; going on with %d at a time", len(examples), half)
    runs: list[np.ndarray] = []
    patched: list[list[np.ndarray]] = [[] for _ in every]
    for part in (range(half), range(half, len(examples))):
        own, of_own = slice(part.start, part.stop), [number - part.start for number in checked if number in part]
        found, swept = measure_pairs(vlm, examples[own], components, [of_all[own] for of_all in every], tokens, divergence, of_own)
        runs += found
        patched = [before + more for before, more in zip(patched, swept, strict=True)]
    return runs, patched
