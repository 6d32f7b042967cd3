"""Options of corruptions, by themselves: a command line can show them before any library is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class CorruptionOptions:
    """Options of corruptions that paint images or replace nouns."""

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
    constraint_words: tuple[str, ...] = ()
    """Nouns that `constraint` puts into questions; default: the data set's own."""
