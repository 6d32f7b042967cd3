"""Everything, in order: data, the models' own answers, head and module patching, attention, then the analysis, figures and report.

A stage that is done is skipped; an interrupted run goes on where it was.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from corruptions.base import CORRUPTIONS, default, help_text
from corruptions.options import CorruptionOptions
from interventions.backends.options import Backend, RayOptions, RemoteOptions
from interventions.models.sites import SITES
from interventions.results.metrics import METRICS

DEFAULT_MODELS = ("blip-shapes", "llava-shapes")
SHARED = (  # options that every intervention takes
    *("samples", "out", "device", "dtype", "seed", "threads", "direction", "divergence"),
    *("shared_pieces", "corruption_options", "keep_wrong", "overwrite", "backend", "ray", "remote"),
)


@dataclass
class RunAll:
    """Run the whole study: which heads of a vision-language model carry its answers, and what they do.

    With no options: both shipped models on rendered scenes, image (sip) and text (str) corruption, no download, no GPU.

    Example: python run_all.py --models blip-shapes --samples 20 --out results-small
    """

    models: tuple[str, ...] = DEFAULT_MODELS
    """Models: blip-shapes, llava-shapes (shipped), blip-vqa-base, llava-1.5-7b (the Hub), folders with checkpoints, or Hub ids."""
    datasets: tuple[str, ...] = ("shapes",)
    """Data sets: folders prepared with data_prep, or `shapes`, which is made when it is not there."""
    corruptions: Annotated[tuple[str, ...], tyro.conf.arg(help=help_text())] = (default("image"), default("text"))
    samples: int = 100
    """Samples of each category (task) that a model answers correctly, half with the correct option first."""
    out: Path = Path("results")
    """Results folder."""
    modules: tuple[Literal["all", "none", *SITES], ...] = ("all",)  # type: ignore[valid-type]
    """Components whose whole modules are patched, where a model has them."""
    metric: Literal[tuple(METRICS)] = "logit_difference"  # type: ignore[valid-type]
    """Metric by which heads are judged."""
    power_runs: int = 10
    """Simulated studies behind each point of the power curves: 10 take some 15 s for both shipped models, more make smoother curves;
    0 leaves them out."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<number>."""
    dtype: Literal["float32", "bfloat16", "float16", "nf4"] = "float32"
    """Number format of the weights; nf4 (4 bits) needs the packages of requirements-nf4.txt."""
    seed: int = 0
    """Seed of the rendered scenes and of the draws of `str`."""
    threads: int = 0
    """CPU threads; 0 takes one for a small model and all cores for others."""
    direction: Literal["denoising", "noising"] = "denoising"
    """denoising puts clean states into the corrupt run; noising puts corrupt states into the clean run."""
    divergence: bool = False
    """Measure the Kullback-Leibler divergence from the clean run too."""
    shared_pieces: Literal["leave-out", "force"] = "leave-out"
    """Answers whose first token is the same: left out, or given what they share and scored on the next token."""
    corruption_options: Annotated[CorruptionOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=CorruptionOptions)
    """Options of corruptions."""
    keep_wrong: bool = False
    """Use samples that a model answers wrongly too (the paper does not)."""
    overwrite: bool = False
    """Replace results of another configuration that are in the way."""
    backend: Backend = "local"
    """Where samples are measured: local (this process), ray (workers on this machine or a cluster; requirements-ray.txt), remote (NDIF, or
    another host with the weights, on its device and in its dtype), or remote-dry-run (here, by way of all that would be sent)."""
    ray: Annotated[RayOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RayOptions)
    """Options of the backend ray."""
    remote: Annotated[RemoteOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=RemoteOptions)
    """Options of the backend remote."""


