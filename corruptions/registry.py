"""The corruptions by name, and which modality each changes."""

from collections.abc import Iterable

from corruptions.pair import Corruption
from corruptions.semantic_image_pairs import SemanticImagePairs
from corruptions.symmetric_token_replacement import SymmetricTokenReplacement
from data_prep.samples import Sample

MODALITIES = {"sip": SemanticImagePairs.modality, "str": SymmetricTokenReplacement.modality}
NAMES = tuple(MODALITIES)


def make(name: str, samples: Iterable[Sample], seed: int) -> Corruption:
    """The corruption called `name` for a data set.

    Raises
    ------
    ValueError
        For a name that is not in `NAMES`.
    """
    if name == "sip":
        return SemanticImagePairs()
    if name == "str":
        return SymmetricTokenReplacement(samples, seed)
    raise ValueError(f"unknown corruption {name!r}; choose from {', '.join(NAMES)}")
