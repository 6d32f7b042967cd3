"""What effects cost, against two naive ways measured in the same run: (a) NOTICE's loop, three whole forward passes a cell, and (b) one
patch in one whole trace. Prints a table, and writes it as JSON.

The naive ways are timed on a few cells and multiplied; ratios are of medians. Models without a trained checkpoint have random weights:
their cost is that of the real ones. Each case runs in a process of its own, so that its peak memory is its own.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
import multiprocessing
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

import numpy as np
import torch
import tyro
from PIL import Image

from benchmarks.models import blip_base, small_llava
from benchmarks.timing import flop, matmul_rate, seconds, share_outside_operators
from interventions.engine.budget import Plan, batches, plan
from interventions.engine.capture import BASE, Captured, Example, capture
from interventions.engine.memory import peak_memory
from interventions.engine.oracle.patching import run_plain, source_states
from interventions.engine.plan import Patch, patches
from interventions.engine.sweep import sweep
from interventions.models.loading import load
from interventions.models.vlm import Vlm
from interventions.results.roles import Cell

QUESTION = "Is the striped circle red or blue?"  # ten tokens for BLIP


@dataclass
class Engine:
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
    `sweep_over_one_patch_a_trace`, count both; arithmetic and its rate are the sweep's."""

    case: str
    samples: int
    samples_a_trace: int
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
    positions: Sequence[int] | None  # None: every token
    samples: int = 1
    small: bool = False  # one thread, as studies give it


CASES = {
    "blip-shapes": Case(partial(load, "blip-shapes", "cpu"), [5], samples=100, small=True),
    "llava-shapes": Case(partial(load, "llava-shapes", "cpu"), [-1], samples=100, small=True),
    "llava-601": Case(small_llava, [-1]),
    "llava-601-back": Case(small_llava, [-9]),
    "blip-base-answer": Case(blip_base, [5]),
    "blip-base-all": Case(blip_base, None),
}


def random_examples(vlm: Vlm, count: int) -> list[Example]:
    """Pairs of random images with one question."""
    rng = np.random.default_rng(0)
    prompt = vlm.prompt(QUESTION)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2 * count)]
    return [Example(vlm.ids([prompt, prompt]), vlm.pixels(images[2 * i : 2 * i + 2]), (1, 2)) for i in range(count)]


def head_patches(vlm: Vlm, tokens: int, positions: Sequence[int] | None) -> list[Patch]:
    """Every head of the paper's component at some positions."""
    here = range(tokens) if positions is None else [position % tokens for position in positions]
    return patches(vlm.architecture.head_component, vlm.n_layers, vlm.n_heads, [Cell("", "", (position,)) for position in here])


@dataclass
class Work:
    """The effects of some samples, as a study computes them: in batches, each captured and then swept."""

    vlm: Vlm
    examples: Sequence[Example]
    every: list[Patch]
    plan: Plan

    def capture(self, batch: range) -> Captured:
        return capture(self.vlm, [self.examples[i] for i in batch], (self.every[0].component,))

    def sweep(self, captured: Captured) -> list[torch.Tensor]:
        return sweep(self.vlm, captured, [self.every] * len(captured.lengths), self.plan.tokens)

    def time(self) -> tuple[float, float]:
        """Seconds of all captures and of all sweeps."""
        capturing = sweeping = 0.0
        for batch in batches(len(self.examples), self.plan.samples):
            kept: list[Captured] = []
            capturing += seconds(lambda batch=batch, kept=kept: kept.append(self.capture(batch)), self.vlm.device)  # type: ignore[misc]
            sweeping += seconds(lambda kept=kept: self.sweep(kept[0]), self.vlm.device)  # type: ignore[misc]
        return capturing, sweeping

    def whole_batch(self) -> None:
        self.sweep(self.capture(range(min(self.plan.samples, len(self.examples)))))


