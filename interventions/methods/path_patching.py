"""Path patching (Wang et al. 2022, "Interpretability in the wild"; Goldowsky-Dill et al. 2023): what a sender head does to the answer by
what a later head, the receiver, reads of it directly, or by what the answer itself is read from.

`interventions/engine/paths.py` says what is held as it was and what is computed anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from interventions.engine.capture import Example, capture
from interventions.engine.oracle.patching import verify_patches
from interventions.engine.oracle.paths import verify_paths
from interventions.engine.pairs import PreparedPair
from interventions.engine.path_names import (
    Ends,
    Head,
    PathError,
    Receiver,
    check_component,
    default_receivers,
    no_duplicates,
    parse_head,
    parse_receiver,
)
from interventions.engine.paths import Paths, run_paths
from interventions.engine.plan import Heads, Patch
from interventions.engine.sweep import sweep
from interventions.methods.options import Mlps, PathPatching
from interventions.methods.per_sample import each_sample
from interventions.methods.ranking import made_of, ranked_heads
from interventions.models.vlm import Vlm
from interventions.results import effects
from interventions.results.assembling import assemble, clean_first, stacked
from interventions.results.roles import EVERY
from interventions.results.store import Arrays, Store
from interventions.study.options import check_bounds
from interventions.study.study import Study

TOTAL = "total"  # beside the receivers: ordinary patching of the sender
NO_HEAD = -1


@dataclass(frozen=True)
class Asked:
    """Which paths of every pair; see `PathPatching`."""

    ends: Ends
    senders: tuple[Head, ...]
    receivers: tuple[Receiver, ...]
    token: str
    mlps: Mlps


def write(study: Study, options: PathPatching) -> Path:
    """See `interventions.path_patching`."""
    check_bounds(options)
    corruption = study.options.corruption
    asked = _asked(study, options)
    ends = asked.ends
    configuration = study.configuration(
        corruption,
        component=ends.sending,
        receiver_component=ends.receiving,
        senders=list(map(str, asked.senders)),
        receivers=list(map(str, asked.receivers)),
        token=asked.token,
        mlps=asked.mlps,
    )
    between = "" if ends.receiving == ends.sending else f"-to-{ends.receiving}"
    store = Store(study.folder / study.label(corruption) / f"{ends.sending}{between}-paths.nc", configuration, study.options.overwrite)
    if not store.is_finished:
        pairs, parts = each_sample(study, store, partial(_of_pair, asked=asked))
        store.finish(_assemble(study, pairs, parts, asked), effects.write)
    return store.path


def _asked(study: Study, options: PathPatching) -> Asked:
    """The paths of some options: heads that they do not name are ranked."""
    vlm = study.vlm
    sending = options.component or vlm.architecture.head_component
    ends = Ends(sending, options.receiver_component or sending)
    for name in (ends.sending, ends.receiving):
        check_component(vlm, name)
    if options.mlps == "frozen" and "mlp" not in vlm.architecture.components:
        raise ValueError(f"--mlps frozen needs the output of every MLP, which cannot be read in {vlm.architecture.name}")
    if options.token == EVERY:
        raise ValueError("--token must be one role, or all; a sender at each token by itself is one run each")

    def ranked(component: str) -> Heads:
        path = options.ranking or _default_ranking(study, component)
        return ranked_heads(path, vlm, component, options.ranking_token or vlm.architecture.main_token, made_of(study))

    for texts in (options.senders, options.receivers):
        no_duplicates(texts)
    senders = [parse_head(text, vlm, ends.sending) for text in options.senders]
    senders = senders or [Head(*head) for head in ranked(ends.sending)[: options.top]]
    receivers = [parse_receiver(text, vlm, ends.receiving) for text in options.receivers]
    receivers = receivers or list(default_receivers(vlm, ends, senders, ranked(ends.receiving), options.top))
    return Asked(ends, tuple(senders), tuple(receivers), options.token, options.mlps)


def _default_ranking(study: Study, component: str) -> Path:
    path = study.folder / study.label(study.options.corruption) / f"{component}-heads.nc"
    if not path.is_file():
        raise PathError(
            f"no ranking of heads at {path}: make it with `python -m interventions.head_patching --component {component}` and the same "
            "options, or name one with --ranking, or the heads with --senders and --receivers"
        )
    return path


def _of_pair(study: Study, pair: PreparedPair, check: bool, asked: Asked) -> Arrays:
    """The arrays of each draw of the noise, or of the one corrupt run."""
    (cell,) = pair.cells((asked.token,))
    paths = Paths(asked.ends, asked.senders, asked.receivers, cell.positions, asked.mlps == "frozen")
    examples = study.examples(pair, study.options.corruption)
    draws = [study.vlm.run(_of_example, ours, paths, check, study.options.divergence) for ours in examples]
    patched, runs = (np.stack([draw[name] for draw in draws]) for name in ("patched", "runs"))
    return {"patched": patched, "runs": clean_first(runs, study.base)}


def _of_example(vlm: Vlm, ours: Example, paths: Paths, check: bool, divergence: bool) -> Arrays:
    """The measurements of each path [sender, receiver, measurement], those of ordinary patching last, and of the two runs."""
    ours = ours.on(vlm)
    captured = capture(vlm, [ours], paths.components, divergence)
    measured = run_paths(vlm, captured, paths)
    every = [Patch(paths.ends.sending, (sender.layer,), sender.number, paths.positions) for sender in paths.senders]
    (total,) = sweep(vlm, captured, [every])
    if check:
        verify_paths(vlm, ours, paths, measured)
        verify_patches(vlm, ours, every, total)
    return {"patched": torch.cat([measured, total[:, None]], 1).cpu().numpy(), "runs": captured.measured[0].cpu().numpy()}


def _assemble(study: Study, pairs: Sequence[PreparedPair], parts: Sequence[Arrays], asked: Asked) -> xr.Dataset:
    whole = stacked(parts, len(parts))
    heads = [*(receiver.head for receiver in asked.receivers), None]
    coordinates = {
        "sender": np.array(list(map(str, asked.senders)), object),
        "sender_layer": ("sender", np.array([sender.layer for sender in asked.senders])),
        "sender_head": ("sender", np.array([sender.number for sender in asked.senders])),
        "receiver": np.array([*map(str, asked.receivers), TOTAL], object),
        "receiver_layer": ("receiver", np.array([head.layer if head else NO_HEAD for head in heads])),
        "receiver_head": ("receiver", np.array([head.number if head else NO_HEAD for head in heads])),
        "receiver_input": ("receiver", np.array([*(receiver.input for receiver in asked.receivers), ""], object)),
    }
    title = f"Effects of patching direct paths from {asked.ends.sending} heads to {asked.ends.receiving} heads and the answer"
    attributes = study.patching_attributes(title, asked.ends.sending, study.options.corruption) | {"granularity": "paths"}
    return assemble(
        attributes | {"receiver_component": asked.ends.receiving, "token": asked.token, "mlps": asked.mlps},
        [pair.coordinates() for pair in pairs],
        coordinates,
        {},
        (("sample", "draw", "sender", "receiver"), whole["patched"]),
        whole["runs"],
    )


def summary(path: Path) -> str:
    """The mean effect of each path, as a table."""
    with xr.open_dataset(path) as dataset:
        return dataset.effects.logit_difference().mean("sample").to_pandas().to_string(float_format="%.3f")
