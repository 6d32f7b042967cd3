"""A wrapped model: sites to read and write inside nnsight traces, prompts and inputs to feed it, and the logits of its answer.

`Vlm` holds what all models share; `blip.py` and `decoder.py` say how theirs differ.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from nnsight import save
from nnsight.modeling.huggingface import HuggingFaceModel
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from transformers import GenerationConfig

from corruptions.base import Prompt
from interventions.models.architecture import ONE_WORD, Architecture, Port
from interventions.models.packing import Packing
from interventions.models.prompts import shared_start, tokenized
from interventions.models.sites import SITES

ANSWER_TOKENS = 8  # that are generated where answers are short
Inputs = dict[str, Any]
Pixels = dict[str, Tensor]  # what the processor makes of images, each of [image, part, ...]; parts are laid end to end for the model
TEXT_INPUTS = {  # what the processor makes of text
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "mm_token_type_ids",
    "cross_attention_mask",
    "qformer_input_ids",
    "qformer_attention_mask",
    "labels",
}


@dataclass(frozen=True)
class Known:
    """What is known of the corrupt run of each row of some patched runs.

    Attributes
    ----------
    ids, embedded : at each packed token, its token and its embedding
    image : what `image_states` gave
    text_inputs : what `text_inputs` gave
    cache : keys and values of each layer, before the last run starts
    forced : of each run, the tokens of the answer that are given
    """

    ids: Int[Tensor, "row packed"]
    embedded: Float[Tensor, "row packed width"]
    image: Any
    text_inputs: Inputs
    cache: Sequence[tuple[Tensor, Tensor]]
    forced: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Scored:
    """The tokens that the two answers are scored by.

    Attributes
    ----------
    forced : tokens that both answers begin with; the model is given them, and what it says next is scored
    """

    correct: int
    incorrect: int
    forced: tuple[int, ...] = ()


class Server(Protocol):
    """A host that has a model's weights.

    Attributes
    ----------
    dtype, device_type, number_format : of the model there
    weights : a hash of the weights there, "" where they were loaded here
    versions : there, of `python` and of libraries, where they may be others than here
    """

    dtype: torch.dtype
    device_type: str
    number_format: str
    weights: str
    versions: dict[str, str]

    def meet(self, vlm: "Vlm") -> None:
        """Become the server of a model, and learn what it is like there."""
        ...

    def run(self, vlm: "Vlm", function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function(vlm, *arguments)` gives there."""
        ...


