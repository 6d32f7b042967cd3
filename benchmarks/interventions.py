"""What the interventions beside patching cost, for one sample of the shipped models, against the naive way measured in the same run: every
run by itself, in one whole trace. Prints a table, and writes it as JSON.

The naive way is timed on some runs and multiplied; ratios are of medians. What is computed is what the scripts compute by default.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from statistics import median

import numpy as np
import torch
import tyro

from benchmarks.timing import seconds
from corruptions.base import CORRUPTIONS
from data_prep.scenes.table import make_shapes
from interventions.engine import ablation as ablating
from interventions.engine import blocking
from interventions.engine.capture import BASE, Example, capture
from interventions.engine.capture import example as example_of
from interventions.engine.edges import Places
from interventions.engine.gradients import attribution
from interventions.engine.oracle import ablation as plain_ablation
from interventions.engine.oracle import knockout as plain_knockout
from interventions.engine.oracle import paths as plain_paths
from interventions.engine.oracle.patching import run_plain, source_states
from interventions.engine.oracle.runs import inputs_of
from interventions.engine.pairs import PreparedPair, prepare_pair
from interventions.engine.path_names import Ends, Head, default_receivers
from interventions.engine.paths import Paths, run_paths
from interventions.engine.plan import Heads, Patch, all_heads, patches, window_of
from interventions.engine.sweep import sweep
from interventions.methods.attention_knockout import default_edges, default_window
from interventions.methods.direct_effect import of_example
from interventions.methods.head_ablation import Sets
from interventions.methods.ranking import growing_sizes, random_order
from interventions.models.loading import load
from interventions.models.vlm import Vlm
from interventions.results.roles import EVERY


@dataclass
class Interventions:
    """Time knockout, head ablation, attribution patching, direct effects and path patching against one run at a time.

    Example: python -m benchmarks.interventions --samples 20
    """

    models: tuple[str, ...] = ("blip-shapes", "llava-shapes")
    """Shipped models."""
    samples: int = 20
    """Samples on which both are timed, in turn; the medians count."""
    out: Path | None = None
    """File for the JSON."""


@dataclass
class Timed:
    """The work of one sample: all at once, and one of its runs by itself, by the run's number."""

    runs: int
    ours: Callable[[], object]
    naive: Callable[[int], object]


@dataclass
class Row:
    """One line of the table: medians of seconds of one sample, and of one run of the naive way.

    Attributes
    ----------
    runs : what the naive way runs for one sample
    forward_passes : how many forward passes of the bare model take as long as ours
    """

    model: str
    intervention: str
    runs: int
    ours: float
    one_run: float
    times_over_naive: float
    forward_passes: float


def run_row(model: str, vlm: Vlm, name: str, samples: int) -> Row:
    """Time one intervention."""
    make = INTERVENTIONS[name]
    rng = np.random.default_rng(0)
    ours, naive, forward = [], [], []
    for number, (pair, example_) in enumerate(shapes_examples(vlm, samples + 1)):
        timed = make(vlm, pair, example_)
        whole = seconds(timed.ours)
        one = seconds(partial(timed.naive, int(rng.integers(timed.runs))))
        if number:  # the first one warms up
            ours.append(whole)
            naive.append(one)
            forward.append(seconds(partial(_forward, vlm, example_)))
            runs = timed.runs
    times = median(naive) * runs / median(ours)
    return Row(model, name, runs, median(ours), median(naive), times, median(ours) / median(forward))


