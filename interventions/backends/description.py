"""What a model is like where its weights are: its number format and device, the versions there, and a hash of the weights themselves."""

import hashlib
import platform
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from interventions.models.vlm import Vlm

WORD = 8  # bytes that are added up together


def describe(vlm: Vlm) -> dict[str, Any]:
    """What is so where the weights are: `dtype`, `device_type` and `number_format` as a `Vlm` has them, `revision` (the commit of a
    checkpoint from the Hub, else ""), `weights` (see `hash_of_weights`), and `versions` of `python` and of the libraries that compute."""
    libraries = {name: version(name) for name in ("nnsight", "torch", "transformers")}
    return {
        "dtype": str(vlm.dtype).removeprefix("torch."),
        "device_type": vlm.device_type,
        "number_format": vlm.number_format,
        "revision": getattr(vlm.module.config, "_commit_hash", None) or "",
        "weights": hash_of_weights(vlm.module),
        "versions": {"python": platform.python_version(), **libraries},
    }


def hash_of_weights(module: torch.nn.Module) -> str:
    """The first 12 hex digits of a hash over the name, shape, dtype and rows of each weight, of which the bits are added up.

    Sums of integers are the same on every device, and others where any single number is another. The weights are read once.
    """
    digest = hashlib.sha256()
    for name, weights in module.state_dict().items():
        digest.update(f"{name} {tuple(weights.shape)} {weights.dtype}".encode())
        digest.update(_sums(weights).cpu().numpy().tobytes() if weights.numel() else b"")
    return digest.hexdigest()[:12]


def _sums(weights: Tensor) -> Int[Tensor, " row"]:
    """The bytes of each row, read as int64 and added up modulo 2**64. The first of several axes counts the rows; a vector is one."""
    weights = weights.detach()
    rows = (weights.flatten(1) if weights.ndim > 1 else weights.reshape(1, -1)).contiguous().view(torch.uint8)
    if rows.shape[1] % WORD or rows.storage_offset() % WORD:
        rows = pad(rows, (0, -rows.shape[1] % WORD))
    return rows.view(torch.int64).sum(-1)
