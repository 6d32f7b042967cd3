"""A wrapped model: sites to read and write inside nnsight traces, prompts and inputs to feed it, and the logits of its answer.

`Vlm` holds what all models share; `blip.py` and `llava.py` say how theirs differ.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from nnsight.modeling.huggingface import HuggingFaceModel
from PIL import Image
from torch import Tensor

from corruptions.pair import Prompt, Span
from interventions.models.architecture import Architecture, Port
from interventions.packing import Packing

Inputs = dict[str, Any]


class Vlm:
    """A vision-language model behind an nnsight wrapper that can run remotely.

    Parameters
    ----------
    model : the nnsight wrapper (a `Remotable`; plain `NNsight` would run a remote trace locally without a word)
    processor : its Hugging Face processor
    architecture : where its sites are
    name, revision : what results are filed under
    """

    max_answer_tokens = 8

    def __init__(self, model: HuggingFaceModel, processor: Any, architecture: Architecture, name: str, revision: str) -> None:
        self.model, self.processor, self.architecture = model, processor, architecture
        self.name, self.revision = name, revision
        sizes = getattr(self.module.config, architecture.text_config)
        self.n_layers, self.n_heads = int(sizes.num_hidden_layers), int(sizes.num_attention_heads)
        self.width = int(sizes.hidden_size)
        self.longest_prompt = int(sizes.max_position_embeddings)
        self.head_dim = int(getattr(sizes, "head_dim", None) or self.width // self.n_heads)

    # ------------------------------------------------------------------ the module

    @property
    def module(self) -> Any:
        """The Hugging Face module itself."""
        return self.model._module

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @cached_property
    def layers(self) -> list[Any]:
        """The envoys of the layers."""
        envoy = self.model
        for name in self.architecture.layers.split("."):
            envoy = getattr(envoy, name)
        return [envoy[i] for i in range(self.n_layers)]

    def port(self, component: str) -> Port:
        return self.architecture.port(component)

    def image_projections(self, component: str) -> tuple[Port, ...]:
        """The modules that make a cross-attention's keys and values of the image; none for other components."""
        attention = self.architecture.attention.get(component)
        return attention.image_projections if attention else ()

    def groups(self, component: str) -> int:
        """Into how many equal parts the last axis of a component's state is cut when it is patched: its heads, or 1."""
        return self.n_heads if component in self.architecture.attention else 1

    # ------------------------------------------------------------------ prompts and answers

    def prompt(self, question: str) -> Prompt:
        """Tokenize a question as the model reads it, and say what each token is."""
        text, start = self.template(question)
        encoded = self.processor.tokenizer(text, return_offsets_mapping=True)
        image_id, per_image = self.image_token_id, self.tokens_per_image
        special = set(self.processor.tokenizer.all_special_ids) - {image_id}
        ids: list[int] = []
        spans: list[Span | None] = []
        words: list[str] = []
        kinds: list[str] = []
        for token, (left, right) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            left += len(text[left:right]) - len(text[left:right].lstrip())  # the blank before a word is not the word
            inside = start <= left and right <= start + len(question) and left < right
            word = text[left:right] or self.processor.tokenizer.convert_ids_to_tokens(token)
            repeats = per_image if token == image_id else 1
            kind = (
                "image"
                if token == image_id
                else "special"
                if token in special
                else "question"
                if inside
                else self.template_kind(text, left)
            )
            ids += [token] * repeats
            spans += [(left - start, right - start) if kind == "question" else None] * repeats
            words += [word] * repeats
            kinds += [kind] * repeats
        return Prompt(text, tuple(ids), tuple(spans), tuple(words), tuple(kinds))

    def template(self, question: str) -> tuple[str, int]:
        """The whole prompt, and where the question begins in it."""
        raise NotImplementedError

    def template_kind(self, text: str, at: int) -> str:
        """What a token of the template at character `at` is: "assistant" or "template"."""
        return "template"

    image_token_id: int | None = None
    tokens_per_image: int = 0

    def answer_id(self, question: str, answer: str) -> int:
        """The token by which an answer is scored: its first, where the model would generate it."""
        raise NotImplementedError

    def reference_answer_ids(self, generated: str, correct: str, incorrect: str) -> tuple[int, int]:
        """The tokens by which NOTICE's code scores the two answers."""
        raise NotImplementedError

    def spoken(self, answer: str, generated: str) -> str:
        """An answer in the letter case that the model speaks in: that of its `generated` answer, if it is capitalised."""
        first = generated.strip()[:1]
        return answer[:1].upper() + answer[1:] if first.isupper() and not answer[:1].isupper() else answer

    # ------------------------------------------------------------------ inputs

    def pixels(self, images: Sequence[Image.Image]) -> Float[Tensor, "image channel y x"]:
        """Pixel values as the model's image processor makes them."""
        made = self.processor.image_processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        return made["pixel_values"].to(self.device, self.dtype)

    def ids(self, prompts: Sequence[Prompt]) -> Int[Tensor, "row token"]:
        """Token ids of prompts of equal length."""
        return torch.tensor([prompt.ids for prompt in prompts], device=self.device)

    def inputs(self, ids: Int[Tensor, "row token"], pixels: Float[Tensor, "row channel y x"], cache: bool = False) -> Inputs:
        """Arguments of one forward pass over rows of equal length, one image each, that ends at the answer position.

        With `cache`, a causal decoder keeps its keys and values (see the method of that name).
        """
        raise NotImplementedError

    def generate(self, questions: Sequence[str], images: Sequence[Image.Image]) -> list[str]:
        """The model's own greedy answers."""
        raise NotImplementedError

    @contextmanager
    def showing_attention(self) -> Iterator[None]:
        """Compute attention in the plain way, which gives its probabilities, for as long as the context lasts."""
        before = self.module.config._attn_implementation
        self.module.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.module.set_attn_implementation(before)

    # ------------------------------------------------------------------ inside a trace

    def image_states(self) -> Any:
        """Inside a trace: what later traces need so as not to encode the image again."""
        raise NotImplementedError

    def logits(self) -> Any:
        """Inside a trace: logits at the answer position, [row, vocabulary]."""
        raise NotImplementedError

    def cache(self) -> list[tuple[Tensor, Tensor]]:
        """At the end of a trace: keys and values of each layer of a causal decoder, else nothing."""
        return []

    def packed(self, packing: Packing, ids: Int[Tensor, " token"], image: Any, cache: Sequence[tuple[Tensor, Tensor]]) -> Inputs:
        """Arguments of a pass over one row of packed runs, all of one prompt whose image is already encoded.

        Parameters
        ----------
        ids, image, cache : of the corrupt run, as captured: its tokens, its `image_states` and its `cache`
        """
        raise NotImplementedError

    def enter_packed(self, packing: Packing, image: Any, entering: Float[Tensor, "token width"]) -> None:
        """Inside a trace made with `packed`, first: put in what is known before the layers (`entering` them, in the corrupt run)."""

    def packed_logits(self, packing: Packing) -> Any:
        """Inside a trace made with `packed`, after the layers: logits at the answer position of each run, [run, vocabulary]."""
        raise NotImplementedError


def measure(logits: Float[Tensor, "row vocabulary"], correct: int, incorrect: int) -> Float[Tensor, "row measurement"]:
    """The three numbers that are stored of a run: logit of each option, and logsumexp over the vocabulary, in float32."""
    logits = logits.float()
    return torch.stack([logits[:, correct], logits[:, incorrect], logits.logsumexp(-1)], -1)
