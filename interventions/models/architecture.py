"""One declarative description per architecture: where each site is. Differences between models live here and nowhere else.

Paths are relative to a layer. `Port` says at which module a value is read and written, on which side, and which element of a tuple.
"""

import pkgutil
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Port:
    """Where a state passes: a module below the layer ("" is the layer itself), its input or output, an element if that is a tuple."""

    module: str
    side: Literal["input", "output"] = "output"
    element: int | None = None

    def exists(self, layer: Any) -> bool:
        """Whether a layer has the module: in some models layers are of two kinds."""
        try:
            self.envoy(layer)
        except AttributeError:
            return False
        return True

    def envoy(self, layer: Any) -> Any:
        """The envoy of the module. nnsight mounts a submodule called `output` or `input` as `E_output`, `E_input`."""
        for name in filter(None, self.module.split(".")):
            layer = getattr(layer, f"E_{name}" if name in ("output", "input") else name)
        return layer

    def read(self, layer: Any) -> Any:
        """The state, inside a trace."""
        value = getattr(self.envoy(layer), self.side)
        return value if self.element is None else value[self.element]

    def write(self, layer: Any, state: Any) -> None:
        """Put `state` in the place of the module's own, inside a trace."""
        envoy = self.envoy(layer)
        if self.element is not None:
            whole = getattr(envoy, self.side)
            state = (*whole[: self.element], state, *whole[self.element + 1 :])
        setattr(envoy, self.side, state)

    def skip(self, layer: Any, state: Any) -> None:
        """Put `state` in the place of the module's output and do not run the module, inside a trace."""
        self.envoy(layer).skip(state if self.element is None else (state, None))


@dataclass(frozen=True)
class Attention:
    """An attention component.

    Attributes
    ----------
    z : the context vectors of all heads, [row, token, head * head_dim], before the output projection
    projection : the output projection, a linear module below the layer
    probabilities : [row, head, query, key]
    image_keys : which keys are the image's patches: those after the vision tower's class token, the prompt's image tokens, or all; none
        where the keys are of the "prompt" that another part of the model has read
    image_projections : of cross-attention, the linear modules that make keys and values of the image: the same in every patched run
    mask : the keyword by which the module that gives the probabilities takes its mask
    inputs : the linear modules that make queries (q), keys (k) and values (v) of what the layer itself computes, in the order in which
        they run: in cross-attention, queries alone
    """

    z: Port
    projection: str
    probabilities: Port
    image_keys: Literal["after_class_token", "image_tokens", "all", "prompt"]
    image_projections: tuple[Port, ...] = ()
    mask: str = "attention_mask"
    inputs: dict[str, Port] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """Sites of an architecture, in the order in which a layer computes them.

    Attributes
    ----------
    model_types : the `model_type` of the Hugging Face configs that it describes
    text_model : path of the module that runs the layers whose components are patched
    layers : path of these layers below it
    attention : its attention components
    mlp : output of the MLP's own last linear map, before the residual sum; None where it cannot be read token by token
    block : the residual stream after a layer
    answer_head : path of the module that makes logits of a causal decoder's states
    final_norm : path, below the text model, of the norm before it
    head_component, main_token : where NOTICE patches heads: the component, and the role of the token
    causal : the answer is read at the prompt's last token, which has read those before it
    causal_from : from where on a token of such a prompt reads only those before it, and no layer gets more of the image: from its
        start, from the end of its image, or nowhere. Before that, patched runs cannot be packed, and take the batched path
    template : the prompt; "chat" is the processor's own chat template. {image} is its image placeholder
    square : images are scaled to squares of so many pixels, so that every prompt has as many image tokens; None where the image
        processor itself sees to it
    patches_block : whether `block` is a component that is patched
    wrapper : the class of such a model (a subclass of `Vlm`), as "<module below interventions.models>:<class>"
    nnsight_model : the nnsight wrapper that it stands on, likewise
    parts : the other parts of such a model that can be patched, by name; their wrappers are classes of `parts`
    reference : for a component, the one that NOTICE's code patches under its name, where that is another
    done_before : for a component, the modules of its layer that have run before it and are worth skipping where their outputs are known
    text_config : the part of the config with the sizes of those layers
    described : not a type that is only tried as the common layout
    """

    name: str
    model_types: tuple[str, ...]
    text_model: str
    layers: str
    attention: dict[str, Attention]
    mlp: Port | None
    block: Port
    head_component: str
    main_token: str
    causal: bool
    answer_head: str = "lm_head"
    final_norm: str = "norm"
    causal_from: Literal["start", "image", "nowhere"] = "start"
    template: str = "{question}"
    square: int | None = None
    patches_block: bool = True
    done_before: dict[str, tuple[Port, ...]] = field(default_factory=dict)
    text_config: str = "text_config"
    described: bool = True
    wrapper: str = "decoder:Decoder"
    nnsight_model: str = "wrappers:DecoderModel"
    parts: dict[str, "Architecture"] = field(default_factory=dict)
    reference: dict[str, str] = field(default_factory=dict)

    @property
    def components(self) -> tuple[str, ...]:
        return (*self.attention, *(["mlp"] if self.mlp else []), *(["block"] if self.patches_block else []))

    def port(self, component: str) -> Port:
        """Where a component is patched (for attention: z of all heads).

        Raises
        ------
        ValueError
            When the architecture has no such component.
        """
        if component not in self.components:
            raise ValueError(f"{self.name} has no component {component!r}; choose from {', '.join(self.components)}")
        return self.attention[component].z if component in self.attention else getattr(self, component)