def run(options: RunAll) -> None:
    """Run every stage.

    Raises
    ------
    ModelError, SampleError, ResultsError, ValueError
        Before any work where an option is wrong; each says what and what to do.
    """
    from interventions.attention_patterns import attention_patterns  # libraries take seconds to load: not before `--help`
    from interventions.head_patching import head_target
    from interventions.models.loading import resolve
    from interventions.module_patching import module_targets
    from interventions.results.store import check_writable
    from interventions.study.patching import patch_study
    from interventions.study.study import Options, check_options, load_data, open_model, prepare

    for name in options.models:
        resolve(name)
    if options.power_runs < 0:
        raise ValueError(f"--power-runs is {options.power_runs}; it cannot be negative")
    check_writable(options.out)
    shared = {name: getattr(options, name) for name in SHARED}
    for corruption in options.corruptions:
        check_options(Options(corruption=corruption, **shared))
    for data in options.datasets:
        load_data(Options(data=data, samples=options.samples, out=options.out, seed=options.seed))

    modules = () if "none" in options.modules else tuple(SITES) if "all" in options.modules else options.modules
    total = len(options.models) * len(options.datasets) * (1 + len(options.corruptions))
    with tqdm(total=total, desc="stages", unit="stage", position=0) as stages:
        for model in options.models:
            vlm = open_model(Options(model=model, **shared))
            for data in options.datasets:
                study = prepare(Options(model=model, data=data, corruption=options.corruptions[0], **shared), vlm)
                here = tuple(name for name in vlm.architecture.components if name in modules)
                targets = [head_target(study), *(module_targets(study, here) if here else [])]
                for corruption in options.corruptions:
                    with noting_what_is_left_out():
                        patch_study(study, targets, corruption)
                    stages.update()
                with noting_what_is_left_out():
                    attention_patterns(study)
                stages.update()


@contextmanager
def noting_what_is_left_out() -> Iterator[None]:
    """A stage for which no sample is left is said to be not run, here and in the manifest; the others go on."""
    from corruptions.base import LeftOut

    try:
        yield
    except LeftOut as reason:
        tqdm.write(f"not run: {reason}", file=sys.stderr)


def analyse(options: RunAll) -> None:
    """Everything that is read off the files alone; prints where it is, and which heads are universal."""
    from analysis import (
        compare_corruptions,
        figures,
        head_functions,
        modules,
        paper_claims,
        report,
        robust_heads,
        stability,
        universal_heads,
    )

    image, text = judged_corruptions(options.corruptions, options.direction)
    found = universal_heads.find_and_write(options.out, universal_heads.Rule(options.metric, image_corruption=image, text_corruption=text))
    rule = robust_heads.RobustRule(options.metric, image_corruption=image, text_corruption=text)
    _, beyond_chance = robust_heads.find_and_write(options.out, rule)
    if options.power_runs:
        robust_heads.power_and_write(options.out, rule, options.power_runs)
    try:
        stability.find_and_write(options.out, stability.Subsampling(options.metric, image_corruption=image, text_corruption=text))
    except stability.NothingToTakeApart as reason:
        print(f"stability was not judged: {reason}", file=sys.stderr)
    head_functions.write(options.out, head_functions.HeadFunctions(metric=options.metric))
    modules.find_and_write(options.out, metric=options.metric)
    if len(options.corruptions) > 1:
        try:
            compare_corruptions.find_and_write(options.out, compare_corruptions.Comparing(metric=options.metric))
        except compare_corruptions.NothingToCompare as reason:
            print(f"corruptions were not compared: {reason}", file=sys.stderr)
    figures.write(options.out, figures.Figures(metric=options.metric))
    claims, _ = paper_claims.find_and_write(options.out)
    (page,) = report.write(options.out).paths
    print(f"\nresults: {options.out.resolve()}\nreport:  {page}\n\nNOTICE's universal heads\n{universal_heads.summary(found)}")
    print(f"\nheads that hold up (signed effects, corrected tests)\n{beyond_chance}\n\n{paper_claims.counts(claims)}")


def judged_corruptions(corruptions: tuple[str, ...], direction: str) -> tuple[str, str]:
    """The image and the text corruption that heads are judged by: NOTICE's, or the first of its modality where that was not run."""
    suffix = "-noising" if direction == "noising" else ""
    image, text = (_judged([name for name in corruptions if CORRUPTIONS[name].modality == m], default(m)) for m in ("image", "text"))
    return image + suffix, text + suffix


def _judged(corruptions: list[str], usual: str) -> str:
    return usual if usual in corruptions or not corruptions else corruptions[0]


def main() -> None:
    options = tyro.cli(RunAll)
    from interventions.study.command import reporting_errors

    started = perf_counter()
    with reporting_errors():
        run(options)
        analyse(options)
    print(f"\n{(perf_counter() - started) / 60:.1f} minutes", file=sys.stderr)


if __name__ == "__main__":
    main()
