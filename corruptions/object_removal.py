"""Object removal (counterfactual inpainting, Visual Jenga): the thing asked about is taken out, the hole filled; the question stays."""

from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from PIL import Image

from corruptions.inpainting import Region, inpaint, repaint
from corruptions.painting.cache import ImageCache
from corruptions.painting.inpainter import Inpainter
from corruptions.pair import Pair, Tokenize
from data_prep.tables.sample import Sample, option_spans

FILL: dict[str, Any] = {"fill": "Telea", "radius": 3}


class ObjectRemoval:
    """The corrupt image is the clean one with the thing's region filled; kept in a folder.

    Parameters
    ----------
    inpainter : fills the region with an empty prompt, and the sample's noun as what it shall not show; None continues what surrounds the
        region into it (Telea's method), which suits plain backgrounds
    """

    name = "object_removal"
    modality: Literal["image", "text"] = "image"

    def __init__(self, inpainter: Inpainter | None, region: Region, images: ImageCache, seed: int) -> None:
        self.inpainter, self.region, self.images, self.seed = inpainter, region, images, seed

    @property
    def configuration(self) -> dict[str, Any]:
        """What its images depend on, besides sample and seed."""
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
