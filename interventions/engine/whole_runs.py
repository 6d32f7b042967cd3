"""Whole runs of captured prompts, many in one trace, to be changed at any sites at once; their image is not encoded again."""

import torch

from interventions.engine.budget import tokens_in_a_trace
from interventions.engine.capture import Captured, rows_of
from interventions.models.packing import Packing, pack
from interventions.models.vlm import Known, Vlm


def whole_runs(vlm: Vlm, captured: Captured, count: int) -> tuple[Packing, Known]:
    """So many runs of the first captured pair's base run, for `vlm.packed` and, inside the trace, `vlm.enter_packed`.

    In an encoder they lie end to end, and share the keys and values of the image; in a causal decoder, and where runs cannot be packed,
    each is a row by itself.
    """
    apart = vlm.architecture.causal or vlm.packs_from(captured.ids[0, : captured.lengths[0]])[0] > 0
    packing = pack([0] * count, [0] * count, captured.lengths, apart).to(vlm.device)
    known = Known(
        ids=packing.gather(captured.ids),
        embedded=packing.gather(captured.embedded),
        image=None if captured.image is None else captured.image[packing.sample],
        text_inputs=rows_of(captured.text_inputs, packing.sample, len(captured.lengths)),
        cache=[],
        forced=[captured.forced[0]] * count,
    )
    return packing, known


def answers_of(captured: Captured, count: int) -> torch.Tensor:
    """What `count` runs of the first captured pair are scored by, [run, option]."""
    return captured.answers[:1].expand(count, -1)


def clean_log_probs_of(captured: Captured, count: int) -> torch.Tensor | None:
    """The log-probabilities that their divergence is measured from, [run, vocabulary], if it is."""
    return None if captured.clean_log_probs is None else captured.clean_log_probs[:1].expand(count, -1)


def runs_in_a_trace(vlm: Vlm, captured: Captured, layers_kept: int = 1) -> int:
    """How many whole runs fill a trace, of whose layers so many are held in memory at once (for a backward pass, all)."""
    return max(1, tokens_in_a_trace(vlm) // (captured.lengths[0] * layers_kept))
