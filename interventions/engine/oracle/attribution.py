"""Attribution patching: the gradient at the z of one layer, one whole forward and backward pass for each point at which it is taken."""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.engine.capture import BASE, SOURCE, Example
from interventions.engine.oracle.runs import add_noise, answers_of, columns_of, inputs_of
from interventions.engine.oracle.verify import chosen, hold
from interventions.models.vlm import Vlm, measure


def run_plain(vlm: Vlm, example: Example, component: str, number: int, steps: int = 0) -> Float[Tensor, "token head"]:
    """The estimate of one layer's heads and tokens: (z_source - z_base) . dLD/dz in the base run.

    Parameters
    ----------
    steps : points of Gauss and Legendre's quadrature on the straight path from the base run's z of the layer to the source run's, over
        which the gradient is averaged; 0 takes it at the base run's z alone
    """
    source, base = (_state(vlm, example, component, number, run) for run in (SOURCE, BASE))
    gradient = partial(_gradient, vlm, example, component, number)
    if steps:
        points, weights = np.polynomial.legendre.leggauss(steps)  # between -1 and 1
        on_path = [gradient(torch.lerp(base, source, (point + 1) / 2)) * weight / 2 for point, weight in zip(points, weights, strict=True)]
        slope = torch.stack(on_path).sum(0)
    else:
        slope = gradient(base)
    products = (source.float() - base.float()) * slope
    return torch.stack([products[:, columns_of(vlm, head)].sum(-1) for head in range(vlm.n_heads)], -1)


def _state(vlm: Vlm, example: Example, component: str, number: int, run: int) -> Float[Tensor, "token width"]:
    with torch.no_grad(), vlm.model.trace(**inputs_of(vlm, example, run)):
        add_noise(vlm, example, run)
        z = save(vlm.port(component).read(vlm.layers[number])[0].clone())
    return z


def _gradient(vlm: Vlm, example: Example, component: str, number: int, z: Tensor) -> Float[Tensor, "token width"]:
    """dLD/dz in the base run, whose z of one layer is this."""
    z = z.detach().clone()[None].requires_grad_()
    with torch.enable_grad(), vlm.model.trace(**inputs_of(vlm, example, BASE)):
        add_noise(vlm, example, BASE)
        vlm.port(component).write(vlm.layers[number], z)
        measured = measure(vlm.logits(), answers_of(vlm, example))
        with (measured[0, 0] - measured[0, 1]).backward():
            slope = save(z.grad)
    return slope[0].float()


def verify_attributions(
    vlm: Vlm, example: Example, component: str, estimate: Float[Tensor, "layer token head"], steps: int = 0, count: int = 1
) -> None:
    """Estimate some of the layers again the plain way (the same ones for the same number of layers), in float32 alone: gradients of 16
    bits round too far for a difference to mean anything.

    Raises
    ------
    VerificationError
        When an estimate differs by more than rounding.
    """
    having = [number for number in range(vlm.n_layers) if component in vlm.components_of(number)]
    for index in chosen(len(having), count if vlm.dtype == torch.float32 else 0):
        number = having[index]
        plain = run_plain(vlm, example, component, number, steps)
        largest = plain.abs().max().clamp(min=1)  # products of large states and gradients round with their size
        hold(vlm, f"attribution of {component}, layer {number},", estimate[number].flatten() / largest, plain.flatten() / largest)
