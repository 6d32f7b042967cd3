"""How cost grows with samples, with heads (layers) and with tokens: times, peak memory, and the exponent of a power law fitted to each."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import torch
import tyro

from benchmarks.engine import Case, work_of
from benchmarks.models import blip_base, llava
from interventions.engine.memory import peak_memory
from interventions.models.loading import load
from interventions.models.vlm import Vlm


@dataclass
class Growth:
    """Time the engine at growing sizes.

    Example: python -m benchmarks.growth
    """

    repeats: int = 3
    """Timed runs a size; the median counts."""


def _llava(image_size: int) -> Vlm:
    return llava(layers=8, heads=8, width=512, feed_forward=1376, vision_layers=2, vision_width=256, image_size=image_size)


SWEEPS: dict[str, dict[int, tuple[Callable[[], Vlm], list[int], int]]] = {  # what grows: its size -> model, positions, samples
    "samples (blip-shapes, all heads at one token)": {n: (partial(load, "blip-shapes", "cpu"), [5], n) for n in (50, 100, 200)},
    "heads (blip-base shape with 3, 6, 12 layers, one token)": {12 * n: (partial(blip_base, layers=n), [5], 1) for n in (3, 6, 12)},
    "tokens (8 x 8 LLaVA with larger images, all heads at the last token)": {
        tokens: (partial(_llava, size), [-1], 1) for tokens, size in ((100, 126), (300, 238), (600, 336))
    },
}


def measure(make: Callable[[], Vlm], positions: list[int], samples: int, repeats: int, small: bool) -> tuple[int, float, float, float]:
    """Tokens of a prompt, median seconds of all captures and of all sweeps, and the process's peak memory in GiB."""
    if small:
        torch.set_num_threads(1)
    work = work_of(make(), Case(make, positions, samples))
    work.whole_batch()  # warm
    capturing, sweeping = (median(column) for column in zip(*(work.time() for _ in range(repeats)), strict=True))
    return work.examples[0].ids.shape[1], capturing, sweeping, peak_memory(work.vlm.device) / 2**30


def run(options: Growth) -> list[dict[str, object]]:
    """Time every size, each in a process of its own, and print them with the fits."""
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for name, sizes in SWEEPS.items():
            small = name.startswith("samples")
            found = {}
            for size, (make, positions, samples) in sizes.items():
                tokens, *numbers = processes.submit(measure, make, positions, samples, options.repeats, small).result()
                found[tokens if name.startswith("tokens") else size] = numbers
            x = np.log(list(found))
            exponents = [float(np.polyfit(x, np.log([numbers[i] for numbers in found.values()]), 1)[0]) for i in (0, 1)]
            print(f"{name}: capture grows as size^{exponents[0]:.2f}, sweep as size^{exponents[1]:.2f}")
            for size, (capturing, sweeping, peak) in found.items():
                print(f"{size:>8}: capture {capturing:.3f} s, sweep {sweeping:.3f} s, peak {peak:.2f} GiB", flush=True)
            rows.append({"growth": name, "capture_exponent": exponents[0], "sweep_exponent": exponents[1], "sizes": found})
    return rows


if __name__ == "__main__":
    run(tyro.cli(Growth))
