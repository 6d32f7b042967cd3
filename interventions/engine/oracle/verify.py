"""What is measured again the plain way while a method runs, and how far the two may lie apart."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_prep.tables.command import Fault
from interventions.models.vlm import Vlm

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.05}  # logits, where both paths only round differently


class VerificationError(Fault):
    """A run among others and the same run the plain way disagree; names it."""


def chosen(count: int, wanted: int) -> Int[np.ndarray, " wanted"]:
    """Which of so many runs are measured again; the same ones for the same number."""
    return np.random.default_rng(count).choice(count, min(wanted, count), replace=False)


def hold(vlm: Vlm, what: str, measured: Float[Tensor, " measurement"], plain: Float[Tensor, " measurement"]) -> None:
    """Raise VerificationError when what a run measured among others and by itself differs by more than rounding.

    Parameters
    ----------
    plain : may lack the divergence
    """
    tolerance = TOLERANCES[vlm.dtype]
    if not torch.allclose(measured[: len(plain)], plain, atol=tolerance, rtol=tolerance):
        advice = "Please report it with the model's config.json"
        if not vlm.architecture.described:
            advice = (
                f"Model type {vlm.architecture.name!r} has no description and was taken for a decoder that reads its prompt causally from "
                "the start; if tokens of its image read each other, or layers get more of the image on the way, describe it in "
                'interventions/models/architecture.py with causal_from="image", or "nowhere"'
            )
        raise VerificationError(
            f"{what} of {vlm.name}: among others the run measured {measured.tolist()}, by itself, the plain way, {plain.tolist()}, further "
            f"apart than {tolerance}. Results of this model would be wrong; nothing of this sample was kept. {advice}"
        )
