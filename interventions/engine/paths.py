"""Runs of path patching (Wang et al. 2022, "Interpretability in the wild", section 3.1 and appendix B; Goldowsky-Dill et al. 2023).

For a path from a pair's source run into its base run (the corrupt one; in the noising direction the clean one):

1. The base run again, with the source run's z of the sender, and with every other attention head's z as it is in the base run. All else
   (residual sums, norms, MLPs unless they are frozen too, cross-attention's reading of nothing new) is computed anew from the changed
   residual stream. What the receiver reads there has changed by the direct paths from the sender alone: those through no other head.
2. The base run again, with the receiver reading that. All that comes after it runs freely. Where the receiver is the answer, the first
   run itself is measured: the last layer's residual stream, and all that is computed of it (final norm and unembedding; BLIP's whole
   answer decoder).

MLPs are by default computed anew, as in Wang et al.: what passes through them is then part of the direct path. In BLIP a norm follows each
sum, so that no part of the stream stays as it was: a direct path is the change of the stream when these norms are computed anew.

A head's inputs are its queries, its keys and its values, of all tokens. Whatever they are, the rest of the base run feels them through the
head's z alone, so the z that the changed inputs make is what is kept of 1 and put in in 2: `sweep` runs these as any patched heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from nnsight import save
from torch import Tensor

from interventions.engine.capture import BASE, SOURCE, Captured, rows_of
from interventions.engine.memory import halving
from interventions.engine.path_names import WHOLE, Ends, Head, Receiver
from interventions.engine.plan import Patch
from interventions.engine.sweep import sweep
from interventions.engine.whole_runs import answers_of, clean_log_probs_of, runs_in_a_trace, whole_runs
from interventions.models.packing import Packing
from interventions.models.vlm import Vlm, measure


@dataclass(frozen=True)
class Paths:
    """Every path from some senders to some receivers.

    Attributes
    ----------
    positions : where the senders' z is the source run's
    freeze_mlps : MLPs too are held as in the base run
    """

    ends: Ends
    senders: tuple[Head, ...]
    receivers: tuple[Receiver, ...]
    positions: tuple[int, ...]
    freeze_mlps: bool = False

    @property
    def components(self) -> tuple[str, ...]:
        """What must be captured."""
        return tuple(dict.fromkeys([self.ends.sending, self.ends.receiving]))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs by which heads receive; the answer is measured with the first."""
        return tuple(dict.fromkeys(receiver.input for receiver in self.receivers if receiver.head)) or (WHOLE,)


