"""What a sweep costs, against two naive ways measured in the same run: (a) NOTICE's loop, three whole forward passes a cell, and (b) one patch
in one whole trace. Prints a table, and writes it as JSON.

The naive ways are timed on a few cells and multiplied; ratios are of medians. Models without a trained checkpoint have random weights: their
cost is that of the real ones.
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
from interventions.plan import Patch, patches
from interventions.roles import Cell
from interventions.sweep import sweep

QUESTION = "Is the circle red or blue?"


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
    """One line of the table. Times in seconds, of one sample."""

    case: str
    patches: int
    sweep: float
    patches_per_second: float
    times_over_notice_loop: float
    times_over_one_patch_a_trace: float
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

    def whole() -> None:
        sweep(vlm, capture(vlm, ids, pixels, (1, 2), (component,)), every)

    whole()  # warm
    # in turn, so that a machine that slows down slows all of them
    fast, plain, notice = [], [], []
    captured = capture(vlm, ids, pixels, (1, 2), (component,))
    for repeat in range(repeats):
        fast.append(_time(whole))
        patch: Patch = few[repeat % len(few)]
        plain.append(_time(lambda patch=patch: run_plain(vlm, captured, pixels, patch)))
        notice.append(3 * _time(lambda: _forward(vlm, ids, pixels)))
    with FlopCounterMode(display=False) as counter:
        whole()
    flop, rate, seconds = counter.get_total_flops(), matmul_rate(), median(fast)
    return Row(
        case=name,
        patches=len(every),
        sweep=seconds,
        patches_per_second=len(every) / seconds,
        times_over_notice_loop=median(notice) * len(every) / seconds,
        times_over_one_patch_a_trace=median(plain) * len(every) / seconds,
        tflop=flop / 1e12,
        share_of_matmul_rate=flop / seconds / rate,
        outside_model=1 - _model_seconds(vlm, whole) / _time(whole),
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def _forward(vlm: Vlm, ids: torch.Tensor, pixels: torch.Tensor) -> None:
    """One whole forward pass of the bare model."""
    with torch.no_grad():
        vlm.module(**vlm.inputs(ids[1:], pixels[1:]))


def _model_seconds(vlm: Vlm, work: Callable[[], None]) -> float:
    """Seconds that `work` spends in torch operators, by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    return sum(event.self_cpu_time_total for event in profile.key_averages() if event.key.startswith("aten::")) / 1e6


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
    columns = ["case", "patches", "sweep s", "patches/s", "x (a)", "x (b)", "TFLOP", "of matmul", "outside", "peak GiB"]
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; matrix product {matmul_rate() / 1e9:.0f} GFLOP/s"
    )
    print("".join(f"{column:>16}" if column == "case" else f"{column:>11}" for column in columns))
    for name in options.cases:
        row = run_case(name, CASES[name], options.repeats, options.naive_cells)
        rows.append(asdict(row))
        print(
            f"{row.case:>16}{row.patches:>11}{row.sweep:>11.3f}{row.patches_per_second:>11.0f}{row.times_over_notice_loop:>11.0f}"
            f"{row.times_over_one_patch_a_trace:>11.0f}{row.tflop:>11.3f}{row.share_of_matmul_rate:>11.0%}{row.outside_model:>11.0%}"
            f"{row.peak_gib:>11.1f}",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
