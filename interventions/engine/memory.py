"""How much memory a device has left, how much was used at most, and what to do where it does not suffice."""

import logging
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def halving(run: Callable[[Any], Result], things: Sequence | Tensor, what: str) -> list[Result]:
    """What `run` gives of all things together, or of half of them at a time where the device's memory does not suffice, and so on.

    Parameters
    ----------
    things : at least one, in a sequence or along a tensor's first dimension
    what : they are, for the log

    Returns
    -------
    The result of each part, in order.

    Raises
    ------
    torch.OutOfMemoryError
        When one thing alone does not fit.
    """
    try:
        return [run(things)]
    except torch.OutOfMemoryError:
        if len(things) == 1:
            raise
    torch.cuda.empty_cache()  # not above, where the error still holds the tensors of its frames
    half = len(things) // 2
    log.warning("%d %s did not fit in memory; going on with %d at a time", len(things), what, half)
    return [*halving(run, things[:half], what), *halving(run, things[half:], what)]


def free_memory(device: torch.device) -> int:
    """Bytes that can still be used on a device; on a CPU, of this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def peak_memory(device: torch.device) -> int:
    """Bytes used at most since the program began: by torch on a CUDA device, by the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
