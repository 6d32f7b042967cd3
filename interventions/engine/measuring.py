"""What is measured of some pairs in one go, wherever the weights are (see `Vlm.run`): tensors stay there, numbers come back."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from interventions.engine.capture import Example, capture
from interventions.engine.memory import halving
from interventions.engine.oracle.patching import verify_patches
from interventions.engine.plan import Patch
from interventions.engine.sweep import sweep
from interventions.models.vlm import Vlm

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
        See `verify_patches`.
    """

    def measure(numbers: range) -> Measured:
        return _together(vlm, examples, components, every, tokens, divergence, checked, numbers)

    parts = halving(measure, range(len(examples)), "pairs")
    runs = [of_pair for of_part, _ in parts for of_pair in of_part]
    return runs, [list(chain.from_iterable(of_parts)) for of_parts in zip(*(swept for _, swept in parts), strict=True)]


def _together(
    vlm: Vlm,
    examples: Sequence[Example],
    components: Sequence[str],
    every: Sequence[Sequence[Sequence[Patch]]],
    tokens: int,
    divergence: bool,
    checked: Sequence[int],
    numbers: range,
) -> Measured:
    """`measure_pairs` of the pairs of some numbers, all captured together."""
    rows = slice(numbers.start, numbers.stop)
    captured = capture(vlm, examples[rows], tuple(dict.fromkeys(components)), divergence)
    swept = [sweep(vlm, captured, of_all[rows], tokens) for of_all in every]
    for number in checked:
        if number in numbers:
            example = examples[number].on(vlm)
            for of_all, measured in zip(every, swept, strict=True):
                verify_patches(vlm, example, of_all[number], measured[number - numbers.start])
    return list(captured.measured.cpu().numpy()), [[of_one.cpu().numpy() for of_one in measured] for measured in swept]
