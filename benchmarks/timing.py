"""Clocks: seconds of some work, the rate of a matrix product on the same device, and the share of time spent in torch's operators."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device("cpu")


def seconds(work: Callable[[], object], device: torch.device = CPU) -> float:
    """Seconds of some work, what it leaves running on a CUDA device included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def matmul_rate(device: torch.device = CPU, dtype: torch.dtype = torch.float32, size: int = 3072) -> float:
    """Floating-point operations a second of a large matrix product, the median of five."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / median(seconds(lambda: a @ b, device) for _ in range(5))


def flop(work: Callable[[], object]) -> int:
    """Floating-point operations of some work, counted by torch while it runs."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def share_outside_operators(work: Callable[[], object]) -> float:
    """Share of the time of `work` that is spent outside torch's operators (nnsight and Python), by torch's profiler on a CPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        whole = seconds(work)
    inside = sum(event.self_cpu_time_total for event in profile.key_averages() if event.key.startswith("aten::"))
    return max(0.0, 1 - inside / 1e6 / whole)
