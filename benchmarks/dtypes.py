"""How effects of heads in other number formats differ from those in float32, and how long they take. Prints two tables.

On the shipped checkpoints the same samples are used: those that the float32 model answers correctly. At full size weights are random,
and the formats are 16-bit weights, and float32 weights whose matrix products may round their inputs to bfloat16.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tempfile
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import torch
import tyro
import xarray as xr
from scipy.stats import spearmanr

from analysis.heads.rules import stand_out
from analysis.store.folder import head_name
from benchmarks.engine import CASES, work_of
from interventions.backends.opening import prepare
from interventions.engine.capture import BASE
from interventions.head_patching import patch_heads
from interventions.results import effects
from interventions.study.options import Options


@dataclass
class Dtypes:
    """Compare effects of heads in bfloat16 and float16 with float32.

    Example: python -m benchmarks.dtypes --samples 10
    """

    models: tuple[str, ...] = ("blip-shapes", "llava-shapes")
    """Models."""
    dtypes: tuple[str, ...] = ("bfloat16", "float16")
    """Number formats held against float32 on them; nf4 is possible too."""
    samples: int = 50
    """Samples of each category."""
    seed: int = 0
    """Seed of the rendered scenes."""
    cases: tuple[str, ...] = ("blip-base-answer", "llava-601")
    """Full-size cases of `benchmarks.engine`."""
    repeats: int = 3
    """Timed runs of these; the median counts."""


def head_effects(
    model: str, dtype: str, options: Dtypes, corruption: str, answers: dict[str, str] | None
) -> tuple[xr.DataArray, dict[str, str], float]:
    """LD_patched - LD_corrupt [sample, layer, head] at the paper's token, the answers that chose the samples, and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        study = prepare(
            Options(model=model, samples=options.samples, seed=options.seed, out=Path(folder), device="cpu", dtype=dtype, verify=0)  # type: ignore[arg-type]
        )
        study.answers = answers or study.answers
        study.pairs(corruption)
        started = perf_counter()
        dataset = effects.read(patch_heads(study.under(corruption)))
        seconds = perf_counter() - started
        effect = dataset.effects.logit_difference().sel(token=dataset.attrs["main_token"]).assign_coords(category=dataset.category)
        return effect, study.answers, seconds


def full_size(name: str, repeats: int) -> None:
    """Time a case in each format, and hold its effects against float32's."""
    case = CASES[name]
    effects_of, times = {}, {}
    for kind in ("float32", "bfloat16 products", "bfloat16"):
        torch.set_float32_matmul_precision("medium" if kind == "bfloat16 products" else "highest")
        vlm = case.make()
        vlm.module.to(torch.bfloat16 if kind == "bfloat16" else torch.float32)
        work = work_of(vlm, case)
        captured = work.capture(range(1))
        effects_of[kind] = logit_difference(work.sweep(captured)[0] - captured.measured[0, BASE]).numpy()
        times[kind] = median(sum(work.time()) for _ in range(repeats))
    torch.set_float32_matmul_precision("highest")
    exact = effects_of["float32"]
    strong = abs(exact) >= np.quantile(abs(exact), 0.5)
    for kind, rough in list(effects_of.items())[1:]:
        relative = np.median((abs(rough - exact) / abs(exact))[strong])
        rank = spearmanr(abs(exact), abs(rough)).statistic
        print(f"{name:<20}{kind:<20}{relative:>19.4f}{rank:>8.4f}{times[kind] / times['float32']:>8.2f}", flush=True)


def universal_names(important: xr.DataArray) -> str:
    """The heads that are important in every category, by name."""
    everywhere = important.all("category").transpose("layer", "head").values
    return " ".join(head_name(*map(int, at)) for at in np.argwhere(everywhere)) or "none"


def logit_difference(measured: torch.Tensor) -> torch.Tensor:
    return measured[..., 0] - measured[..., 1]


def run(options: Dtypes) -> None:
    """Print both tables."""
    print(f"torch {torch.__version__}; {options.samples} samples a category; times relative to float32")
    titles = f"{'median difference':>19}{'rank':>8}{'important heads':>17}{'time':>8}  universal heads, in float32 -> here"
    print(f"{'model':<14}{'corruption':<12}{'dtype':<10}{titles}")
    for model in options.models:
        for corruption in ("sip", "str"):
            exact, answers, base = head_effects(model, "float32", options, corruption, None)
            for dtype in options.dtypes:
                rough, _, seconds = head_effects(model, dtype, options, corruption, answers)
                both, same = xr.align(exact, rough, join="inner")
                strong = abs(both) >= abs(both).quantile(0.5)  # relative to effects that are not nearly 0
                relative = float((abs(same - both) / abs(both)).where(strong).median())
                means = [abs(e).groupby("category").mean("sample").transpose("category", "layer", "head") for e in (both, same)]
                rank = float(np.mean([spearmanr(a.values.ravel(), b.values.ravel()).statistic for a, b in zip(*means, strict=True)]))
                sets = [m.copy(data=stand_out(m.values)[0]) for m in means]
                changed = f"{int((sets[0] != sets[1]).sum())} of {int(sets[0].sum())} differ"
                universal = " -> ".join(universal_names(important) for important in sets)
                figures = f"{relative:>19.4f}{rank:>8.4f}{changed:>17}{seconds / base:>8.2f}  {universal}"
                print(f"{model:<14}{corruption:<12}{dtype:<10}{figures}", flush=True)
    print(f"\n{'full size':<20}{'format':<20}{'median difference':>19}{'rank':>8}{'time':>8}")
    for name in options.cases:
        full_size(name, options.repeats)


if __name__ == "__main__":
    run(tyro.cli(Dtypes))
