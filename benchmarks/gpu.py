"""What effects cost on a GPU, in one run of a few minutes: the sweep held against the plain path, then blip-vqa-base's and LLaVA-1.5-7B's
shapes with random weights made on the device. Prints the device, seconds, patches a second, the share of a matrix product's rate, memory.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro

from benchmarks.engine import Case, Work, work_of
from benchmarks.models import blip_base, llava_7b
from benchmarks.timing import flop, matmul_rate
from interventions.engine.memory import peak_memory
from interventions.engine.oracle.patching import verify_patches
from interventions.models.loading import choose_device
from interventions.models.vlm import Vlm


@dataclass
class Gpu:
    """Time the engine on a GPU.

    Example: python -m benchmarks.gpu --out gpu.json
    """

    device: str = "cuda"
    """Device; cpu serves to try the script out, with few samples and layers."""
    blip_samples: int = 500
    """Samples of blip-vqa-base's shape: 144 heads at the answer token, float32."""
    llava_samples: int = 100
    """Samples of LLaVA-1.5-7B's shape: 1,024 heads at the last token, bfloat16."""
    layers: int = 0
    """Layers of the language models, to try the script out; 0 for the real number."""
    out: Path | None = None
    """File for the JSON."""


def time_case(name: str, make: Callable[[], Vlm], case: Case) -> dict[str, object]:
    """Verify on one pair, then time all samples once, warm."""
    vlm = make()
    if vlm.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(vlm.device)
    work = work_of(vlm, case)
    _verify(work)
    work.whole_batch()  # warm
    capturing, sweeping = work.time()
    batch = range(min(work.plan.samples, case.samples))
    of_a_sample = flop(lambda: work.sweep(work.capture(batch))) / len(batch)
    seconds = (capturing + sweeping) / case.samples
    rate = matmul_rate(vlm.device, vlm.dtype, 8192 if vlm.device.type == "cuda" else 1024)
    row = {
        "case": name,
        "samples": case.samples,
        "samples_a_trace": work.plan.samples,
        "tokens_a_trace": work.plan.tokens,
        "patches": len(work.every),
        "capture_seconds": capturing,
        "sweep_seconds": sweeping,
        "seconds_a_sample": seconds,
        "patches_per_second": len(work.every) / seconds,
        "tflop_a_sample": of_a_sample / 1e12,
        "tflop_per_second": of_a_sample / seconds / 1e12,
        "matmul_tflop_per_second": rate / 1e12,
        "share_of_matmul_rate": of_a_sample / seconds / rate,
        "peak_gib": peak_memory(vlm.device) / 2**30,
    }
    for key, value in row.items():
        print(f"  {key:<24}{value:.4g}" if isinstance(value, float) else f"  {key:<24}{value}", flush=True)
    return row


def _verify(work: Work) -> None:
    """Hold the sweep of several pairs against the plain path."""
    captured = work.capture(range(min(2, len(work.examples))))
    for pair, measured in zip(work.examples, work.sweep(captured), strict=False):
        verify_patches(work.vlm, pair, work.every, measured)


def main() -> None:
    options = tyro.cli(Gpu)
    device = choose_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}")
    blip = Case(lambda: blip_base(layers=options.layers or 12).to(device), [5], options.blip_samples)
    llava = Case(partial(llava_7b, str(device), layers=options.layers or 32), [-1], options.llava_samples)
    rows: list[dict[str, object]] = [{"device": name, "torch": torch.__version__}]
    for title, case in (
        ("blip-vqa-base shape, float32, heads at the answer token", blip),
        ("LLaVA-1.5-7B shape, bfloat16, last token", llava),
    ):
        print(title)
        rows.append(time_case(title, case.make, case))
        if options.out:
            options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
