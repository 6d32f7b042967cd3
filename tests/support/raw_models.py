"""Models by their own modules: where each site is, read off the models' code, and runs changed with PyTorch's hooks alone.

Independent of nnsight and of the project's descriptions: what the project measures is held against these.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import torch

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Site:
    """A value that a module below a layer is given ("input") or gives ("output", or the first of a "tuple")."""

    path: str
    side: str

    def of(self, layer: Any) -> Any:
        """The module; None where a layer has no such component."""
        try:
            return attrgetter(self.path)(layer) if self.path else layer
        except AttributeError:
            return None


@dataclass(frozen=True)
class Run:
    """One run of a pair: the arguments of the model, and what becomes of its embeddings, by modality."""

    inputs: Mapping[str, torch.Tensor]
    embeddings: Mapping[str, Change] = field(default_factory=dict)


@dataclass(frozen=True)
class RawModel:
    """A Hugging Face module.

    Attributes
    ----------
    sites : by component
    projections : by attention component, the linear modules that make what the layer itself computes: queries, keys, values
    attentions : by attention component, the module that gives its probabilities second
    embeddings : by modality, the module through which they pass, and how: its "output", the "states" in its output, or a keyword
    answer : logits of a run's arguments, [vocabulary]
    """

    module: Any
    layers: str
    sites: Mapping[str, Site]
    projections: Mapping[str, Mapping[str, str]]
    attentions: Mapping[str, str]
    embeddings: Mapping[str, tuple[str, str]]
    answer: Callable[[Any, Mapping[str, torch.Tensor]], torch.Tensor]
    heads: int
    head_dim: int

    def layer(self, number: int) -> Any:
        return attrgetter(self.layers)(self.module)[number]

    def numbers(self, component: str) -> list[int]:
        """The layers that have a component."""
        return [n for n in range(len(attrgetter(self.layers)(self.module))) if self.sites[component].of(self.layer(n)) is not None]

    def columns(self, head: int | None) -> slice:
        return slice(None) if head is None else slice(head * self.head_dim, (head + 1) * self.head_dim)

    def run(self, run: Run, put: Mapping[tuple, Change] | None = None, keep: Any = (), grad: bool = False) -> tuple[torch.Tensor, dict]:
        """The logits of a run with some values changed, and the values that are kept, after their changes.

        `put` and `keep` name (component, layer), or (component, layer, projection) for the output of a linear module.
        """
        handles, kept = [], {}
        for modality, change in run.embeddings.items():
            handles.append(self._change_embeddings(modality, change))
        for name in dict.fromkeys([*(put or {}), *keep]):
            component, number, *projection = name
            path = self.projections[component][projection[0]] if projection else self.sites[component].path
            side = "output" if projection else self.sites[component].side
            target = attrgetter(path)(self.layer(number)) if path else self.layer(number)
            handles.append(_changing(target, side, (put or {}).get(name), kept, name if name in keep else None))
        try:
            with torch.set_grad_enabled(grad):
                return self.answer(self.module, run.inputs), kept
        finally:
            for handle in handles:
                handle.remove()

    def _change_embeddings(self, modality: str, change: Change) -> Any:
        path, how = self.embeddings[modality]
        target = attrgetter(path)(self.module)
        if how == "output":
            return target.register_forward_hook(lambda _, inputs, output: change(output))
        if how == "states":

            def after(_, inputs, output):
                output.last_hidden_state = change(output.last_hidden_state)
                return output

            return target.register_forward_hook(after)

        def before(_, arguments, keywords):
            states = keywords[how]
            changed = change(states.reshape(1, -1, states.shape[-1])).view_as(states)
            return arguments, {**keywords, how: changed}

        return target.register_forward_pre_hook(before, with_kwargs=True)

    def read_embeddings(self, run: Run, modality: str) -> torch.Tensor:
        """The embeddings of a run, [position, width]."""
        seen = []
        self.run(replace(run, embeddings={modality: lambda states: seen.append(states[0].clone()) or states}))
        return seen[0]


def _changing(target: Any, side: str, change: Change | None, kept: dict, name: Any) -> Any:
    def changed(value: torch.Tensor) -> torch.Tensor:
        value = change(value) if change else value
        if name is not None:
            kept[name] = value if value.requires_grad else value.clone()
        return value

    if side == "input":
        return target.register_forward_pre_hook(lambda _, inputs: (changed(inputs[0]), *inputs[1:]))
    if side == "tuple":
        return target.register_forward_hook(lambda _, inputs, output: (changed(output[0]), *output[1:]))
    return target.register_forward_hook(lambda _, inputs, output: changed(output))


# ---------------------------------------------------------------------- the models


def _blip_answer(module: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    start = torch.tensor([[module.config.text_config.bos_token_id]])
    images = module.vision_model(pixel_values=inputs["pixel_values"]).last_hidden_state
    states = module.text_encoder(input_ids=inputs["input_ids"], encoder_hidden_states=images).last_hidden_state
    return module.text_decoder(input_ids=start, encoder_hidden_states=states).logits[0, -1]


def _decoder_answer(module: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return module(**inputs).logits[0, -1]


_BLIP_TEXT = {
    "sites": {
        "self_attention": Site("attention.self", "tuple"),
        "cross_attention": Site("crossattention.self", "tuple"),
        "mlp": Site("output.dense", "output"),
        "block": Site("", "output"),
    },
    "projections": {
        "self_attention": {name[0]: f"attention.self.{name}" for name in ("query", "key", "value")},
        "cross_attention": {"q": "crossattention.self.query"},
    },
    "attentions": {"self_attention": "attention.self", "cross_attention": "crossattention.self"},
}
_BLIP_VISION = {
    "sites": {
        "self_attention": Site("self_attn.projection", "input"),
        "mlp": Site("mlp", "output"),
        "block": Site("", "output"),
    },
    "projections": {"self_attention": {"qkv": "self_attn.qkv"}},
    "attentions": {"self_attention": "self_attn"},
}
_DECODER = {
    "sites": {"self_attention": Site("self_attn.o_proj", "input"), "mlp": Site("mlp", "output"), "block": Site("", "output")},
    "projections": {"self_attention": {name: f"self_attn.{name}_proj" for name in "qkv"}},
    "attentions": {"self_attention": "self_attn"},
}
_MLLAMA = {
    "sites": {**_DECODER["sites"], "cross_attention": Site("cross_attn.o_proj", "input")},
    "projections": {**_DECODER["projections"], "cross_attention": {"q": "cross_attn.q_proj"}},
    "attentions": {"self_attention": "self_attn", "cross_attention": "cross_attn"},
}
_QFORMER = {
    "sites": {"cross_attention": Site("crossattention.attention", "tuple")},
    "projections": {},
    "attentions": {"cross_attention": "crossattention.attention"},
}


def raw_model(module: Any, kind: str = "") -> RawModel:
    """A module, or a part of it, by its type; `kind` is the part's name."""
    of = module.config.model_type, kind
    text = module.config.text_config
    if of[0] == "blip":
        sizes = module.config.vision_config if kind == "vision" else text
        layers = {"": "text_encoder.encoder.layer", "decoder": "text_decoder.bert.encoder.layer", "vision": "vision_model.encoder.layers"}
        embeddings = {"image": ("vision_model", "states"), "text": ("text_encoder.embeddings", "output")}
        described = _BLIP_VISION if kind == "vision" else _BLIP_TEXT
        return _raw(module, layers[kind], described, embeddings, _blip_answer, sizes)
    if kind == "qformer":
        embeddings = {"image": ("vision_model", "states")}
        return _raw(module, "qformer.encoder.layer", _QFORMER, embeddings, _decoder_answer, module.config.qformer_config)
    if of[0] == "instructblip":
        embeddings = dict.fromkeys(("image", "text"), ("language_model", "inputs_embeds"))
        return _raw(module, "language_model.model.layers", _DECODER, embeddings, _decoder_answer, text)
    embeddings = dict.fromkeys(("image", "text"), ("model.language_model", "inputs_embeds"))
    if of[0] == "mllama":
        embeddings = {
            "image": ("model.language_model", "cross_attention_states"),
            "text": ("model.language_model.embed_tokens", "output"),
        }
    return _raw(module, "model.language_model.layers", _MLLAMA if of[0] == "mllama" else _DECODER, embeddings, _decoder_answer, text)


