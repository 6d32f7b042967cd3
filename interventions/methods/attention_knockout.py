"""Attention knockout (Zhang et al., "Cross-modal information flow in multimodal large language models", section 4): in the clean run, what
some tokens get of others by attention is blocked in a window of layers; how much less probable does the answer become?

Blocked are edges "source:target": the target's positions do not see the source's (a position on both sides does not see itself). In a
model whose text reads the image by cross-attention, a source in the image is blocked there, one in the text in self-attention. In BLIP's
answer decoder (--part decoder) sources are tokens of the encoded question, and the target is the decoder's start token.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from corruptions.base import LeftOut
from interventions.engine.blocking import Block, sweep_blocks
from interventions.engine.capture import BASE, Example, capture, example
from interventions.engine.edges import GROUPS, Places, reads_a_prompt
from interventions.engine.oracle.knockout import verify_blocks
from interventions.engine.pairs import PreparedPair
from interventions.engine.plan import window_of
from interventions.methods.options import AttentionKnockout
from interventions.methods.per_sample import each_sample
from interventions.models.vlm import Vlm
from interventions.results import effects
from interventions.results.assembling import assemble, stacked
from interventions.results.roles import ROLES
from interventions.results.store import Arrays, Store
from interventions.study.options import check_bounds
from interventions.study.study import Study

log = logging.getLogger(__name__)

DECODER_EDGES = ("image:question", "object:question", "background:question", "image:last", "question:last", "last:last")
ENCODER_EDGES = (
    *("image:question", "object:question", "background:question", "image:options", "object:options", "image:all"),
    *("question:options", "options:question"),
)
ANSWER_EDGES = ("question:start", "options:start", "correct:start", "incorrect:start", "noun:start", "[CLS]:start")
PAPERS_WINDOW = 9
Edges = dict[str, Block]  # those that a sample has: what is blocked, in no layer yet


def write(study: Study, options: AttentionKnockout) -> Path:
    """See `interventions.attention_knockout`."""
    check_bounds(options)
    wanted, window = options.edges or default_edges(study.vlm), options.window or default_window(study.vlm.n_layers)
    _check(study, wanted, window)
    corruption = study.options.corruption
    path = study.folder / f"attention_knockout{f'-window{window}' if window > 1 else ''}.nc"
    configuration = study.configuration(samples_of=corruption, edges=list(wanted), window=window)
    store = Store(path, configuration, study.options.overwrite)
    if not store.is_finished:
        edges_of, absent = _all_edges(study, study.pairs(corruption, [path]).pairs, wanted, strict=bool(options.edges))
        measure_one = partial(_measure, edges_of=edges_of, wanted=wanted, window=window)
        pairs, parts = each_sample(study, store, measure_one, absent)
        store.finish(_assemble(study, pairs, edges_of, parts, wanted, window), effects.write)
    return path


def default_edges(vlm: Vlm) -> tuple[str, ...]:
    """The paper's for causal decoders; for others, those between the image, the question and the options, or from these to the answer."""
    if reads_a_prompt(vlm):
        return ANSWER_EDGES
    return DECODER_EDGES if vlm.architecture.causal else ENCODER_EDGES


