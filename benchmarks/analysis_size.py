"""What the analysis costs at full size: time and peak memory of each part, on a results folder that is made for it.

The folder is as large as that of LLaVA-1.5-7B with every token role patched: 1,024 heads x 500 samples x 20 tokens in each file of heads,
whole modules beside them, and attention to 576 patches.
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

from analysis import compare_corruptions, figures, head_functions, modules, paper_claims, report, robust_heads, stability, universal_heads
from interventions.results import effects

ANALYSES: dict[str, Callable[[Path], object]] = {
    "universal_heads": universal_heads.write,
    "robust_heads": robust_heads.write,
    "head_functions": head_functions.write,
    "modules": modules.write,
    "compare_corruptions": compare_corruptions.write,
    "stability": stability.write,
    "figures": figures.write,
    "paper_claims": paper_claims.write,
    "report": report.write,
}
MODALITY = {"sip": "image", "str": "text"}
ATTENTION = "cross_attention"


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
    patches: int = 24
    """Patches along a side of the image."""


def made_effects(options: AnalysisSize, corruption: str, dataset: str, component: str, generator: np.random.Generator) -> xr.Dataset:
    """A file of effects that follows the schema, of heads or of a whole module: noise, and 1 logit in the first place."""
    heads = component == ATTENTION
    sizes = {"sample": options.samples, "layer": options.layers, "head": options.heads, "token": options.tokens}
    dims = tuple(dim for dim in sizes if heads or dim != "head")
    shape = tuple(sizes[dim] for dim in dims)
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
        **({"head": np.arange(options.heads)} if heads else {}),
        "token": np.array(roles, dtype=object),
        "token_role": (("sample", "token"), np.array([roles] * options.samples, dtype=object)),
        "token_text": (("sample", "token"), np.array([roles] * options.samples, dtype=object)),
    }
    named = {"model": "made", "dataset": dataset, "corruption": corruption, "modality": MODALITY[corruption]}
    attrs = named | {"component": component, "granularity": "heads" if heads else "module", "main_token": "correct"}
    return effects.validate(xr.Dataset(variables | baselines, coordinates | texts | of_samples(options), attrs))


def of_samples(options: AnalysisSize) -> dict[str, tuple[str, np.ndarray]]:
    """The task of each sample, and whether its correct option came first."""
    numbers = np.arange(options.samples)
    tasks = np.array([f"task {number}" for number in numbers % options.categories], dtype=object)
    return {"category": ("sample", tasks), "correct_first": ("sample", numbers // options.categories % 2 == 0)}


def made_attention(options: AnalysisSize, dataset: str, generator: np.random.Generator) -> xr.Dataset:
    """An attention file: even attention with noise, but for one head that looks at the object, a square somewhere in the image."""
    side = options.patches
    masks = np.zeros((options.samples, side, side), dtype="float32")
    for mask, (row, column) in zip(masks, generator.integers(0, side - side // 3, (options.samples, 2)), strict=True):
        mask[row : row + side // 3, column : column + side // 3] = 1
    maps = generator.uniform(0.5, 1.5, (options.samples, options.layers, options.heads, side**2)).astype("float32")
    maps[:, 0, 0] += 8 * masks.reshape(options.samples, -1)
    maps /= maps.sum(-1, keepdims=True)
    variables = {
        "attention": (("sample", "layer", "head", "patch"), maps),
        "object_share": (("sample", "patch"), masks.reshape(options.samples, -1)),
        "image": (("sample", "y", "x", "rgb"), np.repeat((200 * masks[..., None] + 30).astype("uint8"), 3, -1)),
    }
    texts = {name: ("sample", np.full(options.samples, "text", dtype=object)) for name in effects.SAMPLE_COORDINATES}
    coordinates = {
        "sample": np.array([f"s{i:04d}" for i in range(options.samples)], dtype=object),
        "patch_row": ("patch", np.arange(side**2) // side),
        "patch_col": ("patch", np.arange(side**2) % side),
    }
    attrs = {"model": "made", "dataset": dataset, "component": ATTENTION, "query": "correct"}
    return xr.Dataset(variables, coordinates | texts | of_samples(options), attrs)


def make_results(folder: Path, options: AnalysisSize) -> None:
    """Write the results folder."""
    generator = np.random.default_rng(0)
    for dataset in (f"set {number}" for number in range(options.datasets)):
        for corruption in MODALITY:
            for component, name in {ATTENTION: f"{ATTENTION}-heads", "mlp": "mlp", "block": "block"}.items():
                made = made_effects(options, corruption, dataset, component, generator)
                effects.write(made, folder / "made" / dataset / corruption / f"{name}.nc")
        effects.write(made_attention(options, dataset, generator), folder / "made" / dataset / "attention.nc")


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
        print(f"{len(list(Path(folder).rglob('*.nc')))} files, {size:.2f} GiB")
        for name in ANALYSES:
            found[name] = processes.submit(measure, name, Path(folder)).result()
            print(f"{name:>20}: {found[name][0]:6.1f} s, peak {found[name][1]:.2f} GiB", flush=True)
    return found


if __name__ == "__main__":
    run(tyro.cli(AnalysisSize))
