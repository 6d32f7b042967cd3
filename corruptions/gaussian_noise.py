"""Gaussian noise on the embeddings of the image (Palit et al.) or of the question (ROME): the baseline of semantic corruptions."""

import math
from dataclasses import dataclass

from corruptions.base import CleanInputs, register


@dataclass(frozen=True)
class NoiseOptions:
    """Options of the corruptions that add noise."""

    noise_multiple: float = 3.0
    """Standard deviation of gaussian_noise, as a multiple of that of the embeddings over the data set's clean runs (all whose prompt fits,
    or 1,000 that are drawn from a larger data set, always the same)."""
    noise_draws: int = 10
    """Draws of gaussian_noise a sample; they are kept apart in the file, and metrics are averaged over them."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiple) and self.noise_multiple > 0):
            raise ValueError(f"--noise-multiple must be a finite number above 0, not {self.noise_multiple:g}")
        if self.noise_draws < 1:
            raise ValueError(f"--noise-draws must be at least 1, not {self.noise_draws}")


@register(
    "gaussian_noise_text",
    "text",
    "gets noise on the question's embeddings",
    options=NoiseOptions,
    embeddings="noisy",
)
@register(
    "gaussian_noise",
    "image",
    "gets noise on the image's embeddings",
    options=NoiseOptions,
    embeddings="noisy",
)
class GaussianNoise(CleanInputs):
    """Image and question stay; the corrupt run's embeddings get noise, which `interventions.engine.corrupt_embeddings` draws."""
