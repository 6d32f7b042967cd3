"""How much memory a device has left, and how much was used at most."""

import resource
import sys

import psutil
import torch


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