def work_of(vlm: Vlm, case: Case) -> Work:
    examples = random_examples(vlm, case.samples)
    tokens = examples[0].ids.shape[1]
    return Work(vlm, examples, head_patches(vlm, tokens, case.positions), plan(vlm, [tokens]))


def run_case(name: str, repeats: int, naive_cells: int, threads: int) -> Row:
    """Time one case."""
    case = CASES[name]
    torch.set_num_threads(1 if case.small else threads or torch.get_num_threads())
    work = work_of(case.make(), case)
    vlm, first = work.vlm, work.examples[0]
    rng = np.random.default_rng(0)
    few = [work.every[i] for i in rng.choice(len(work.every), naive_cells, replace=False)]
    clean = [source_states(vlm, first, patch) for patch in few]
    work.whole_batch()  # warm

    # in turn, so that a machine that slows down slows all of them
    timed, plain, notice = [], [], []
    for repeat in range(repeats):
        timed.append(work.time())
        plain.append(seconds(partial(run_plain, vlm, first, few[repeat % len(few)], clean[repeat % len(few)])))
        notice.append(3 * seconds(partial(_forward, vlm, first)))
    capturing, sweeping = (median(column) / case.samples for column in zip(*timed, strict=True))
    peak = peak_memory(vlm.device)
    captured = work.capture(range(1))
    arithmetic = flop(partial(work.sweep, captured))
    return Row(
        case=name,
        samples=case.samples,
        samples_a_trace=min(case.samples, work.plan.samples),
        patches=len(work.every),
        capture=capturing,
        sweep=sweeping,
        patches_per_second=len(work.every) / (capturing + sweeping),
        times_over_notice_loop=median(notice) * len(work.every) / (capturing + sweeping),
        times_over_one_patch_a_trace=median(plain) * len(work.every) / (capturing + sweeping),
        sweep_over_one_patch_a_trace=median(plain) * len(work.every) / sweeping,
        tflop=arithmetic / 1e12,
        share_of_matmul_rate=arithmetic / sweeping / matmul_rate(),
        outside_model=share_outside_operators(work.whole_batch),
        peak_gib=peak / 2**30,
    )


def _forward(vlm: Vlm, example: Example) -> None:
    """One whole forward pass of the bare model."""
    with torch.no_grad():
        vlm.module(**vlm.inputs(example.ids[BASE:], {name: values[BASE:] for name, values in example.pixels.items()}))


COLUMNS = {
    "samples": ("samples", "d"), "samples_a_trace": ("a trace", "d"), "patches": ("patches", "d"), "capture": ("capture s", ".4f"),
    "sweep": ("sweep s", ".4f"), "patches_per_second": ("patches/s", ".0f"), "times_over_notice_loop": ("x (a)", ".0f"),
    "times_over_one_patch_a_trace": ("x (b)", ".0f"), "sweep_over_one_patch_a_trace": ("sweep x (b)", ".0f"), "tflop": ("TFLOP", ".4f"),
    "share_of_matmul_rate": ("of matmul", ".0%"), "outside_model": ("outside", ".0%"), "peak_gib": ("peak GiB", ".1f"),
}  # fmt: skip


def run(options: Engine) -> list[Row]:
    """Time the cases and print the table."""
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        raise SystemExit(f"error: unknown case {unknown[0]!r}; choose from {', '.join(CASES)}")
    machine = f"{platform.machine()}, {options.threads or torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{machine}; float32 matrix product {matmul_rate() / 1e9:.0f} GFLOP/s; times of one sample")
    print(f"{'case':>17}" + "".join(f"{title:>12}" for title, _ in COLUMNS.values()))
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for name in options.cases:
            row = processes.submit(run_case, name, options.repeats, options.naive_cells, options.threads).result()
            rows.append(row)
            print(f"{name:>17}" + "".join(f"{getattr(row, key):>12{form}}" for key, (_, form) in COLUMNS.items()), flush=True)
    return rows


def main() -> None:
    options = tyro.cli(Engine)
    rows = run(options)
    if options.out:
        options.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