ONE_WORD = "{question} Answer with one word."  # what a chat model is asked; NOTICE's

_BLIP = Architecture(
    name="blip",
    wrapper="blip:Blip",
    nnsight_model="wrappers:BlipModel",
    model_types=("blip",),
    text_model="text_encoder",
    layers="encoder.layer",
    attention={
        "self_attention": Attention(
            Port("attention.self", element=0),
            "attention.output.dense",
            Port("attention.self", element=1),
            "image_tokens",
            inputs={name[0]: Port(f"attention.self.{name}") for name in ("query", "key", "value")},
        ),
        "cross_attention": Attention(
            Port("crossattention.self", element=0),
            "crossattention.output.dense",
            Port("crossattention.self", element=1),
            "after_class_token",
            (Port("crossattention.self.key"), Port("crossattention.self.value")),
            mask="encoder_attention_mask",
            inputs={"q": Port("crossattention.self.query")},
        ),
    },
    mlp=Port("output.dense"),
    block=Port(""),
    head_component="cross_attention",
    main_token="correct",
    causal=False,
    done_before={
        "cross_attention": (Port("attention", element=0),),
        "mlp": (Port("attention", element=0), Port("crossattention", element=0), Port("intermediate")),
    },
    reference={"mlp": "block"},  # the module called `output` is the layer's
)

QKV = {name: Port(f"self_attn.{name}_proj") for name in "qkv"}
SELF_ATTENTION = Attention(
    Port("self_attn.o_proj", side="input"), "self_attn.o_proj", Port("self_attn", element=1), "image_tokens", inputs=QKV
)

LLAVA = Architecture(
    name="llava",
    model_types=("llava", "vipllava"),
    text_model="model.language_model",
    layers="layers",
    attention={"self_attention": SELF_ATTENTION},
    mlp=Port("mlp"),
    block=Port(""),
    head_component="self_attention",
    main_token="last",
    causal=True,
    template="USER: {image}\n" + ONE_WORD + " ASSISTANT:",
    done_before={"mlp": (Port("self_attn", element=0),)},
)

_DECODER = replace(
    _BLIP,
    name="decoder",
    wrapper="parts:AnswerDecoder",
    text_model="text_decoder",
    layers="bert.encoder.layer",
    attention=_BLIP.attention | {"cross_attention": replace(_BLIP.attention["cross_attention"], image_keys="prompt")},
    main_token="start",
    reference={},
)
_VISION = replace(
    LLAVA,
    name="vision",
    model_types=(),
    wrapper="parts:VisionTower",
    text_model="vision_model",
    layers="encoder.layers",
    text_config="vision_config",
    attention={
        "self_attention": Attention(
            Port("self_attn.projection", side="input"),
            "self_attn.projection",
            Port("self_attn", element=1),
            "after_class_token",
            inputs={"qkv": Port("self_attn.qkv")},
        )
    },
    main_token="patch",
    causal=False,
    template="{question}",
)
_QFORMER = replace(
    _BLIP,
    name="qformer",
    wrapper="parts:QFormer",
    text_model="qformer",
    text_config="qformer_config",
    attention={
        "cross_attention": Attention(
            Port("crossattention.attention", element=0),
            "crossattention.output.dense",
            Port("crossattention.attention", element=1),
            "after_class_token",
            (Port("crossattention.attention.key"), Port("crossattention.attention.value")),
        )
    },
    mlp=None,
    patches_block=False,  # in InstructBLIP it holds the question too
    main_token="query",
    done_before={},
    reference={},
)

