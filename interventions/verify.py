"""The sweep held against the plain path while it runs: some cells of a sample are measured again, by a whole clean and patched run each."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interventions.capture import Example
from interventions.models.vlm import Vlm
from interventions.plain import run_plain
from interventions.plan import Patch

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.05}  # logits, where both paths only round differently


class VerificationError(RuntimeError):
    """The sweep and the plain path disagree; names the cell."""


def verify(
    vlm: Vlm,
    example: Example,
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
        plain = run_plain(vlm, example, patches[index])
        if not torch.allclose(measured[index, : len(plain)], plain, atol=tolerance, rtol=tolerance):
            patch = patches[index]
            where = f"layer {', '.join(map(str, patch.layers))}" + ("" if patch.head is None else f", head {patch.head}")
            raise VerificationError(
                f"{patch.component} of {vlm.name}, {where}, positions {list(patch.positions)}: the sweep measured "
                f"{measured[index].tolist()}, the plain path {plain.tolist()}, further apart than {tolerance}. Results of this model would "
                "be wrong; nothing of this sample was kept. Please report it with the model's config.json"
            )