class Vlm(ABC):
    """A vision-language model behind an nnsight wrapper that can run remotely.

    Parameters
    ----------
    model : the nnsight wrapper (a `Remotable`; plain `NNsight` would run a remote trace locally without a word)
    processor : its Hugging Face processor
    architecture : where its sites are
    name, revision : what results are filed under

    Attributes
    ----------
    server : what runs functions where the weights are, if that is not here (see `interventions.backends.remote`)
    """

    reads: tuple[str, ...] = ("image", "text")  # the modalities that states of the layers depend on
    late_embeddings: tuple[str, ...] = ()  # those whose embeddings come after the layers, none of whose states they change
    embedded_first: tuple[str, ...] = ("image",)  # those whose embeddings come before `image_states`
    server: "Server | None" = None

    def __init__(
        self,
        model: HuggingFaceModel,
        processor: Any,
        architecture: Architecture,
        name: str,
        revision: str,
        longest_prompt: int | None = None,
    ) -> None:
        self.model, self.processor, self.architecture = model, processor, architecture
        self.name, self.revision = name, revision
        self._made_prompts: dict[str, Prompt] = {}
        sizes = getattr(self.module.config, architecture.text_config)
        self.n_layers, self.n_heads = int(sizes.num_hidden_layers), int(sizes.num_attention_heads)
        self.width = int(sizes.hidden_size)
        self.longest_prompt = int(longest_prompt or sizes.max_position_embeddings)
        self.head_dim = int(getattr(sizes, "head_dim", None) or self.width // self.n_heads)
        self.group_counts = {
            "heads": self.n_heads,
            "key_value_heads": int(getattr(sizes, "num_key_value_heads", None) or self.n_heads),
            "neurons": int(getattr(sizes, "intermediate_size", None) or 0),
            "one": 1,
        }

    # ------------------------------------------------------------------ the module

    @property
    def module(self) -> Any:
        """The Hugging Face module itself."""
        return self.model._module

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function(vlm, *arguments)` gives where the weights are: here, or on a server, as one session and one job.

        Parameters
        ----------
        function : of a module of the project. It gets tensors of this device and dtype, and gives arrays and plain values; on a server it
            can tokenize nothing, for the processor stays here
        """
        return function(self, *arguments) if self.server is None else self.server.run(self, function, *arguments)

    def __getstate__(self) -> dict[str, Any]:
        """What a session on a server needs."""
        left_here = ("processor", "server", "_made_prompts")
        return {name: value for name, value in (self.__dict__ | {"pad_token_id": self.pad_token_id}).items() if name not in left_here}

    def for_job(self, rows: Collection[tuple[int, ...]]) -> "Vlm":
        """What a server needs of it to run these rows of token ids."""
        return self

    @cached_property
    def pad_token_id(self) -> int:
        return self.processor.tokenizer.pad_token_id

    @property
    def device(self) -> torch.device:
        """Where tensors that the model is given are made; where its weights are elsewhere, they move there."""
        own = next(self.module.parameters()).device
        return torch.device("cpu") if self.server or own.type == "meta" else own

    @property
    def device_type(self) -> str:
        """The kind of device that states are computed on."""
        return self.server.device_type if self.server else self.device.type

    def to(self, device: torch.device) -> "Vlm":
        """Move the weights."""
        self.module.to(device)
        return self

    @property
    def weights_there(self) -> dict[str, str]:
        """A hash of weights that a server has, by the name under which results tell them apart; nothing where they were loaded here."""
        return {"weights_there": self.server.weights} if self.server and self.server.weights else {}

    @property
    def dtype(self) -> torch.dtype:
        """The number format that states are computed in."""
        if self.server:
            return self.server.dtype
        return next(weights.dtype for weights in self.module.parameters() if weights.is_floating_point())

    @property
    def number_format(self) -> str:
        """The number format of the weights, by the name that `load` takes."""
        if self.server:
            return self.server.number_format
        if getattr(self.module, "is_quantized", False):
            return self.module.config.quantization_config.bnb_4bit_quant_type
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def image_states_per_image(self) -> int:
        """How many states the vision tower makes of an image, its class token among them."""
        vision = self.module.config.vision_config
        side, patch = getattr(vision, "image_size", None) or self.architecture.square or 448, vision.patch_size
        side, patch = (size[0] if isinstance(size, list | tuple) else size for size in (side, patch))
        return (side // patch) ** 2 + 1

    @cached_property
    def text_model(self) -> Any:
        """The envoy of the module that runs the layers."""
        return attrgetter(self.architecture.text_model)(self.model)

    @cached_property
    def layers(self) -> list[Any]:
        """The envoys of the layers."""
        envoys = attrgetter(self.architecture.layers)(self.text_model)
        return [envoys[i] for i in range(self.n_layers)]

    def port(self, component: str) -> Port:
        return self.architecture.port(component)

    def image_projections(self, component: str) -> tuple[Port, ...]:
        """The modules that make a cross-attention's keys and values of the image; none for other components."""
        attention = self.architecture.attention.get(component)
        return attention.image_projections if attention else ()

    def done_before(self, component: str, number: int) -> list[Port]:
        """The modules of a layer that have run before a component and are worth skipping."""
        return [port for port in self.architecture.done_before.get(component, ()) if port.exists(self.layers[number])]

    def components_of(self, number: int) -> list[str]:
        """The components that a layer has, in order."""
        return [name for name in self.architecture.components if self.port(name).exists(self.layers[number])]

    def groups(self, component: str) -> int:
        """Into how many equal parts the last axis of a component's state is cut when it is patched: its heads, or 1."""
        return self.group_counts[SITES[component].groups]

    # ------------------------------------------------------------------ prompts and answers

    def prompt(self, question: str) -> Prompt:
        """What the model reads for a question."""
        if question not in self._made_prompts:
            self._made_prompts[question] = self._tokenized(question)
        return self._made_prompts[question]

    def _tokenized(self, question: str) -> Prompt:
        text, start = self.template(question)
        ids = self.processed(text, self.square(self.blank))["input_ids"][0].tolist()
        encoded = self.processor.tokenizer(text, return_offsets_mapping=True, **self.adding_special_tokens(text))
        return tokenized(text, (start, start + len(question)), ids, encoded, self.processor.tokenizer, self.image_token_id)

    @property
    def tokenize(self) -> Callable[[str], Prompt]:
        """A question's prompt, by which text corruptions are checked."""
        return self.prompt

    def template(self, question: str) -> tuple[str, int]:
        """The whole prompt, and where the question begins in it."""
        if self.architecture.template == "chat":
            content = [{"type": "image"}, {"type": "text", "text": ONE_WORD.format(question=question)}]
            text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        else:
            text = self.architecture.template.format(image=getattr(self.processor, "image_token", ""), question=question)
        return text, text.rindex(question)

    def adding_special_tokens(self, text: str) -> dict[str, bool]:
        """Arguments by which a tokenizer adds no special tokens to a text that begins with one: a chat template has put it there."""
        begin = self.processor.tokenizer.bos_token
        return {"add_special_tokens": False} if begin and text.startswith(begin) else {}

    @cached_property
    def image_token_id(self) -> int | None:
        """The token that stands for a part of the image; None where the prompt has none."""
        config = self.module.config
        return getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)

    @abstractmethod
    def answer_ids(self, question: str, answer: str) -> tuple[int, ...]:
        """The tokens of an answer, where the model would generate it."""

    def scored(self, question: str, correct: str, incorrect: str) -> "Scored":
        """By what tokens two answers are scored: the first where they differ.

        Raises
        ------
        ValueError
            When one is the beginning of the other.
        """
        first, second = (self.answer_ids(question, answer) for answer in (correct, incorrect))
        shared = shared_start(first, second)
        if shared == min(len(first), len(second)):
            raise ValueError(f"the tokens of one of the answers {correct!r} and {incorrect!r} are the beginning of the other's")
        return Scored(first[shared], second[shared], first[:shared])

    def read_after(self, prompt: Prompt, forced: Sequence[int]) -> Prompt:
        """A prompt that goes on with the tokens after which the answers are told apart, where they follow it in one text."""
        return prompt

    def ids_after(self, ids: tuple[int, ...], forced: Sequence[int]) -> tuple[int, ...]:
        """The tokens of such a prompt, by those of the prompt."""
        return ids

    @abstractmethod
    def reference_answer_ids(self, generated: str, correct: str, incorrect: str) -> tuple[int, int]:
        """The tokens by which NOTICE's code scores the two answers."""

    def spoken(self, answer: str, generated: str) -> str:
        """An answer in the letter case that the model speaks in: that of its `generated` answer, if it is capitalised."""
        first = generated.strip()[:1]
        return answer[:1].upper() + answer[1:] if first.isupper() and not answer[:1].isupper() else answer

    # ------------------------------------------------------------------ inputs

    def pixels(self, images: Sequence[Image.Image]) -> Pixels:
        """What the processor makes of each image."""
        text, _ = self.template("?")
        made = [self.processed(text, self.square(image.convert("RGB"))) for image in images]
        return {
            name: torch.stack([one[name] for one in made]).to(self.device, self.dtype if made[0][name].is_floating_point() else None)
            for name in made[0]
            if name not in TEXT_INPUTS
        }

    def processed(self, text: str, image: Image.Image) -> Any:
        return self.processor(images=[image], text=[text], return_tensors="pt", **self.adding_special_tokens(text))

    blank = Image.new("RGB", (64, 64))  # prompts have as many image tokens whatever the image shows

    def square(self, image: Image.Image) -> Image.Image:
        side = self.architecture.square
        return image.resize((side, side), Image.Resampling.BICUBIC) if side else image

    def ids(self, prompts: Sequence[Prompt]) -> Int[Tensor, "row token"]:
        """Token ids of prompts of equal length."""
        return torch.tensor([prompt.ids for prompt in prompts], device=self.device)

    @abstractmethod
    def inputs(
        self,
        ids: Int[Tensor, "row token"],
        pixels: Pixels,
        real: Bool[Tensor, "row token"] | None = None,
        cache: bool = False,
        forced: Sequence[Sequence[int]] = (),
    ) -> Inputs:
        """Arguments of one forward pass over rows with one image each, that ends at the answer position.

        Parameters
        ----------
        real : False where a prompt that is shorter than others is filled up, at its end; default: rows of equal length
        cache : a causal decoder keeps its keys and values (see the method of that name)
        forced : for each row, tokens of the answer that are given, where these are not in the prompt (see `read_after`)
        """

    def generate(self, questions: Sequence[str], images: Sequence[Image.Image], tokens: int = ANSWER_TOKENS) -> list[str]:
        """The model's own greedy answers, of at most so many tokens."""
        prompts = [self.prompt(question) for question in questions]
        lengths = [len(prompt.ids) for prompt in prompts]
        alike = [[i for i, own in enumerate(lengths) if own == length] for length in sorted(set(lengths))]
        asked = [(self.ids([prompts[i] for i in here]), self.pixels([images[i] for i in here])) for here in alike]
        answers = [""] * len(questions)
        for here, made in zip(alike, self.run(generated, asked, tokens), strict=True):
            start = self.generated_from(lengths[here[0]])
            texts = self.processor.tokenizer.batch_decode(made[:, start:], skip_special_tokens=True)
            for i, text in zip(here, texts, strict=True):
                answers[i] = text.strip()
        return answers

    @abstractmethod
    def generation_inputs(self, ids: Int[Tensor, "row token"], pixels: Pixels) -> Inputs:
        """Arguments of the module's `generate`."""

    def generated_from(self, length: int) -> int:
        """Where, in what `generate` returns for a prompt of `length` tokens, the answer begins."""
        return length

    @contextmanager
    def showing_attention(self) -> Iterator[None]:
        """Compute attention in the plain way, which gives its probabilities, for as long as the context lasts."""
        before = self.module.config._attn_implementation
        if self.module.config.get_text_config()._attn_implementation == before == "eager":
            yield
            return
        self.module.set_attn_implementation("eager")
        try:
            yield
        finally:
            with suppress(ValueError):  # a part that knows no other way stays as it is
                self.module.set_attn_implementation(before)

    # ------------------------------------------------------------------ inside a trace

    def image_states(self) -> Any:
        """Inside a trace: what later traces need so as not to encode the image again, [row, ...], if anything."""
        return None

    @abstractmethod
    def logits(self, last: Int[Tensor, " row"] | None = None) -> Any:
        """Inside a trace: logits at the answer position, [row, vocabulary].

        Parameters
        ----------
        last : each row's last position, where they differ
        """

    def embedded(self) -> Any:
        """Inside a trace, before the layers: the embedded prompts, [row, token, width]."""
        return self.layers[0].input

    @abstractmethod
    def read_embeddings(self, modality: str) -> Any:
        """Inside a trace, first: what noise is added to, [row, position, width]: states of the "image", or embeddings of the "text"."""

    @abstractmethod
    def write_embeddings(self, modality: str, states: Tensor) -> None:
        """Inside a trace, after `read_embeddings`: put others in their place."""

    def change_embeddings(self, modality: str, values: Float[Tensor, "row position width"], kept: Float[Tensor, "row position"]) -> None:
        """Inside a trace, first: add values to the embeddings, or put them in their place where `kept` is 0; what follows stays."""
        states = self.read_embeddings(modality)
        after = states.shape[1] - values.shape[1]  # tokens of the answer that are given
        self.write_embeddings(modality, states * pad(kept, (0, after), value=1)[..., None] + pad(values, (0, 0, 0, after)))

    def embedding_width(self, modality: str) -> int:
        """The width of these embeddings."""
        return self.width

    @abstractmethod
    def embedded_positions(self, modality: str, prompt: Prompt) -> Bool[np.ndarray, " position"]:
        """Which of these positions are the image's, or the question's."""

    def cache(self) -> list[tuple[Tensor, Tensor]]:
        """Inside a trace, after the layers and before the logits: keys and values of each layer of a causal decoder, else nothing."""
        return []

    batches_pairs = True  # several pairs, of prompts of other lengths, may share a trace

    def packs_from(self, ids: Int[Tensor, " token"]) -> tuple[int, str]:
        """The first position of a prompt where a patched run may start that is packed, and why those before it may not."""
        return 0, ""

    def text_inputs(self) -> Inputs:
        """Inside a trace, before the layers: what else of the runs later traces need, each of [row, ...], lists and dicts of such."""
        return {}

    @abstractmethod
    def packed(self, packing: Packing, known: Known) -> Inputs:
        """Arguments of a pass over patched runs whose images are already encoded."""

    @abstractmethod
    def enter_packed(self, packing: Packing, known: Known) -> None:
        """Inside a trace made with `packed`, first: put in what is known before the layers."""

    @abstractmethod
    def packed_logits(self, packing: Packing) -> Any:
        """Inside a trace made with `packed`, after the layers: logits at the answer position of each run, [run, vocabulary]."""


def generated(vlm: Vlm, asked: Sequence[tuple[Tensor, Pixels]], tokens: int) -> list[Int[Tensor, "row token"]]:
    """The tokens that the model generates greedily for prompts and images, a trace for prompts of each length: none is filled up, for what
    fills would be read (see `Blip`)."""
    answers: list[Tensor] = []
    with greedy(vlm.module):
        for ids, pixels in asked:
            inputs = vlm.generation_inputs(ids.to(vlm.device), moved(pixels, vlm))
            with torch.no_grad(), vlm.model.trace(fn="generate", **inputs, max_new_tokens=tokens, do_sample=False) as tracer:
                made = save(tracer.result)
            answers.append(made.cpu())
    return answers


@contextmanager
def greedy(module: Any) -> Iterator[None]:
    """Generate each time the likeliest token, for as long as the context lasts: of what a checkpoint says about generation (beams,
    penalties, suppressed tokens, ...) only its special tokens stay.

    Settings given to `generate` would not do: what they leave open transformers takes from the module.
    """
    before = {part: part.generation_config for part in module.modules() if getattr(part, "generation_config", None) is not None}
    for part, own in before.items():
        special = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        part.generation_config = GenerationConfig(**special)
    try:
        yield
    finally:
        for part, own in before.items():
            part.generation_config = own


def moved(pixels: Pixels, vlm: Vlm) -> Pixels:
    """To the device and in the dtype of a model."""
    return {name: values.to(vlm.device, vlm.dtype if values.is_floating_point() else None) for name, values in pixels.items()}


def measure(
    logits: Float[Tensor, "row vocabulary"], answers: Int[Tensor, "row option"], clean: Float[Tensor, "row vocabulary"] | None = None
) -> Float[Tensor, "row measurement"]:
    """The numbers that are stored of a run, in float32: the logit of each option, and logsumexp over the vocabulary.

    Parameters
    ----------
    clean : log-probabilities of the clean run; with them, a fourth number is the Kullback-Leibler divergence KL(clean || run), in nats
    """
    logits = logits.float()
    normalizer = logits.logsumexp(-1, keepdim=True)
    numbers = [logits.gather(1, answers), normalizer]
    if clean is not None:
        numbers.append((clean.exp() * (clean - logits + normalizer)).sum(-1, keepdim=True))
    return torch.cat(numbers, -1)