BLIP = replace(_BLIP, parts={"decoder": _DECODER, "vision": _VISION})
CHAT = replace(LLAVA, template="chat", square=448)  # most decoders that read image tokens differ from LLaVA in no more than this

ARCHITECTURES = (
    BLIP,
    LLAVA,
    replace(CHAT, name="llava_next", model_types=("llava_next",)),
    replace(CHAT, name="llava_onevision", model_types=("llava_onevision",)),
    replace(CHAT, name="qwen2_vl", model_types=("qwen2_vl", "qwen2_5_vl")),
    replace(
        CHAT, name="qwen3_vl", model_types=("qwen3_vl", "qwen3_vl_moe"), causal_from="image"
    ),  # its first layers get features of the image
    replace(CHAT, name="smolvlm", model_types=("smolvlm", "idefics3"), text_model="model.text_model"),
    replace(CHAT, name="paligemma", model_types=("paligemma",), causal_from="nowhere", template="{image}answer en {question}"),
    replace(CHAT, name="gemma3", model_types=("gemma3",), causal_from="image"),  # image tokens read each other
    replace(CHAT, name="internvl", model_types=("internvl",)),
    replace(CHAT, name="mistral3", model_types=("mistral3",)),
    replace(
        LLAVA,
        name="instructblip",
        model_types=("instructblip",),
        wrapper="decoder:QFormerDecoder",
        parts={"qformer": _QFORMER},
        text_model="language_model.model",
        answer_head="language_model.lm_head",
        template="{question} Short answer:",
    ),
    replace(
        LLAVA,
        name="blip_2",
        model_types=("blip-2",),
        wrapper="decoder:QFormerDecoder",
        parts={"qformer": _QFORMER},
        text_model="language_model.model.decoder",
        answer_head="language_model.lm_head",
        final_norm="final_layer_norm",
        template="Question: {question} Answer:",
        attention={
            "self_attention": Attention(
                Port("self_attn.out_proj", side="input"), "self_attn.out_proj", Port("self_attn", element=1), "image_tokens", inputs=QKV
            )
        },
        mlp=None,
        done_before={},
    ),
    replace(
        CHAT,
        name="mllama",
        model_types=("mllama",),
        wrapper="decoder:CrossAttentionDecoder",
        attention={
            "self_attention": SELF_ATTENTION,
            "cross_attention": Attention(
                Port("cross_attn.o_proj", side="input"),
                "cross_attn.o_proj",
                Port("cross_attn", element=1),
                "all",
                inputs={"q": Port("cross_attn.q_proj")},
            ),
        },
        head_component="cross_attention",
        causal_from="nowhere",  # it could be packed, were the masks of its cross-attention packed too
        done_before={"mlp": (Port("self_attn", element=0), Port("cross_attn", element=0))},
    ),
)


PARTS = tuple(dict.fromkeys(name for whole in ARCHITECTURES for name in whole.parts))  # their names, for command lines


def of_model_type(model_type: str) -> Architecture:
    """The description for a config's `model_type`; that of the common layout, under the type's own name, where there is none."""
    for architecture in ARCHITECTURES:
        if model_type in architecture.model_types:
            return architecture
    return replace(CHAT, name=model_type, model_types=(model_type,), described=False)


def named_class(name: str) -> Any:
    """The class that a description names, which is imported now."""
    return pkgutil.resolve_name(f"interventions.models.{name}")


def is_described(model_type: str) -> bool:
    """Whether there is a description for a config's `model_type`."""
    return any(model_type in architecture.model_types for architecture in ARCHITECTURES)
