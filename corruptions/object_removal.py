"""Object removal (counterfactual inpainting, Visual Jenga): the thing asked about is taken out, the hole filled; the question stays."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from corruptions.base import Pair, Tokenize, register
from corruptions.inpainting import InpaintingOptions, Painting, diffusion_model, inpaint, repaint
from data_prep.tables.sample import Sample, option_spans

FILL: dict[str, Any] = {"fill": "Telea", "radius": 3}


@register(
    "object_removal",
    "image",
    "sees the thing's region filled from its surroundings, or by a diffusion model",
    options=InpaintingOptions,
)
class ObjectRemoval(Painting):
    """The region is filled by a diffusion model with an empty prompt, and the sample's noun as what it shall not show; or, without a model,
    what surrounds the region is continued into it (Telea's method), which suits plain backgrounds."""

    def __init__(
        self, samples: Iterable[Sample] = (), seed: int = 0, options: InpaintingOptions | None = None, device: str = "auto"
    ) -> None:
        super().__init__(samples, seed, options, device)
        model = options.inpainting_model if options else None
        self.inpainter = diffusion_model(model, options, device) if options and model else None

    @property
    def configuration(self) -> dict[str, Any]:
        return {"inpainting": self.inpainter.settings if self.inpainter else FILL, "region": asdict(self.region)}

    def corrupt(self, sample: Sample, tokenize: Tokenize) -> Pair:
        options = option_spans(sample["question"], sample["correct_answer"], sample["incorrect_answer"])
        if self.inpainter:
            path = inpaint(sample, self.region, self.inpainter, self.images, self.seed, "", sample["noun"])
        else:
            path = repaint(sample, self.region, FILL, fill, self.images)
        return Pair(sample, path, sample["question"], options, options)


def fill(image: Image.Image, mask: Image.Image) -> Image.Image:
    """An RGB image whose white region of the mask is filled from its border inwards (Telea 2004)."""
    import cv2  # no other corruption needs it

    return Image.fromarray(cv2.inpaint(np.asarray(image), np.asarray(mask), FILL["radius"], cv2.INPAINT_TELEA))
