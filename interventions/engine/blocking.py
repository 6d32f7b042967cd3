"""Blocked attention: runs in which, in some layers, some positions do not see some keys ("attention knockout", Geva et al. 2023).

In: a captured pair, whose base run is blocked, and what to block. Out: the measurements of each blocked run. As in `sweep`, the image is
encoded once, runs are packed, and what comes before the first block is not run again.

Keys are masked before the softmax, so that the attention they would have got goes to the others. A position that is left nothing to see
has z = 0: the attention adds to it no more than the bias of its output projection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from nnsight import save
from torch import Tensor

from interventions.engine.budget import tokens_in_a_trace
from interventions.engine.capture import Captured
from interventions.engine.memory import halving
from interventions.engine.sweep import known_of, say_once
from interventions.models.packing import Packing, additive, pack
from interventions.models.vlm import Vlm, measure


@dataclass(frozen=True)
class Block:
    """What is blocked in one run.

    Attributes
    ----------
    layers : where
    queries : the positions that do not see
    keys : by attention component, what they do not see: positions of the prompt, or in cross-attention numbers of the image's keys;
        None for every key
    """

    layers: tuple[int, ...]
    queries: tuple[int, ...]
    keys: Mapping[str, tuple[int, ...] | None]


def sweep_blocks(vlm: Vlm, captured: Captured, blocks: Sequence[Block], tokens: int | None = None) -> Float[Tensor, "block measurement"]:
    """The measurements of each blocked run.

    Parameters
    ----------
    captured : of one pair; its base run is the one that is blocked
    tokens : at most so many tokens in one trace (but at least one run), default: `budget.tokens_in_a_trace`. The numbers do not
        depend on it beyond rounding.
    """
    measured = captured.measured.new_empty(len(blocks), captured.measured.shape[-1])
    packs_from, reason = vlm.packs_from(captured.ids[0, : captured.lengths[0]])
    by_layer = sorted(range(len(blocks)), key=lambda number: min(blocks[number].layers))
    for apart in (False, True):
        numbers = [number for number in by_layer if (_start(vlm, blocks[number]) < packs_from) == apart]
        if apart and numbers:
            say_once(f"{vlm.name}: {reason}: such blocked runs are not packed, but batched whole prompt by whole prompt")
        if numbers:
            measured[numbers] = _run_in_traces(vlm, captured, [blocks[i] for i in numbers], apart, tokens or tokens_in_a_trace(vlm))
    return measured


def _start(vlm: Vlm, block: Block) -> int:
    """The first position that must be run."""
    return min(block.queries) if vlm.architecture.causal else 0


def _run_in_traces(vlm: Vlm, captured: Captured, blocks: Sequence[Block], apart: bool, tokens: int) -> Float[Tensor, "block measurement"]:
    """One trace, or two of half the runs each where that is too many tokens or more than the device's memory holds, and so on."""
    needed = sum(captured.lengths[0] - (0 if apart else _start(vlm, block)) for block in blocks)
    if needed <= tokens or len(blocks) == 1:
        return torch.cat(halving(lambda some: _run_together(vlm, captured, some, apart), blocks, "blocked runs"))
    half = len(blocks) // 2
    return torch.cat([_run_in_traces(vlm, captured, part, apart, tokens) for part in (blocks[:half], blocks[half:])])


def _run_together(vlm: Vlm, captured: Captured, blocks: Sequence[Block], apart: bool) -> Float[Tensor, "block measurement"]:
    first = min(min(block.layers) for block in blocks)
    packing = pack([0] * len(blocks), [_start(vlm, block) for block in blocks], captured.lengths, apart).to(vlm.device)
    known = known_of(captured, packing, captured.forced * len(blocks))
    hidden = _hidden(vlm, packing, blocks)
    answers = captured.answers.expand(len(blocks), -1)
    clean = None if captured.clean_log_probs is None else captured.clean_log_probs.expand(len(blocks), -1)
    with torch.no_grad(), vlm.model.trace(**vlm.packed(packing, known)):
        vlm.enter_packed(packing, known)
        for number in range(first):
            vlm.layers[number].skip(packing.gather(captured.leaving[number]))
        for number in range(first, vlm.n_layers):
            for component in _attentions(vlm, number):
                blind = hidden.mask(vlm, number, component)
                ports = vlm.image_projections(component)
                for port, projected in zip(ports, captured.image_projected[number] if ports else (), strict=True):
                    port.skip(vlm.layers[number], projected[packing.sample])
                _silence(vlm, number, component, blind)
        measured = save(measure(vlm.packed_logits(packing), answers, clean))
    return measured


