"""Path patching (Wang et al. 2022, "Interpretability in the wild"; Goldowsky-Dill et al. 2023): what a sender head does to the answer by
what a later head, the receiver, reads of it directly, or by what the answer itself is read from.

`interventions/engine/paths.py` says what is held as it was and what is computed anew.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import tyro
import xarray as xr

from corruptions.base import Pair
from interventions.engine.capture import CLEAN, CORRUPT, Example, capture
from interventions.engine.oracle.patching import verify_patches
from interventions.engine.oracle.paths import verify_paths
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
from interventions.engine.plan import Patch
from interventions.engine.sweep import sweep
from interventions.models.vlm import Vlm
from interventions.results import effects
from interventions.results.roles import EVERY
from interventions.results.store import Arrays, Store
from interventions.study.command import reporting_errors
from interventions.study.per_sample import cells_of, each_sample, patching_attributes, sample_coordinates
from interventions.study.ranking import Heads, made_of, ranked_heads
from interventions.study.study import Options, Study, prepare

TOTAL = "total"  # beside the receivers: ordinary patching of the sender
NO_HEAD = -1
Mlps = Literal["recomputed", "frozen"]


@dataclass
class PathPatching(Options):
    """Patch the direct paths from chosen heads to chosen later heads and to the answer, and write the effects.

    Example: python -m interventions.path_patching --model llava-shapes --samples 20 --senders L1.H2 L3.H0 --receivers L5.H1 L5.H1.q answer
    """

    senders: tuple[str, ...] = ()
    """Heads whose z is put in, such as L3.H2 (layer 3, head 2). Default: the `--top` highest-ranked ones."""
    receivers: tuple[str, ...] = ()
    """Where direct paths end: answer, or a head, by all it reads (L5.H1), its queries (L5.H1.q), keys (.k) or values (.v). Default: the
    `--top` highest-ranked heads that some sender reaches, and the answer."""
    component: str | None = None
    """Attention component of the senders. Default: the paper's (BLIP cross_attention, causal decoders self_attention)."""
    receiver_component: str | None = None
    """Attention component of the receivers. Default: that of the senders."""
    token: str = "all"
    """Role of the tokens at which the sender's z is put in, such as correct or last; `all` is every position."""
    mlps: Mlps = "recomputed"
    """recomputed: a path through MLPs alone is direct, as in Wang et al.; frozen: MLPs are held as they were, and only sums and norms
    pass anything on."""
    top: int = 5
    """How many heads, where they are not named."""
    ranking: Path | None = None
    """Effects of head patching (.nc) that rank both senders and receivers, or a table (.csv) with columns layer and head. Default:
    <component>-heads.nc of this results folder, model, data set and corruption, for each component."""
    ranking_token: str | None = None
    """Token role of the effects that rank the heads. Default: the paper's (BLIP correct, causal decoders last)."""


@dataclass(frozen=True)
class Asked:
    """Which paths of every pair; see `PathPatching`."""

    ends: Ends
    senders: tuple[Head, ...]
    receivers: tuple[Receiver, ...]
    token: str
    mlps: Mlps


def patch_paths(
    study: Study,
    senders: Sequence[str] = (),
    receivers: Sequence[str] = (),
    component: str | None = None,
    receiver_component: str | None = None,
    token: str = "all",
    mlps: Mlps = "recomputed",
    top: int = 5,
    ranking: Path | None = None,
    ranking_token: str | None = None,
) -> Path:
    """Write `<out>/<model>/<dataset>/<corruption>/<component>[-to-<receiver component>]-paths.nc`.

    Variables: logit_correct, logit_incorrect, log_normalizer (sample[, draw], sender, receiver), of the run in which the receiver reads
    what the sender alone has changed; kl_from_clean with the option `divergence`; baselines clean_* and corrupt_*. The last receiver,
    "total", is ordinary patching of the sender: all its paths at once. Coordinates: sender_layer, sender_head, receiver_layer,
    receiver_head (-1 where there is none), receiver_input. `ds.effects` gives the metrics.

    Raises
    ------
    PathError
        A sender or a receiver that is no head of the model, is named twice, or cannot be ranked.
    ValueError
        Unknown component or role; MLPs to be frozen that cannot be read.
    RankingError, FileNotFoundError, ResultsError, LeftOut, VerificationError
        As in head ablation and patching.
    """
    vlm, corruption = study.vlm, study.options.corruption
    sending = component or vlm.architecture.head_component
    ends = Ends(sending, receiver_component or sending)
    for name in (ends.sending, ends.receiving):
        check_component(vlm, name)
    if mlps == "frozen" and "mlp" not in vlm.architecture.components:
        raise ValueError(f"--mlps frozen needs the output of every MLP, which cannot be read in {vlm.architecture.name}")
    if token == EVERY:
        raise ValueError("--token must be one role, or all; a sender at each token by itself is one run each")
    if top < 1:
        raise ValueError(f"--top must be at least 1, not {top}")

    def ranked(component: str) -> Heads:
        path = ranking or _default_ranking(study, component)
        return ranked_heads(path, vlm, component, ranking_token or vlm.architecture.main_token, made_of(study))

    for texts in (senders, receivers):
        no_duplicates(texts)
    from_heads = [parse_head(text, vlm, ends.sending) for text in senders] or [Head(*head) for head in ranked(ends.sending)[:top]]
    to = [parse_receiver(text, vlm, ends.receiving) for text in receivers]
    to = to or list(default_receivers(vlm, ends, from_heads, ranked(ends.receiving), top))
    asked = Asked(ends, tuple(from_heads), tuple(to), token, mlps)
    configuration = study.configuration(
        corruption,
        component=ends.sending,
        receiver_component=ends.receiving,
        senders=list(map(str, asked.senders)),
        receivers=list(map(str, asked.receivers)),
        token=token,
        mlps=mlps,
    )
    between = "" if ends.receiving == ends.sending else f"-to-{ends.receiving}"
    store = Store(study.folder / study.label(corruption) / f"{ends.sending}{between}-paths.nc", configuration, study.options.overwrite)
    if not store.is_finished:
        pairs, parts = each_sample(study, store, corruption, partial(_of_pair, asked=asked))
        store.finish(_assemble(study, pairs, parts, asked), effects.write)
    return store.path


