"""Everything, in order: data, the models' own answers, head and module patching, attention, then the analysis, figures and report.

A stage that is done is skipped; an interrupted run goes on where it was.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from corruptions.base import CORRUPTIONS, LeftOut, default, help_text, named
from data_prep.tables.command import reporting
from interventions.methods.options import AttentionPatterns, HeadPatching, ModulePatching
from interventions.models.names import resolve
from interventions.results.finished import Stage, named_paths
from interventions.results.metrics import METRICS
from interventions.study.options import Settings, bounded, check_bounds

DEFAULT_MODELS = ("blip-shapes", "llava-shapes")


@dataclass
class Subjects:
    """What is studied: every model on every data set under every corruption."""

    models: tuple[str, ...] = DEFAULT_MODELS
    """Models: blip-shapes, llava-shapes (shipped), blip-vqa-base, llava-1.5-7b (the Hub), folders with checkpoints, or Hub ids."""
    datasets: tuple[str, ...] = ("shapes",)
    """Data sets: folders prepared with data_prep, or `shapes`, which is made when it is not there."""
    corruptions: Annotated[tuple[str, ...], tyro.conf.arg(help=help_text())] = (default("image"), default("text"))


@dataclass
class Measurements(Settings, Subjects):
    """All that is measured."""

    head_patching: HeadPatching = field(default_factory=HeadPatching)
    """Options of head patching alone."""
    module_patching: ModulePatching = field(default_factory=ModulePatching)
    """Options of module patching alone; of the components that are named, each model has those that it has."""
    attention_patterns: AttentionPatterns = field(default_factory=AttentionPatterns)
    """Options of attention patterns alone."""


@dataclass
class RunAll(Measurements):
    """Run the whole study: which heads of a vision-language model carry its answers, and what they do.

    With no options: both shipped models on rendered scenes, image (sip) and text (str) corruption, no download, no GPU.

    Example: python run_all.py --models blip-shapes --samples 20 --out results-small
    """

    metric: Literal[tuple(METRICS)] = "logit_difference"  # type: ignore[valid-type]
    """Metric by which heads are judged."""
    power_runs: int = bounded(10, at_least=0)
    """Simulated studies behind each point of the power curves: 10 take some 15 s for both shipped models, more make smoother curves;
    0 leaves them out."""


def measure(options: RunAll) -> None:
    """Measure every model on every data set under every corruption; what is finished already is not opened again.

    Raises
    ------
    ModelError, SampleError, StoreError, ValueError
        Before any work where an option is wrong; each says what and what to do.
    """
    check_bounds(options)
    for one in fields(Subjects):
        if not getattr(options, one.name):
            raise ValueError(f"--{one.name} names none; leave it out for the default")
    for name in options.corruptions:
        named(name)
    models = [Path(resolve(name)[1]) for name in options.models]
    measurements = Measurements(**{one.name: getattr(options, one.name) for one in fields(Measurements)})
    data = [options.of(data=name).data_folder for name in options.datasets]
    read = (*models, *data, *named_paths(asdict(options.corruption_options).values()))
    stage = Stage(options.out, "measurements", (measurements,), read)
    can_change = options.backend == "remote" or not all(model.is_dir() for model in models)  # what a host or the Hub has
    reasons = None if can_change else stage.words()
    if reasons is None:
        _measure(options, stage)
    for reason in reasons or ():
        print(reason, file=sys.stderr)


def _measure(options: RunAll, stage: Stage) -> None:
    """Run every stage; one for which no sample is left is said to be not run, here and in the manifest, and the others go on."""
    from interventions.attention_patterns import map_attention
    from interventions.backends.opening import check_options, open_model, prepare
    from interventions.methods.patching import head_target, module_targets, patch_study
    from interventions.results.store import check_writable
    from interventions.study.opening import load_data

    check_writable(options.out)
    for corruption in options.corruptions:
        check_options(options.of(corruption=corruption))
    for data in options.datasets:
        load_data(options.of(data=data))

    before = stage.read()
    written: list[Path] = []
    reasons: list[str] = []

    @contextmanager
    def noting_what_is_left_out() -> Iterator[None]:
        try:
            yield
        except LeftOut as reason:
            reasons.append(f"not run: {reason}")
            tqdm.write(reasons[-1], file=sys.stderr)

    total = len(options.models) * len(options.datasets) * (1 + len(options.corruptions))
    with tqdm(total=total, desc="stages", unit="stage", position=0) as stages:
        for model in options.models:
            vlm = open_model(options.of(model=model))
            for data in options.datasets:
                study = prepare(options.of(model=model, data=data, corruption=options.corruptions[0]), vlm)
                written.append(study.folder / "answers.json")
                components = study.vlm.architecture.components
                modules = module_targets(study, options.module_patching)
                targets = [head_target(study, options.head_patching), *(target for target in modules if target.component in components)]
                for corruption in options.corruptions:
                    with noting_what_is_left_out():
                        written += patch_study(study.under(corruption), targets)
                    stages.update()
                with noting_what_is_left_out():
                    written.append(map_attention(study, options.attention_patterns))
                stages.update()
    stage.end(before, written, reasons)


def analyse(options: RunAll) -> None:
    """Everything that is read off the files alone; prints where it is, and which heads are universal. Done again where any file of the
    results folder or any option is another."""
    stage = Stage(options.out, "analysis", (options,), (options.out,))
    words = stage.words()
    if words is None:
        before = stage.read()
        words = _analyse(options)
        stage.end(before, [Path(path) for path, state in stage.read().items() if before.get(path) != state], words)
    *notes, said = words
    for note in notes:
        print(note, file=sys.stderr)
    print(said)


def _analyse(options: RunAll) -> list[str]:
    """The words to print: why an analysis was not made, and last what was found."""
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
    from analysis.claims.page import counts
    from analysis.store.errors import NothingToAnalyse

    notes: list[str] = []
    image, text = judged_corruptions(options.corruptions, options.direction)
    judged_by: dict[str, Any] = {"metric": options.metric, "image_corruption": image, "text_corruption": text}
    universal = universal_heads.write(options.out, universal_heads.UniversalHeads(**judged_by))
    rule = robust_heads.RobustHeads(**judged_by, runs=max(options.power_runs, 1))
    robust = robust_heads.write(options.out, rule)
    if options.power_runs:
        robust_heads.write_power(options.out, rule)
    try:
        stability.write(options.out, stability.Stability(**judged_by))
    except NothingToAnalyse as reason:
        notes.append(f"stability was not judged: {reason}")
    try:
        head_functions.write(options.out, head_functions.HeadFunctions(metric=options.metric))
    except NothingToAnalyse as reason:
        notes.append(f"functions of heads were not judged: {reason}")
    try:
        modules.write(options.out, modules.Modules(metric=options.metric))
    except NothingToAnalyse as reason:
        notes.append(f"modules were not mapped: {reason}")
    if len(options.corruptions) > 1:
        try:
            compare_corruptions.write(options.out, compare_corruptions.CompareCorruptions(metric=options.metric))
        except NothingToAnalyse as reason:
            notes.append(f"corruptions were not compared: {reason}")
    figures.write(options.out, figures.Figures(metric=options.metric))
    claims = paper_claims.write(options.out)
    (page,) = report.write(options.out).paths
    return [
        *notes,
        f"\nresults: {options.out.resolve()}\nreport:  {page}\n\nNOTICE's universal heads\n{universal.words}"
        f"\n\nheads that hold up (signed effects, corrected tests)\n{robust.words}\n\n{counts(claims.data)}",
    ]


def judged_corruptions(corruptions: tuple[str, ...], direction: str) -> tuple[str, str]:
    """The image and the text corruption that heads are judged by: NOTICE's, or the first of its modality where that was not run."""
    suffix = "-noising" if direction == "noising" else ""
    image, text = (_judged([name for name in corruptions if CORRUPTIONS[name].modality == m], default(m)) for m in ("image", "text"))
    return image + suffix, text + suffix


def _judged(corruptions: list[str], usual: str) -> str:
    return usual if usual in corruptions or not corruptions else corruptions[0]


def main() -> None:
    started = perf_counter()
    with reporting("run_all", ValueError):
        options = tyro.cli(RunAll)
        measure(options)
        analyse(options)
    print(f"\n{(perf_counter() - started) / 60:.1f} minutes", file=sys.stderr)


if __name__ == "__main__":
    main()
