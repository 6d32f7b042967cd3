"""Gradients of the logit difference with respect to z, and the estimates of patching effects that they give.

In: a captured pair. Out: for each head and position, the change of LD that putting the source run's z into the base run would make, to
first order (attribution patching: Nanda 2023; Syed et al. 2023), or along the straight path between the two (integrated gradients:
Sundararajan et al. 2017, here on the z of one layer at a time as in Marks et al. 2024, "Sparse feature circuits", section 3.1).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.engine.capture import BASE, SOURCE, Captured
from interventions.engine.memory import halving
from interventions.engine.whole_runs import answers_of, runs_in_a_trace, whole_runs
from interventions.models.vlm import Vlm, measure


def attribution(vlm: Vlm, captured: Captured, component: str) -> Float[Tensor, "layer token head"]:
    """(z_source - z_base) . dLD/dz in the base run: one forward and one backward pass for all heads."""
    change = _change(captured, component)
    return torch.stack([_of_heads(vlm, change[layer] * gradient) for layer, gradient in enumerate(gradients(vlm, captured, component))])


def gradients(vlm: Vlm, captured: Captured, component: str) -> Float[Tensor, "layer token width"]:
    """dLD/dz of every layer and token in the base run of the first captured pair; 0 in layers without the component."""
    packing, known = whole_runs(vlm, captured, 1)
    port, answers = vlm.port(component), answers_of(captured, 1)
    layers = [number for number in range(vlm.n_layers) if component in vlm.components_of(number)]
    with torch.enable_grad(), vlm.model.trace(**vlm.packed(packing, known)):
        vlm.enter_packed(packing, known)
        zs: list[Any] = []
        for number in layers:
            z = port.read(vlm.layers[number])
            if not zs:
                z.requires_grad_()  # weights have no gradients: the path begins here
            zs.append(z)
        measured = measure(vlm.packed_logits(packing), answers)
        slopes: list[Tensor] = save([])
        with (measured[:, 0] - measured[:, 1]).sum().backward():
            for z in reversed(zs):
                slopes.append(z.grad.flatten(0, 1)[packing.tokens[0]])
    every = torch.zeros(vlm.n_layers, *slopes[0].shape, device=vlm.device)
    every[layers] = torch.stack(slopes[::-1]).float()
    return every


def integrated_attribution(vlm: Vlm, captured: Captured, component: str, steps: int) -> Float[Tensor, "layer token head"]:
    """(z_source - z_base) . the mean of dLD/dz on the path from the base run's z of a whole layer to the source run's.

    Over the heads and tokens of a layer it sums to what patching the whole layer changes (Sundararajan et al., proposition 1), but for
    the error of the quadrature: Gauss and Legendre's, with `steps` points.
    """
    points, weights = quadrature(steps)
    change = _change(captured, component)
    result = torch.zeros(*change.shape[:2], vlm.n_heads, device=vlm.device)
    for number in range(vlm.n_layers):
        if component in vlm.components_of(number):
            together = runs_in_a_trace(vlm, captured, layers_kept=vlm.n_layers - number)
            on_path = partial(_on_path, vlm, captured, component, number)
            parts = [part for some in torch.from_numpy(points).split(together) for part in halving(on_path, some, "steps on a path")]
            slopes = torch.cat(parts)
            mean = torch.tensordot(torch.from_numpy(weights).to(slopes), slopes, dims=1)
            result[number] = _of_heads(vlm, change[number] * mean)
    return result


def quadrature(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Points between 0 and 1, and their weights, which sum to 1."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    return ((points + 1) / 2).astype(np.float32), (weights / 2).astype(np.float32)


def _on_path(vlm: Vlm, captured: Captured, component: str, number: int, points: Tensor) -> Float[Tensor, "step token width"]:
    """dLD/dz of one layer in runs whose z of that layer is so far on the path; layers below are as in the base run, and not run."""
    packing, known = whole_runs(vlm, captured, len(points))
    port, answers = vlm.port(component), answers_of(captured, len(points))
    source, base = captured.states[component][0, SOURCE, number], captured.states[component][0, BASE, number]
    share = points.to(base)[packing.run][..., None]
    z = (base[packing.position] * (1 - share) + source[packing.position] * share).requires_grad_()
    with torch.enable_grad(), vlm.model.trace(**vlm.packed(packing, known)):
        vlm.enter_packed(packing, known)
        for below in range(number):
            vlm.layers[below].skip(packing.gather(captured.leaving[below]))
        port.write(vlm.layers[number], z)
        measured = measure(vlm.packed_logits(packing), answers)
        with (measured[:, 0] - measured[:, 1]).sum().backward():
            slopes = save(z.grad)
    return slopes.flatten(0, 1)[packing.tokens].float()


def _change(captured: Captured, component: str) -> Float[Tensor, "layer token width"]:
    states = captured.states[component][0].float()
    return states[SOURCE] - states[BASE]


def _of_heads(vlm: Vlm, products: Float[Tensor, "token width"]) -> Float[Tensor, "token head"]:
    return products.unflatten(-1, (vlm.n_heads, -1)).sum(-1)


def of_cells(attributed: Float[Tensor, "layer token head"], cells: Sequence[Sequence[int]]) -> Float[Tensor, "layer head cell"]:
    """Summed over the positions of each cell, which are patched together."""
    return torch.stack([attributed[:, list(positions)].sum(1) for positions in cells], -1)
