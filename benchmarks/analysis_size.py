"""What the analysis of heads costs at full size: time and peak memory of each, on a results folder that is made for it.

The folder is as large as that of LLaVA-1.5-7B with every token role patched: 1,024 heads x 500 samples x 20 tokens in each file.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import multiprocessing
import resource
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import tyro
import xarray as xr

from analysis import robust_heads, stability, universal_heads
from interventions import effects

ANALYSES: dict[str, Callable[[Path], object]] = {
    "universal_heads": universal_heads.find_and_write,
    "robust_heads": robust_heads.find_and_write,
    "stability": stability.find_and_write,
}
MODALITY = {"sip": "image", "str": "text"}


@dataclass
class AnalysisSize:
    """Time the analyses on a results folder of made effects, each in a process of its own.

    Example: python -m benchmarks.analysis_size
    """

    layers: int = 32
    """Layers of the model."""
    heads: int = 32
    """Heads of a layer."""
    samples: int = 500
    """Samples of a data set."""
    tokens: int = 20
    """Token roles that were patched."""
    datasets: int = 3
    """Data sets, each under both corruptions."""
    categories: int = 3
    """Tasks of a data set."""


def made_effects(options: AnalysisSize, corruption: str, dataset: str, generator: np.random.Generator) -> xr.Dataset:
    """A file of effects that follows the schema: noise, and 1 logit in one head."""
    shape = (options.samples, options.layers, options.heads, options.tokens)
    dims = ("sample", "layer", "head", "token")
    logits = {name: generator.normal(0, 0.05, shape).astype("float32") for name in effects.MEASUREMENTS}
    logits["logit_correct"][:, 0, 0] += 1
    each = np.ones(options.samples, dtype="float32")
    roles = ["correct", *(f"role {i}" for i in range(1, options.tokens))]
    variables = {name: (dims, values) for name, values in logits.items()}
    baselines = {f"{run}_{name}": ("sample", 0 * each) for run in ("clean", "corrupt") for name in effects.MEASUREMENTS}
    texts = {name: ("sample", np.full(options.samples, "text", dtype=object)) for name in effects.SAMPLE_COORDINATES}
    coordinates = {
        "sample": np.array([f"s{i:04d}" for i in range(options.samples)], dtype=object),
        "layer": np.arange(options.layers),
        "head": np.arange(options.heads),
        "token": np.array(roles, dtype=object),
        "token_role": (("sample", "token"), np.array([roles] * options.samples, dtype=object)),
        "token_text": (("sample", "token"), np.array([roles] * options.samples, dtype=object)),
    }
    tasks = np.array([f"task {i % options.categories}" for i in range(options.samples)], dtype=object)
    named = {"model": "made", "dataset": dataset, "corruption": corruption, "modality": MODALITY[corruption]}
    attrs = named | {"component": "cross_attention", "granularity": "heads", "main_token": "correct"}
    return effects.validate(xr.Dataset(variables | baselines, coordinates | texts | {"category": ("sample", tasks)}, attrs))


def make_results(folder: Path, options: AnalysisSize) -> None:
    """Write the results folder."""
    generator = np.random.default_rng(0)
    for corruption in MODALITY:
        for number in range(options.datasets):
            path = folder / "made" / f"set {number}" / corruption / "cross_attention-heads.nc"
            effects.write(made_effects(options, corruption, f"set {number}", generator), path)


def measure(name: str, folder: Path) -> tuple[float, float]:
    """Seconds of an analysis, and the peak memory of this process in GiB."""
    started = perf_counter()
    ANALYSES[name](folder)
    return perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run(options: AnalysisSize) -> dict[str, tuple[float, float]]:
    """Make the folder, run every analysis on it, and print what it took."""
    found = {}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        processes.submit(make_results, Path(folder), options).result()  # elsewhere: a child starts from its parent's peak memory
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.nc")) / 2**30
        print(f"{len(MODALITY) * options.datasets} files, {size:.2f} GiB")
        for name in ANALYSES:
            found[name] = processes.submit(measure, name, Path(folder)).result()
            print(f"{name:>16}: {found[name][0]:6.1f} s, peak {found[name][1]:.2f} GiB", flush=True)
    return found


if __name__ == "__main__":
    run(tyro.cli(AnalysisSize))
