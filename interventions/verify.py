"""The sweep held against the plain path while it runs: a few cells of a sample are measured again, one patch in one whole trace each."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interventions.capture import Captured
from interventions.models.vlm import Vlm
from interventions.plain import run_plain
from interventions.plan import Patch

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.05}  # logits, where both paths only round differently


class VerificationError(RuntimeError):
    """The sweep and the plain path disagree; names the cell."""


def verify(
    vlm: Vlm,
    captured: Captured,
    pixels: Float[Tensor, "run channel y x"],
    patches: Sequence[Patch],
    measured: Float[Tensor, "patch measurement"],
    cells: int = 4,
) -> None:
    """Measure some of the patches again the plain way (the same ones for the same number of patches).

    Raises
    ------
    VerificationError
        When a measurement differs by more than rounding.
    """
    tolerance = TOLERANCES[vlm.dtype]
    for index in np.random.default_rng(len(patches)).choice(len(patches), min(cells, len(patches)), replace=False):
        plain = run_plain(vlm, captured, pixels, patches[index])
        if not torch.allclose(measured[index], plain, atol=tolerance, rtol=tolerance):
            patch = patches[index]
            head = "" if patch.head is None else f", head {patch.head}"
            raise VerificationError(
                f"{patch.component} of {vlm.name}, layer {patch.layer}{head}, positions {list(patch.positions)}: the sweep measured "
                f"{measured[index].tolist()}, the plain path {plain.tolist()}, further apart than {tolerance}. Results of this model would "
                "be wrong; nothing of this sample was kept. Please report it with the model's config.json"
            )
