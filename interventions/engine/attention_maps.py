"""Attention probabilities of the clean run: what the image's patches get, and how much of each patch an object's mask covers."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from nnsight import save
from PIL import Image
from torch import Tensor

from interventions.models.vlm import Pixels, Vlm, moved


def capture_attention(vlm: Vlm, ids: Tensor, pixels: Pixels, component: str) -> Float[Tensor, "layer head query key"]:
    """Attention probabilities of one run (the model must be set to show them, see `Vlm.showing_attention`); NaN in layers without the
    component."""
    port = vlm.architecture.attention[component].probabilities
    having = [number for number in range(vlm.n_layers) if component in vlm.components_of(number)]
    with torch.no_grad(), vlm.model.trace(**vlm.inputs(ids.to(vlm.device), moved(pixels, vlm))):
        maps: list[Tensor] = save([])
        for number in having:
            maps.append(port.read(vlm.layers[number])[0].clone())
    every = maps[0].new_full((vlm.n_layers, *maps[0].shape), torch.nan)
    every[having] = torch.stack(maps)
    return every


def shares(
    vlm: Vlm, ids: Tensor, pixels: Pixels, component: str, queries: Sequence[int], keys: Sequence[int]
) -> Float[np.ndarray, "layer head key"]:
    """What some keys (none: all but the first) get from the mean of some queries; where the weights are (see `Vlm.run`)."""
    with vlm.showing_attention():
        probabilities = capture_attention(vlm, ids, pixels, component)
    of_keys = list(keys) or list(range(1, probabilities.shape[-1]))
    return probabilities[:, :, list(queries)].mean(2)[:, :, of_keys].float().cpu().numpy()


def patch_shares(vlm: Vlm, mask: Image.Image, patches: int) -> np.ndarray:
    """The part of each patch that a mask covers: the mask goes the way of the image."""
    side = round(patches**0.5)
    white = mask.point(lambda value: 255 if value > 127 else 0)
    if vlm.architecture.square:
        return np.asarray(white.convert("L").resize((side, side), Image.Resampling.BOX), np.float32).ravel() / 255
    processor = vlm.processor.image_processor
    mean, std = processor.image_mean[0], processor.image_std[0]
    covered = vlm.pixels([white])["pixel_values"][0, :, :1].float().cpu() * std + mean
    return torch.nn.functional.adaptive_avg_pool2d(covered.clamp(0, 1), side).flatten().numpy()