@dataclass(frozen=True)
class _Hidden:
    """What the tokens of some blocked runs do not see.

    Attributes
    ----------
    blocked : by layer, the runs whose block it is in
    run : the run that each token belongs to
    keys : by attention component, of each token the keys that its run's block hides from it; in cross-attention the last stands for all
        keys after those before it
    """

    blocked: Bool[Tensor, "layer run"]
    run: Int[Tensor, "row token"]
    keys: dict[str, Bool[Tensor, "row token key"]]

    def mask(self, vlm: Vlm, number: int, component: str) -> Bool[Tensor, "row token"] | None:
        """Inside a trace, before an attention: hide what is blocked. Returns the tokens that are left nothing to see, if any."""
        if component not in self.keys or not self.blocked[number].any():
            return None
        attention = vlm.architecture.attention[component]
        envoy = attention.probabilities.envoy(vlm.layers[number])
        hidden = self.keys[component] & self.blocked[number][self.run][..., None]
        arguments, options = envoy.inputs
        if component != "self_attention" and hidden.shape[-1] > 1:
            rest = options["encoder_hidden_states"].shape[1] - hidden.shape[-1] + 1
            hidden = torch.cat([hidden[..., :-1], hidden[..., -1:].expand(-1, -1, rest)], -1)
        seen = _seen(options.get(attention.mask), hidden, vlm.architecture.causal and component == "self_attention") & ~hidden
        envoy.inputs = (arguments, options | {attention.mask: additive(seen, vlm.dtype)})
        blind = hidden.any(-1) & ~seen.any(-1)
        return blind if blind.any() else None


def _attentions(vlm: Vlm, number: int) -> list[str]:
    """The attention components that a layer has, in order."""
    return [name for name in vlm.components_of(number) if name in vlm.architecture.attention]


def _seen(mask: Tensor | None, hidden: Bool[Tensor, "row token key"], causal: bool) -> Bool[Tensor, "row token key"]:
    """Which keys a token sees when nothing is blocked; without a mask all, or, in a causal decoder, those up to itself."""
    if mask is None:
        return torch.ones_like(hidden).tril() if causal else torch.ones_like(hidden)
    return mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min / 2


def _silence(vlm: Vlm, number: int, component: str, blind: Bool[Tensor, "row token"] | None) -> None:
    """Inside a trace, after an attention: z = 0 where a token saw nothing."""
    if blind is not None:
        port, layer = vlm.port(component), vlm.layers[number]
        port.write(layer, port.read(layer).masked_fill(blind[..., None], 0))


def _hidden(vlm: Vlm, packing: Packing, blocks: Sequence[Block]) -> _Hidden:
    tokens, prefix = int(packing.position.max()) + 1, int(packing.start.max())
    asks = _table([block.queries for block in blocks], tokens).to(vlm.device)[packing.run, packing.position]
    before = torch.arange(prefix, device=vlm.device).expand(len(packing.position), -1)
    places = torch.cat([before, packing.position], 1)[:, None].expand(-1, packing.position.shape[1], -1)
    keys = {}
    for component in {name: None for block in blocks for name in block.keys}:
        own = [block.keys.get(component, ()) for block in blocks]
        if component == "self_attention":
            unseen = _table(own, tokens).to(vlm.device)[packing.run].gather(2, places)
        else:
            named = 1 + max((max(numbers) for numbers in own if numbers), default=-1)
            unseen = _table(own, named + 1).to(vlm.device)[packing.run]
        keys[component] = asks[..., None] & unseen
    blocked = torch.tensor([[number in block.layers for block in blocks] for number in range(vlm.n_layers)], device=vlm.device)
    return _Hidden(blocked, packing.run, keys)


def _table(chosen: Sequence[Sequence[int] | None], size: int) -> Bool[Tensor, "run place"]:
    """The chosen places of each run; all of them for None."""
    table = torch.zeros(len(chosen), size, dtype=torch.bool)
    for row, places in zip(table, chosen, strict=True):
        row[slice(None) if places is None else list(places)] = True
    return table