def _raw(module: Any, layers: str, described: Mapping, embeddings: Mapping, answer: Callable, sizes: Any) -> RawModel:
    head_dim = getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads
    return RawModel(module, layers, **described, embeddings=embeddings, answer=answer, heads=sizes.num_attention_heads, head_dim=head_dim)


def question_positions(tokenizer: Any, text: str, question: str, ids: list[int]) -> torch.Tensor:
    """Which tokens of a prompt are the question's, by the characters that they stand for, counted from the prompt's end."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    start = text.rindex(question)
    positions = torch.zeros(len(ids), dtype=torch.bool)
    for place, (left, right) in enumerate(encoded["offset_mapping"]):
        left = right - len(text[left:right].lstrip())
        if start <= left < right <= start + len(question):
            positions[place - len(encoded["input_ids"])] = True
    return positions


# ---------------------------------------------------------------------- what methods do, by hooks


def with_columns(state: torch.Tensor, other: torch.Tensor, columns: slice, positions: Any = slice(None)) -> torch.Tensor:
    """A state [row, position, width] with some columns of another at some positions."""
    state = state.clone()
    state[0, positions, columns] = other[0, positions, columns]
    return state


def constant(value: torch.Tensor) -> Change:
    return lambda _: value


def on_path(
    raw: RawModel, run: Run, base: dict, sent: torch.Tensor, sender: tuple[str, int], receiver: tuple[str, int, int, tuple[str, ...]] | None
) -> torch.Tensor:
    """The logits of a run in which a receiver reads what the sender alone has changed.

    Parameters
    ----------
    base : what every attention's z is in the run
    sent : the sender's z, as it is put in
    sender : its component and layer
    receiver : component, layer, head and the projections that receive; None where the logits themselves do
    """
    held = {name: constant(z) for name, z in base.items()} | {sender: constant(sent)}
    keep = [(*receiver[:2], name) for name in receiver[3]] if receiver else []
    logits, arrived = raw.run(run, held, keep)
    if receiver is None:
        return logits
    component, layer, head, _ = receiver
    of_base, columns = base[component, layer], raw.columns(head)
    changed = {name: constant(value) for name, value in arrived.items()}
    return raw.run(run, changed | {(component, layer): lambda z: with_columns(of_base, z, columns)})[0]


def blocked(raw: RawModel, run: Run, layers: Any, queries: Any, keys: Mapping[str, Any]) -> torch.Tensor:
    """The logits of a run where attention probabilities are set to 0 after the softmax and the rest is scaled up to sum to 1.

    The model must compute attention in the eager way, which gives the probabilities. None stands for every key.
    """

    def hook(component: str) -> Callable:
        def change(attention, arguments, options, output):
            hidden = options.get("hidden_states", arguments[0] if arguments else None)
            for name in ("encoder_hidden_states", "cross_attention_states"):
                hidden = hidden if options.get(name) is None else options[name]
            values = (attention.value if hasattr(attention, "value") else attention.v_proj)(hidden)
            weights = output[1].clone()
            values = values.reshape(1, -1, values.shape[-1]).unflatten(-1, (-1, raw.head_dim)).transpose(1, 2)
            values = values.repeat_interleave(raw.heads // values.shape[1], 1)  # heads that share them
            for query in queries:
                weights[0, :, query, slice(None) if keys[component] is None else list(keys[component])] = 0
            total = weights.sum(-1, keepdim=True)
            z = (torch.where(total > 0, weights / total.clamp(min=1e-30), 0) @ values).transpose(1, 2).flatten(2)
            return (attention.o_proj(z) if hasattr(attention, "o_proj") else z, *output[1:])

        return change

    handles = [
        attrgetter(raw.attentions[component])(raw.layer(number)).register_forward_hook(hook(component), with_kwargs=True)
        for component in keys
        for number in layers
        if number in raw.numbers(component)
    ]
    try:
        return raw.run(run)[0]
    finally:
        for handle in handles:
            handle.remove()
