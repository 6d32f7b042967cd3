"""One declarative description per architecture: where each site is. Differences between models live here and nowhere else.

Paths are relative to a layer. `Port` says at which module a value is read and written, on which side, and which element of a tuple.
"""

from dataclasses import dataclass
from typing import Any, Literal

COMPONENTS = ("self_attention", "cross_attention", "mlp", "block")


@dataclass(frozen=True)
class Port:
    """Where a state passes: a module below the layer ("" is the layer itself), its input or output, an element if that is a tuple."""

    module: str
    side: Literal["input", "output"] = "output"
    element: int | None = None

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


@dataclass(frozen=True)
class Attention:
    """An attention component.

    Attributes
    ----------
    z : the context vectors of all heads, [row, token, head * head_dim], before the output projection
    projection : the output projection, a linear module below the layer
    probabilities : [row, head, query, key]
    image_keys : which keys are the image's patches: those after the vision tower's class token, or the prompt's image tokens
    image_projections : of cross-attention, the linear modules that make keys and values of the image: the same in every patched run
    """

    z: Port
    projection: str
    probabilities: Port
    image_keys: Literal["after_class_token", "image_tokens"]
    image_projections: tuple[Port, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """Sites of an architecture, in the order in which a layer computes them.

    Attributes
    ----------
    model_types : the `model_type` of the Hugging Face configs that it describes
    layers : path of the layers whose components are patched
    attention : its attention components
    mlp : output of the MLP's own last linear map, before the residual sum
    block : the residual stream after a layer
    head_component, main_token : where NOTICE patches heads: the component, and the role of the token
    causal : whether a token reads only those before it, and the answer is read at the prompt's last token
    text_config : the part of the config with the sizes of those layers
    """

    name: str
    model_types: tuple[str, ...]
    layers: str
    attention: dict[str, Attention]
    mlp: Port
    block: Port
    head_component: str
    main_token: str
    causal: bool
    text_config: str = "text_config"

    @property
    def components(self) -> tuple[str, ...]:
        return (*self.attention, "mlp", "block")

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


BLIP = Architecture(
    name="blip",
    model_types=("blip",),
    layers="text_encoder.encoder.layer",
    attention={
        "self_attention": Attention(
            Port("attention.self", element=0), "attention.output.dense", Port("attention.self", element=1), "image_tokens"
        ),
        "cross_attention": Attention(
            Port("crossattention.self", element=0),
            "crossattention.output.dense",
            Port("crossattention.self", element=1),
            "after_class_token",
            (Port("crossattention.self.key"), Port("crossattention.self.value")),
        ),
    },
    mlp=Port("output.dense"),
    block=Port(""),
    head_component="cross_attention",
    main_token="correct",
    causal=False,
)

LLAVA = Architecture(
    name="llava",
    model_types=("llava",),
    layers="model.language_model.layers",
    attention={
        "self_attention": Attention(
            Port("self_attn.o_proj", side="input"), "self_attn.o_proj", Port("self_attn", element=1), "image_tokens"
        ),
    },
    mlp=Port("mlp"),
    block=Port(""),
    head_component="self_attention",
    main_token="last",
    causal=True,
)

ARCHITECTURES = (BLIP, LLAVA)


def of_model_type(model_type: str) -> Architecture:
    """The description for a config's `model_type`; ValueError names those that exist."""
    for architecture in ARCHITECTURES:
        if model_type in architecture.model_types:
            return architecture
    known = ", ".join(name for architecture in ARCHITECTURES for name in architecture.model_types)
    raise ValueError(f"no description of model type {model_type!r} in interventions/models/architecture.py; there are: {known}")
