"""What each corruption costs, for one sample of the shipped models: to make its pair and inputs, and to measure all heads at the paper's
token under it. Prints a table, and writes it as JSON.

Corruptions are timed in turn on the same samples; the medians count, and ratios are to semantic image pairs in the same run. What is
measured once a study (the deviation and the mean of embeddings) is left out, and so is a diffusion model's painting: none is shipped.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
import platform
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median

import torch
import tyro

from benchmarks.timing import seconds
from corruptions.base import CORRUPTIONS
from corruptions.options import CorruptionOptions
from interventions.backends.opening import prepare
from interventions.engine.budget import plan
from interventions.engine.measuring import measure_pairs
from interventions.engine.plan import patches
from interventions.study.options import Options
from interventions.study.study import Study

NAMES = tuple(name for name in CORRUPTIONS if name != "inpainting")


@dataclass
class Corruptions:
    """Time each corruption on the shipped models.

    Example: python -m benchmarks.corruptions --samples 5
    """

    models: tuple[str, ...] = ("blip-shapes", "llava-shapes")
    """Shipped models."""
    samples: int = 5
    """Samples of each category on which each is timed."""
    out: Path | None = None
    """File for the JSON."""


@dataclass
class Row:
    """One line of the table: medians of seconds of one sample.

    Attributes
    ----------
    runs : corrupt runs of a sample (draws of the noise)
    making : of the pair, and of its inputs for every run
    measuring : of all heads at the paper's token, for every run
    times_sip : making and measuring, over those of semantic image pairs
    """

    model: str
    corruption: str
    runs: int
    making: float
    measuring: float
    times_sip: float


def time_one(study: Study, corruption: str) -> tuple[float, float]:
    """Median seconds that a sample takes to be made, and to be measured."""
    vlm = study.vlm
    kept = study.options.corruption_options
    afresh = replace(kept, **{"inpainted": kept.inpainted / "again"})  # the study has kept what it painted
    maker = CORRUPTIONS[corruption].make([study.sample(name) for name in study.table["sample_id"]], 0, afresh)
    pairs = study.pairs(corruption)[0]
    study.examples(pairs[0], corruption)  # what is measured once a study
    making, measuring = [], []
    for pair in pairs:
        examples = study.examples(pair, corruption)
        making.append(seconds(partial(maker.corrupt, pair.sample, vlm.tokenize)) + seconds(partial(study.examples, pair, corruption)))
        every = patches(vlm.architecture.head_component, vlm.n_layers, vlm.n_heads, pair.cells([vlm.architecture.main_token]))
        tokens = plan(vlm, [examples[0].ids.shape[1]]).tokens
        work = partial(measure_pairs, vlm, examples, (vlm.architecture.head_component,), [[every] * len(examples)], tokens)
        measuring.append(seconds(work))
    return median(making[1:] or making), median(measuring[1:] or measuring)  # the first one warms up


def run(options: Corruptions) -> list[Row]:
    """Time the corruptions and print the table."""
    print(f"{platform.machine()}, one thread, torch {torch.__version__}; one sample")
    print(f"{'model':<14}{'corruption':<22}{'runs':>6}{'making s':>12}{'measuring s':>13}{'x sip':>8}")
    rows: list[Row] = []
    of_sip = 0.0
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            painting = CorruptionOptions(inpainted=Path(folder) / "inpainted")
            study = prepare(
                Options(
                    model=model,
                    samples=options.samples,
                    out=Path(folder),
                    device="cpu",
                    keep_wrong=True,
                    corruption_options=painting,
                    threads=1,
                )
            )
            for name in NAMES:
                making, measuring = time_one(study, name)
                of_sip = of_sip if rows and rows[-1].model == model else making + measuring  # the first
                rows.append(Row(model, name, study.draws(name), making, measuring, (making + measuring) / of_sip))
                figures = f"{making:>12.4f}{measuring:>13.4f}{rows[-1].times_sip:>8.1f}"
                print(f"{model:<14}{name:<22}{study.draws(name):>6}{figures}", flush=True)
    return rows


def main() -> None:
    options = tyro.cli(Corruptions)
    rows = run(options)
    if options.out:
        options.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