def run_paths(vlm: Vlm, captured: Captured, paths: Paths) -> Float[Tensor, "sender receiver measurement"]:
    """The measurements of the first captured pair's paths; the base run's own where a path cannot carry anything.

    That is so where the receiver is not computed after the sender, or the sender's z is, bit for bit, the same in both runs.
    """
    base = captured.measured[0, BASE]
    result = base.expand(len(paths.senders), len(paths.receivers), -1).clone()
    changing = [i for i, sender in enumerate(paths.senders) if _first_change(vlm, captured, paths, sender) is not None]
    together = max(1, (runs_in_a_trace(vlm, captured) - 1) // len(paths.inputs))

    def run(some: Sequence[int]) -> Tensor:
        return _run_together(vlm, captured, replace(paths, senders=tuple(paths.senders[i] for i in some)))

    for start in range(0, len(changing), together):
        part = changing[start : start + together]
        result[part] = torch.cat(halving(run, part, "senders"))
    return result


def _first_change(vlm: Vlm, captured: Captured, paths: Paths, sender: Head) -> int | None:
    """The first position where a sender's z is another in the source run, of those where it is put in."""
    columns = slice(sender.number * vlm.head_dim, (sender.number + 1) * vlm.head_dim)
    source, base = captured.states[paths.ends.sending][0, :, sender.layer, :, columns]
    changed = (source != base).any(-1).tolist()
    return next((position for position in sorted(paths.positions) if changed[position]), None)


def _run_together(vlm: Vlm, captured: Captured, paths: Paths) -> Float[Tensor, "sender receiver measurement"]:
    senders, inputs = paths.senders, paths.inputs
    arrived, at_answer = _send(vlm, captured, paths)
    every = [(sender, name) for name in inputs for sender in senders]  # the runs of the trace, after the base run
    wanted = [
        [(column, receiver.head) for column, receiver in enumerate(paths.receivers)
         if receiver.head and receiver.input == name and paths.ends.reaches(vlm, sender, receiver)]
        for sender, name in every
    ]  # fmt: skip
    tokens = captured.lengths[0]
    starts = [(_first_change(vlm, captured, paths, sender) or 0) if vlm.architecture.causal else 0 for sender in senders] * len(inputs)
    patches = [
        [Patch(paths.ends.receiving, (head.layer,), head.number, tuple(range(start, tokens))) for _, head in of_run]
        for of_run, start in zip(wanted, starts, strict=True)
    ]
    result = captured.measured[0, BASE].expand(len(senders), len(paths.receivers), -1).clone()
    if arrived:
        for number, measured in enumerate(sweep(vlm, _with_arrived(captured, paths.ends.receiving, arrived), patches)):
            result[number % len(senders), [column for column, _ in wanted[number]]] = measured
    for column, receiver in enumerate(paths.receivers):
        if receiver.head is None:
            result[:, column] = at_answer[: len(senders)]
    return result


def _with_arrived(captured: Captured, component: str, arrived: dict[int, Float[Tensor, "run token width"]]) -> Captured:
    """The pair once for each run, with the z that arrived in that run in the place of the source run's."""
    count = len(next(iter(arrived.values())))

    def many(values: Tensor) -> Tensor:
        return values[:1].expand(count, *values.shape[1:])

    base = captured.states[component][:1, BASE]
    states = torch.stack([base.repeat(count, 1, 1, 1), many(base)], 1)
    for layer, z in arrived.items():
        states[:, SOURCE, layer] = z
    first = torch.zeros(count, dtype=torch.long, device=base.device)
    return replace(
        captured,
        ids=many(captured.ids),
        lengths=captured.lengths[:1] * count,
        answers=many(captured.answers),
        states={component: states},
        before={site: many(values) for site, values in captured.before.items()},
        image=None if captured.image is None else many(captured.image),
        embedded=many(captured.embedded),
        leaving=[many(values) for values in captured.leaving],
        text_inputs=rows_of(captured.text_inputs, first, len(captured.lengths)),
        image_projected=[[many(values) for values in of_layer] for of_layer in captured.image_projected],
        cache=[(many(keys), many(values)) for keys, values in captured.cache],
        measured=many(captured.measured),
        clean_log_probs=None if captured.clean_log_probs is None else many(captured.clean_log_probs),
        forced=captured.forced[:1] * count,
    )


def _send(vlm: Vlm, captured: Captured, paths: Paths) -> tuple[dict[int, Tensor], Float[Tensor, "run measurement"]]:
    """Step 1, in one trace: the base run, then for each input every sender.

    Returns the receivers' z, by layer [run, token, width], and what is measured of each run, without the base run.
    """
    ends, runs = paths.ends, 1 + len(paths.senders) * len(paths.inputs)
    packing, known = whole_runs(vlm, captured, runs)
    source = captured.states[ends.sending][0, SOURCE]
    sends, at = _senders(vlm, captured, paths)
    first, receiving = min(sender.layer for sender in paths.senders), {receiver.head.layer for receiver in paths.receivers if receiver.head}
    answers = answers_of(captured, runs)
    clean = clean_log_probs_of(captured, runs)
    with torch.no_grad(), vlm.model.trace(**vlm.packed(packing, known)):
        vlm.enter_packed(packing, known)
        arrived: dict[int, Tensor] = save({})
        for number in range(first):
            vlm.layers[number].skip(packing.gather(captured.leaving[number]))
        for number in range(first, vlm.n_layers):
            layer = vlm.layers[number]
            for component in vlm.components_of(number):
                if component == "mlp" and paths.freeze_mlps:
                    vlm.port(component).write(layer, _as_in_base(vlm.port(component).read(layer), packing))
                if component not in vlm.architecture.attention:
                    continue
                receives = component == ends.receiving and number in receiving
                if receives:
                    _take_inputs(vlm, paths, packing, layer)
                ports = vlm.image_projections(component)
                for port, projected in zip(ports, captured.image_projected[number] if ports else (), strict=True):
                    port.skip(layer, projected[packing.sample])
                z = vlm.port(component).read(layer)
                if receives:
                    arrived[number] = z.flatten(0, 1)[packing.tokens[1:]].clone()
                frozen = _as_in_base(z, packing)
                if component == ends.sending:
                    put = (sends[packing.run, number] & at[packing.position][..., None]).repeat_interleave(vlm.head_dim, -1)
                    frozen = torch.where(put, source[number, packing.position], frozen)
                vlm.port(component).write(layer, frozen)
        measured = save(measure(vlm.packed_logits(packing), answers, clean))
    return arrived, measured[1:]


def _take_inputs(vlm: Vlm, paths: Paths, packing: Packing, layer: Any) -> None:
    """Inside a trace, before a receiving attention: the inputs that a run's receivers do not receive by are as in the base run."""
    if set(paths.inputs) == {WHOLE}:
        return
    for name, port in vlm.architecture.attention[paths.ends.receiving].inputs.items():
        of_runs = [False] + [given in (WHOLE, name) for given in paths.inputs for _ in paths.senders]
        taken = torch.tensor(of_runs, device=vlm.device)[packing.run]
        changed = port.read(layer)
        port.write(layer, torch.where(taken[..., None], changed, _as_in_base(changed, packing)))


def _senders(vlm: Vlm, captured: Captured, paths: Paths) -> tuple[Tensor, Tensor]:
    """Which head sends in each run, [run, layer, head], and at which positions."""
    sends = torch.zeros(1 + len(paths.senders) * len(paths.inputs), vlm.n_layers, vlm.n_heads, dtype=torch.bool)
    for run, sender in enumerate(paths.senders * len(paths.inputs), 1):
        sends[run, sender.layer, sender.number] = True
    at = torch.zeros(captured.ids.shape[1], dtype=torch.bool)
    at[list(paths.positions)] = True
    return sends.to(vlm.device), at.to(vlm.device)


def _as_in_base(state: Float[Tensor, "row token width"], packing: Packing) -> Float[Tensor, "row token width"]:
    """A state with that of the first run, at the same position, in every place."""
    return state.flatten(0, 1)[packing.tokens[0]][packing.position]
