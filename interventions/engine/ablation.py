"""Runs in which the z of some heads is replaced at every token of the prompt: many in one trace."""

import torch
from jaxtyping import Bool, Float, Int
from nnsight import save
from torch import Tensor

from interventions.engine.capture import Captured
from interventions.engine.memory import halving
from interventions.engine.whole_runs import answers_of, clean_log_probs_of, runs_in_a_trace, whole_runs
from interventions.models.vlm import Vlm, measure


def run_ablated(
    vlm: Vlm,
    captured: Captured,
    component: str,
    ablated: Bool[Tensor, "run layer head"],
    put_in: Float[Tensor, "layer token width"],
) -> tuple[Float[Tensor, "run measurement"], Int[Tensor, " run"]]:
    """The measurements of a captured pair's base run without some heads, and the token with the largest logit.

    Parameters
    ----------
    ablated : which heads are replaced in each run
    put_in : by what
    """
    parts = [
        part
        for together in ablated.split(runs_in_a_trace(vlm, captured))
        for part in halving(lambda some: _run_together(vlm, captured, component, some, put_in), together, "ablated runs")
    ]
    return torch.cat([measured for measured, _ in parts]), torch.cat([top for _, top in parts])


def _run_together(vlm: Vlm, captured: Captured, component: str, ablated: Tensor, put_in: Tensor) -> tuple[Tensor, Tensor]:
    packing, known = whole_runs(vlm, captured, len(ablated))
    gone = ablated.to(vlm.device)
    answers, clean = answers_of(captured, len(ablated)), clean_log_probs_of(captured, len(ablated))
    port = vlm.port(component)
    with torch.no_grad(), vlm.model.trace(**vlm.packed(packing, known)):
        vlm.enter_packed(packing, known)
        for number, layer in enumerate(vlm.layers):
            if component in vlm.components_of(number):
                port.write(layer, _replaced(port.read(layer), put_in[number, packing.position], gone[packing.run, number]))
        logits = vlm.packed_logits(packing)
        measured, top = save(measure(logits, answers, clean)), save(logits.argmax(-1))
    return measured, top


def _replaced(z: Tensor, others: Tensor, heads: Bool[Tensor, "row token head"]) -> Float[Tensor, "row token width"]:
    """z with that of some heads replaced."""
    cut = (heads.shape[-1], -1)
    return torch.where(heads[..., None], others.to(z.dtype).unflatten(-1, cut), z.unflatten(-1, cut)).flatten(-2)
