"""What effects cost, against two naive ways measured in the same run: (a) NOTICE's loop, three whole forward passes a cell, and (b) one
patch in one whole trace. Prints a table, and writes it as JSON.

The naive ways are timed on a few cells and multiplied; ratios are of medians. Models without a trained checkpoint have random weights:
their cost is that of the real ones.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

import numpy as np
import torch
import tyro
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import blip_base, small_llava
from interventions.capture import capture
from interventions.models.loading import load
from interventions.models.vlm import Vlm
from interventions.plain import run_plain
from interventions.plan import patches
from interventions.roles import Cell
from interventions.sweep import sweep

QUESTION = "Is the striped circle red or blue?"  # ten tokens for BLIP


@dataclass
class Benchmark:
    """Time the engine against naive loops.

    Example: python -m benchmarks.engine --cases blip-shapes llava-shapes
    """

    cases: tuple[str, ...] = ("blip-shapes", "llava-shapes", "llava-601", "llava-601-back", "blip-base-answer", "blip-base-all")
    """Which cases (see `CASES`)."""
    repeats: int = 3
    """Timed sweeps a case; the median counts."""
    naive_cells: int = 3
    """Cells on which the naive ways are timed."""
    threads: int = 0
    """CPU threads; 0 takes all cores."""
    out: Path | None = None
    """File for the JSON."""


@dataclass
class Row:
    """One line of the table. Times in seconds, of one sample: both runs captured, then every cell swept. Ratios, but for
    `sweep_over_one_patch_a_trace`, count both; arithmetic, its rate and the share outside the model are the sweep's."""

    case: str
    patches: int
    capture: float
    sweep: float
    patches_per_second: float
    times_over_notice_loop: float
    times_over_one_patch_a_trace: float
    sweep_over_one_patch_a_trace: float
    tflop: float
    share_of_matmul_rate: float
    outside_model: float
    peak_gib: float


@dataclass
class Case:
    """A model, and the cells of one sample: roles do not matter to cost, positions do (negative ones count from the end)."""

    make: Callable[[], Vlm]
    heads: bool
    positions: Sequence[int] | None  # None: every token


CASES = {
    "blip-shapes": Case(lambda: load("blip-shapes", "cpu"), True, [5]),
    "llava-shapes": Case(lambda: load("llava-shapes", "cpu"), True, [-1]),
    "llava-601": Case(small_llava, True, [-1]),
    "llava-601-back": Case(small_llava, True, [-9]),
    "blip-base-answer": Case(blip_base, True, [5]),
    "blip-base-all": Case(blip_base, True, None),
}


def matmul_rate(size: int = 3072) -> float:
    """Floating-point operations a second of a large float32 matrix product, the median of five."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / median(_time(lambda: a @ b) for _ in range(5))


def run_case(name: str, case: Case, repeats: int, naive_cells: int) -> Row:
    """Time one case."""
    vlm = case.make()
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]
    prompt = vlm.prompt(QUESTION)
    tokens = len(prompt.ids)
    component = vlm.architecture.head_component
    ids, pixels = vlm.ids([prompt, prompt]), vlm.pixels(images)
    positions = range(tokens) if case.positions is None else [position % tokens for position in case.positions]
    every = patches(component, vlm.n_layers, vlm.n_heads, [Cell("", "", (position,)) for position in positions])
    few = [every[i] for i in rng.choice(len(every), naive_cells, replace=False)]

    # in turn, so that a machine that slows down slows all of them
    capturing, sweeping, plain, notice = [], [], [], []
    captured = capture(vlm, ids, pixels, (1, 2), (component,))
    sweep(vlm, captured, every)  # warm
    for repeat in range(repeats):
        capturing.append(_time(partial(capture, vlm, ids, pixels, (1, 2), (component,))))
        sweeping.append(_time(partial(sweep, vlm, captured, every)))
        plain.append(_time(partial(run_plain, vlm, captured, pixels, few[repeat % len(few)])))
        notice.append(3 * _time(partial(_forward, vlm, ids, pixels)))
    with FlopCounterMode(display=False) as counter:
        sweep(vlm, captured, every)
    seconds, whole_seconds = median(sweeping), median(sweeping) + median(capturing)
    in_model = _share_in_model(partial(sweep, vlm, captured, every))
    return Row(
        case=name,
        patches=len(every),
        capture=median(capturing),
        sweep=seconds,
        patches_per_second=len(every) / whole_seconds,
        times_over_notice_loop=median(notice) * len(every) / whole_seconds,
        times_over_one_patch_a_trace=median(plain) * len(every) / whole_seconds,
        sweep_over_one_patch_a_trace=median(plain) * len(every) / seconds,
        tflop=counter.get_total_flops() / 1e12,
        share_of_matmul_rate=counter.get_total_flops() / seconds / matmul_rate(),
        outside_model=1 - in_model,
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def _forward(vlm: Vlm, ids: torch.Tensor, pixels: torch.Tensor) -> None:
    """One whole forward pass of the bare model."""
    with torch.no_grad():
        vlm.module(**vlm.inputs(ids[1:], pixels[1:]))


def _share_in_model(work: Callable[[], object]) -> float:
    """Share of the time of `work` that is spent in torch operators, by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        seconds = _time(work)
    inside = sum(event.self_cpu_time_total for event in profile.key_averages() if event.key.startswith("aten::"))
    return min(1.0, inside / 1e6 / seconds)


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    options = tyro.cli(Benchmark)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        raise SystemExit(f"error: unknown case {unknown[0]!r}; choose from {', '.join(CASES)}")
    rows = []
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{machine}; matrix product {matmul_rate() / 1e9:.0f} GFLOP/s")
    columns = [
        "case",
        "patches",
        "capture s",
        "sweep s",
        "patches/s",
        "x (a)",
        "x (b)",
        "sweep x (b)",
        "TFLOP",
        "of matmul",
        "outside",
        "peak GiB",
    ]
    print("".join(f"{column:>{17 if column == 'case' else 12}}" for column in columns))
    for name in options.cases:
        row = run_case(name, CASES[name], options.repeats, options.naive_cells)
        rows.append(asdict(row))
        print(
            f"{row.case:>17}{row.patches:>12}{row.capture:>12.3f}{row.sweep:>12.3f}{row.patches_per_second:>12.0f}"
            f"{row.times_over_notice_loop:>12.0f}{row.times_over_one_patch_a_trace:>12.0f}{row.sweep_over_one_patch_a_trace:>12.0f}"
            f"{row.tflop:>12.4f}{row.share_of_matmul_rate:>12.0%}{row.outside_model:>12.0%}{row.peak_gib:>12.1f}",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
