"""Causal checks, on load, that every site is what the architecture says: cheap, and they catch a layout that a release has changed."""

import numpy as np
import torch
from nnsight import save
from nnsight.intervention.interleaver import OutOfOrderError
from PIL import Image

from interventions.models.architecture import Port
from interventions.models.vlm import Inputs, Pixels, Vlm, measure, moved

QUESTION = "Is this red or blue?"


class SiteError(ValueError):
    """A site is not what its description claims; names the site."""


def check_sites(vlm: Vlm) -> None:
    """Check on two random images, at the first and the last layer:

    - the output projection of z is the attention's own output;
    - each component's state has the width it should have, and one position for each token of the prompt;
    - exchanging the two images' `block` states of the last layer, at all tokens, exchanges their answers, and does change them.

    Raises
    ------
    SiteError
    """
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(2)]
    prompt = vlm.prompt(QUESTION)
    vlm.run(_check, vlm.ids([prompt, prompt]), vlm.pixels(images))


def _check(vlm: Vlm, ids: torch.Tensor, pixels: Pixels) -> None:
    inputs = vlm.inputs(ids.to(vlm.device), moved(pixels, vlm))
    options = torch.tensor([[0, 1]], device=vlm.device).expand(2, -1)
    tolerance = 1e-3 if vlm.dtype == torch.float32 else 0.15
    for number in sorted({0, vlm.n_layers - 1}):
        layer = vlm.layers[number]
        try:
            found, projected, block, clean = _read(vlm, inputs, number, options)
        except OutOfOrderError as error:
            raise SiteError(f"layer {number} does not compute its sites in the order {', '.join(vlm.architecture.components)}") from error
        for component, state in found.items():
            width = vlm.n_heads * vlm.head_dim if component in vlm.architecture.attention else vlm.width
            if tuple(state.shape) != (*ids.shape, width):
                raise SiteError(f"{component} of layer {number} has shape {tuple(state.shape)}, expected {(*ids.shape, width)}")
        for component, attended in projected.items():
            again = Port(vlm.architecture.attention[component].projection).envoy(layer)._module(found[component])
            if not torch.allclose(again, attended, atol=tolerance, rtol=tolerance):
                raise SiteError(f"{component} of layer {number}: the output projection of z is not the attention's output")
    with torch.no_grad(), vlm.model.trace(**inputs):
        vlm.architecture.block.write(layer, block.flip(0))
        swapped = save(measure(vlm.logits(), options))
    if not torch.allclose(swapped, clean.flip(0), atol=tolerance, rtol=tolerance) or torch.equal(swapped, clean):
        raise SiteError(f"block of layer {number}: exchanging it between two images does not exchange their answers")


def _read(
    vlm: Vlm, inputs: Inputs, number: int, options: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Each component's state at a layer, each attention's output, the layer's, and the measurements of the run."""
    layer = vlm.layers[number]
    with torch.no_grad(), vlm.model.trace(**inputs):
        found: dict[str, torch.Tensor] = save({})
        projected: dict[str, torch.Tensor] = save({})
        for component in vlm.components_of(number):
            found[component] = vlm.port(component).read(layer)
            if component in vlm.architecture.attention:
                projected[component] = Port(vlm.architecture.attention[component].projection).read(layer)
        block = save(vlm.architecture.block.read(layer))
        clean = save(measure(vlm.logits(), options))
    return found, projected, block, clean