def default_window(layers: int) -> int:
    """The paper's 9, of 32 layers and more; of fewer, about a quarter, and an odd number."""
    return min(PAPERS_WINDOW, layers // 4 | 1)


def _check(study: Study, edges: Sequence[str], window: int) -> None:
    if study.options.part and not reads_a_prompt(study.vlm):
        where = "in the layers that read the prompt, and in BLIP's answer decoder (--part decoder)"
        raise ValueError(f"attention is blocked {where}, not in --part {study.options.part}; leave it out")
    sides = list(dict.fromkeys([*GROUPS, *ROLES]))
    for edge in edges:
        if strange := [side for side in edge.partition(":")[::2] if side not in sides]:
            raise ValueError(f"{edge!r} is no edge source:target: {strange[0]!r} is none of {', '.join(sides)}")
    if len(set(edges)) < len(edges):
        raise ValueError(f"an edge is named twice: {' '.join(edges)}")
    if not 1 <= window <= study.vlm.n_layers:
        raise ValueError(f"a window of {window} layers does not fit; {study.vlm.name} has {study.vlm.n_layers}")


def _all_edges(
    study: Study, pairs: Sequence[PreparedPair], wanted: Sequence[str], strict: bool
) -> tuple[dict[str, Edges], list[dict[str, str]]]:
    """The edges of each sample, by its id, and the reasons where it lacks one; with `strict`, one that all lack is an error."""
    edges_of: dict[str, Edges] = {}
    reasons: dict[str, dict[str, str]] = {edge: {} for edge in wanted}
    for pair in pairs:
        places = Places(study.vlm, pair.clean_prompt, pair.pair)
        edges_of[pair.sample_id] = {}
        for edge in wanted:
            try:
                edges_of[pair.sample_id][edge] = places.block(edge)
            except LeftOut as reason:
                reasons[edge][pair.sample_id] = str(reason)
    for edge, of_edge in reasons.items():
        if len(of_edge) == len(pairs):
            message = f"no sample of {study.name!r} has the edge {edge} in {study.vlm.name}: {next(iter(of_edge.values()))}"
            if strict:
                raise ValueError(message)
            log.warning(message)
    absent = [(sample_id, f"{edge} is not blocked: {reason}") for edge in wanted for sample_id, reason in reasons[edge].items()]
    return edges_of, [{"sample": sample_id, "reason": reason} for sample_id, reason in absent]


def _measure(study: Study, pair: PreparedPair, check: bool, edges_of: dict[str, Edges], wanted: Sequence[str], window: int) -> Arrays:
    """The measurements of a sample's blocked runs [edge, layer, measurement], and of its clean run."""
    vlm, edges = study.vlm, edges_of[pair.sample_id]
    ours = example(vlm, pair, base="clean")
    windows = [window_of(layer, window, vlm.n_layers) for layer in range(vlm.n_layers)]
    blocks = [replace(block, layers=layers) for block in edges.values() for layers in windows]
    measured, clean = vlm.run(_blocked, ours, blocks, check, study.options.divergence)
    blocked = np.full((len(wanted), vlm.n_layers, measured.shape[-1]), np.nan, np.float32)
    blocked[[wanted.index(edge) for edge in edges]] = measured.reshape(len(edges), vlm.n_layers, measured.shape[-1])
    return {"blocked": blocked, "clean": clean}


def _blocked(vlm: Vlm, ours: Example, blocks: Sequence[Block], check: bool, divergence: bool) -> tuple[np.ndarray, np.ndarray]:
    """The measurements of blocked runs, [block, measurement], and of the clean run; where the weights are (see `Vlm.run`)."""
    ours = ours.on(vlm)
    captured = capture(vlm, [ours], (), divergence)
    measured = sweep_blocks(vlm, captured, blocks)
    if check:
        verify_blocks(vlm, ours, blocks, measured)
    return measured.cpu().numpy(), captured.measured[0, BASE].cpu().numpy()


def _assemble(
    study: Study, pairs: Sequence[PreparedPair], edges_of: dict[str, Edges], parts: Sequence[Arrays], wanted: Sequence[str], window: int
) -> xr.Dataset:
    whole = stacked(parts, len(parts))
    sizes = np.array([[_sizes(edges_of[pair.sample_id].get(edge)) for edge in wanted] for pair in pairs], np.float32)
    title = "The clean run with attention blocked between groups of tokens, in windows of layers"
    attributes = study.attributes(title, ", ".join(study.vlm.architecture.attention), samples_of=study.options.corruption)
    return assemble(
        attributes | {"window": window, "direction": "noising"},  # so that differences are to the clean run
        [pair.coordinates() for pair in pairs],
        {"edge": np.array(wanted, object), "layer": np.arange(study.vlm.n_layers)},
        {name: (("sample", "edge"), sizes[..., number]) for number, name in enumerate(("queries", "keys"))},
        (("sample", "edge", "layer"), whole["blocked"]),
        whole["clean"][:, None],
    )


def _sizes(block: Block | None) -> tuple[float, float]:
    """How many positions do not see, and how many keys are not seen; NaN where not known."""
    if block is None:
        return np.nan, np.nan
    return len(block.queries), sum(np.nan if numbers is None else len(numbers) for numbers in block.keys.values())


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """The mean relative change of P(correct answer) over the samples that have an edge: a row an edge, a column a centre layer."""
    return dataset.effects.relative_change().transpose("sample", "edge", "layer").mean("sample").to_pandas()


def summary(path: Path) -> str:
    """The `table` of a file, as text."""
    with xr.open_dataset(path) as dataset:
        return table(dataset).to_string(float_format="%.3f")