def _default_ranking(study: Study, component: str) -> Path:
    path = study.folder / study.label(study.options.corruption) / f"{component}-heads.nc"
    if not path.is_file():
        raise PathError(
            f"no ranking of heads at {path}: make it with `python -m interventions.head_patching --component {component}` and the same "
            "options, or name one with --ranking, or the heads with --senders and --receivers"
        )
    return path


def _of_pair(study: Study, pair: Pair, check: bool, asked: Asked) -> Arrays:
    """The arrays of each draw of the noise, or of the one corrupt run."""
    (cell,) = cells_of(study, pair, (asked.token,))
    paths = Paths(asked.ends, asked.senders, asked.receivers, cell.positions, asked.mlps == "frozen")
    examples = study.examples(pair, study.options.corruption)
    draws = [study.vlm.run(_of_example, ours, paths, check, study.options.divergence) for ours in examples]
    runs = np.stack([draw["runs"] for draw in draws])
    exchanged = study.options.direction == "noising"
    return {"patched": np.stack([draw["patched"] for draw in draws]), "runs": runs[:, ::-1] if exchanged else runs}


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


def _assemble(study: Study, pairs: Sequence[Pair], parts: Sequence[Arrays], asked: Asked) -> xr.Dataset:
    patched, runs = (np.stack([part[name] for part in parts]).astype(np.float32) for name in ("patched", "runs"))
    dims = ("sample", "draw", "sender", "receiver")
    variables: dict[str, Any] = {}
    for number, name in enumerate(effects.MEASURED[: runs.shape[-1]]):
        variables[name] = (dims, patched[..., number])
        variables[f"clean_{name}"] = (("sample",), runs[:, 0, CLEAN, number])
        variables[f"corrupt_{name}"] = (("sample", "draw"), runs[:, :, CORRUPT, number])
    heads = [*(receiver.head for receiver in asked.receivers), None]
    coordinates = {
        **sample_coordinates(study, pairs),
        "draw": np.arange(runs.shape[1]),
        "sender": np.array(list(map(str, asked.senders)), object),
        "sender_layer": ("sender", np.array([sender.layer for sender in asked.senders])),
        "sender_head": ("sender", np.array([sender.number for sender in asked.senders])),
        "receiver": np.array([*map(str, asked.receivers), TOTAL], object),
        "receiver_layer": ("receiver", np.array([head.layer if head else NO_HEAD for head in heads])),
        "receiver_head": ("receiver", np.array([head.number if head else NO_HEAD for head in heads])),
        "receiver_input": ("receiver", np.array([*(receiver.input for receiver in asked.receivers), ""], object)),
    }
    dataset = xr.Dataset(variables, coordinates)
    if runs.shape[1] == 1:
        dataset = dataset.isel(draw=0, drop=True)
    title = f"Effects of patching direct paths from {asked.ends.sending} heads to {asked.ends.receiving} heads and the answer"
    dataset.attrs = patching_attributes(study, title, asked.ends.sending, study.options.corruption)
    dataset.attrs |= {"receiver_component": asked.ends.receiving, "token": asked.token, "mlps": asked.mlps, "granularity": "paths"}
    return dataset


def main() -> None:
    options = tyro.cli(PathPatching)
    with reporting_errors():
        path = patch_paths(
            prepare(options),
            options.senders,
            options.receivers,
            options.component,
            options.receiver_component,
            options.token,
            options.mlps,
            options.top,
            options.ranking,
            options.ranking_token,
        )
        with xr.open_dataset(path) as dataset:
            print(dataset.effects.logit_difference().mean("sample").to_pandas().to_string(float_format="%.3f"))
        print(path)


if __name__ == "__main__":
    from interventions.path_patching import main as by_name  # where other processes find what is measured

    by_name()
