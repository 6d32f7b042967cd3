"""The corruptions by name, and which modality each changes."""

from collections.abc import Iterable
from typing import Any

from corruptions import embedding_ablation
from corruptions.constraint_replacement import ConstraintReplacement
from corruptions.gaussian_noise import GaussianNoise
from corruptions.inpainting import Inpainting, Region
from corruptions.object_removal import ObjectRemoval
from corruptions.options import CorruptionOptions
from corruptions.painting.cache import ImageCache
from corruptions.painting.inpainter import PAPERS_MODEL, Inpainter
from corruptions.pair import Corruption
from corruptions.semantic_image_pairs import SemanticImagePairs
from corruptions.symmetric_token_replacement import SymmetricTokenReplacement
from data_prep.tables.sample import Sample

MODALITIES = {"sip": SemanticImagePairs.modality, "str": SymmetricTokenReplacement.modality}
MODALITIES |= {"gaussian_noise": "image", "gaussian_noise_text": "text"}
MODALITIES |= {name: made.modality for name, made in embedding_ablation.KINDS.items()}
MODALITIES |= {made.name: made.modality for made in (Inpainting, ObjectRemoval, ConstraintReplacement)}
NAMES = tuple(MODALITIES)
OF_EMBEDDINGS = ("gaussian_noise", "gaussian_noise_text", *embedding_ablation.KINDS)  # they change embeddings, not what is read


def make(name: str, samples: Iterable[Sample], seed: int, options: CorruptionOptions | None = None, device: str = "auto") -> Corruption:
    """The corruption called `name` for a data set.

    Parameters
    ----------
    device : where a diffusion model runs

    Raises
    ------
    ValueError
        For a name that is not in `NAMES`, options that make no sense, and a diffusion model that is not there (`InpaintingError`).
    """
    options = options or CorruptionOptions()
    if name == "sip":
        return SemanticImagePairs()
    if name == "str":
        return SymmetricTokenReplacement(samples, seed)
    if name in ("gaussian_noise", "gaussian_noise_text"):
        return GaussianNoise(MODALITIES[name])
    if name in embedding_ablation.KINDS:
        return embedding_ablation.KINDS[name]
    if name == "constraint":
        return ConstraintReplacement(samples, seed, options.constraint_words)
    region, images = Region(options.inpainting_region, options.inpainting_dilation), ImageCache(options.inpainted)
    if name == "inpainting":
        return Inpainting(_inpainter(options.inpainting_model or PAPERS_MODEL, options, device), region, images, seed)
    if name == "object_removal":
        inpainter = _inpainter(options.inpainting_model, options, device) if options.inpainting_model else None
        return ObjectRemoval(inpainter, region, images, seed)
    raise ValueError(f"unknown corruption {name!r}; choose from {', '.join(NAMES)}")


def _inpainter(model: str, options: CorruptionOptions, device: str) -> Inpainter:
    return Inpainter(
        model,
        options.inpainting_revision,
        steps=options.inpainting_steps,
        guidance=options.inpainting_guidance,
        dtype=options.inpainting_dtype,
        device=device,
    )


def configuration(name: str, options: CorruptionOptions | None = None) -> dict[str, Any]:
    """What the pairs of a corruption depend on besides data set, tokenizer and seed; empty for one without options.

    Raises
    ------
    ValueError
        As `make` does: a check, before any work, that a corruption can be used.
    """
    return getattr(make(name, (), 0, options), "configuration", {})