def shapes_examples(vlm: Vlm, count: int) -> list[tuple[PreparedPair, Example]]:
    """Pairs of rendered scenes, the corrupt image with the other option true."""
    table = make_shapes(-(-count // 4), seed=0, progress=False)
    maker = CORRUPTIONS["sip"].make(table)
    pairs = [maker.corrupt(table[i], vlm.prompt) for i in range(count)]
    answers = [[pair.sample[name] for name in ("correct_answer", "incorrect_answer")] for pair in pairs]
    scored = [vlm.scored(pair.clean_question, *both) for pair, both in zip(pairs, answers, strict=True)]
    prepared = [prepare_pair(vlm, *one) for one in zip(pairs, scored, strict=True)]
    return [(pair, example_of(vlm, pair)) for pair in prepared]


def _forward(vlm: Vlm, example: Example) -> None:
    """One whole forward pass of the bare model."""
    with torch.no_grad():
        vlm.module(**inputs_of(vlm, example, BASE))


def knockout(vlm: Vlm, pair: PreparedPair, example: Example) -> Timed:
    """The default edges, at every window."""
    ours, places = example_of(vlm, pair, base="clean"), Places(vlm, pair.clean_prompt, pair.pair)
    windows = [window_of(layer, default_window(vlm.n_layers), vlm.n_layers) for layer in range(vlm.n_layers)]
    blocks = [replace(places.block(edge), layers=layers) for edge, layers in product(default_edges(vlm), windows)]
    return Timed(
        len(blocks),
        lambda: blocking.sweep_blocks(vlm, capture(vlm, [ours], ()), blocks),
        lambda number: plain_knockout.run_plain(vlm, ours, blocks[number]),
    )


def ablation(vlm: Vlm, pair: PreparedPair, example: Example) -> Timed:
    """A ranked and five random orders, knocked out and kept alone, in growing sets, one replacement."""
    ours, component = example_of(vlm, pair, base="clean"), vlm.architecture.head_component
    heads = all_heads(vlm, component)
    orders: dict[str, Heads] = {"ranked": heads} | {f"random {draw}": random_order(heads, heads, 0, draw) for draw in range(5)}
    sets = Sets(orders, growing_sizes(len(heads)), "").ablated(vlm, component).flatten(0, 2).unique(dim=0)
    captured = capture(vlm, [ours], (component,))
    zero = torch.zeros_like(captured.states[component][0, BASE])
    return Timed(
        len(sets),
        lambda: ablating.run_ablated(vlm, capture(vlm, [ours], (component,)), component, sets, zero),
        lambda number: plain_ablation.run_plain(vlm, ours, component, sets[number], zero),
    )


def attribution_patching(vlm: Vlm, pair: PreparedPair, example: Example) -> Timed:
    """The estimate for every head at every token; the naive way patches them exactly."""
    component = vlm.architecture.head_component
    every = patches(component, vlm.n_layers, vlm.n_heads, pair.cells((EVERY,)))
    return Timed(
        len(every),
        lambda: attribution(vlm, capture(vlm, [example], (component,)), component),
        partial(_patched, vlm, example, every),
    )


def _patched(vlm: Vlm, example: Example, every: list[Patch], number: int) -> None:
    run_plain(vlm, example, every[number], source_states(vlm, example, every[number]))


def direct_effect(vlm: Vlm, pair: PreparedPair, example: Example) -> Timed:
    """Every head's; naively a forward pass for each head."""
    return Timed(vlm.n_layers * vlm.n_heads, lambda: of_example(vlm, example), lambda _: _forward(vlm, example))


def path_patching(vlm: Vlm, pair: PreparedPair, example: Example) -> Timed:
    """From five heads of the first layers to five later ones and the answer, and what each does in all."""
    component = vlm.architecture.head_component
    ends, heads = Ends(component, component), all_heads(vlm, component)
    senders = tuple(Head(*head) for head in heads[:: vlm.n_heads // 2 + 1][:5])
    receivers = default_receivers(vlm, ends, senders, heads[::-4], 5)
    paths = Paths(ends, senders, receivers, tuple(range(example.ids.shape[1])))
    every = [replace(paths, senders=(sender,), receivers=(receiver,)) for sender, receiver in product(senders, receivers)]
    totals = [Patch(component, (sender.layer,), sender.number, paths.positions) for sender in senders]

    def ours() -> None:
        captured = capture(vlm, [example], (component,))
        run_paths(vlm, captured, paths)
        sweep(vlm, captured, [totals])

    def naive(number: int) -> None:
        if number < len(every):
            plain_paths.run_plain(vlm, example, every[number])
        else:
            _patched(vlm, example, totals, number - len(every))

    return Timed(len(every) + len(totals), ours, naive)


INTERVENTIONS: dict[str, Callable[[Vlm, PreparedPair, Example], Timed]] = {
    "attention knockout": knockout,
    "head ablation": ablation,
    "attribution patching": attribution_patching,
    "direct effect": direct_effect,
    "path patching": path_patching,
}


def run(options: Interventions) -> list[Row]:
    """Time all, one thread, and print the table."""
    torch.set_num_threads(1)
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}; times of one sample, medians of {options.samples}")
    print(f"{'model':>14}{'intervention':>22}{'runs':>6}{'ours s':>9}{'one run s':>11}{'x naive':>9}{'forwards':>10}")
    rows = []
    for model in options.models:
        vlm = load(model, "cpu")
        for name in INTERVENTIONS:
            if name == "direct effect" and not vlm.architecture.causal:
                continue
            row = run_row(model, vlm, name, options.samples)
            rows.append(row)
            times = f"{row.ours:>9.4f}{row.one_run:>11.4f}{row.times_over_naive:>9.0f}{row.forward_passes:>10.1f}"
            print(f"{model:>14}{name:>22}{row.runs:>6}{times}", flush=True)
    return rows


def main() -> None:
    options = tyro.cli(Interventions)
    rows = run(options)
    if options.out:
        options.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
