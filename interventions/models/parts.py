"""Other parts of a model as targets, beside the layers that read the prompt: BLIP's answer decoder and vision tower, a Q-Former.

A part's positions are not the prompt's tokens. Its runs are batched, one row each: what comes before the part is put in as it was, and what
comes after it is run whole.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.models.blip.modeling_blip import BaseModelOutputWithPooling

from corruptions.base import Prompt
from interventions.models.architecture import Architecture, named_class
from interventions.models.packing import Packing
from interventions.models.vlm import ANSWER_TOKENS, Inputs, Known, Pixels, Vlm


class Part(Vlm):
    """A part of a model, with the model's own prompts and answers.

    Its prompts have one "token" for each of the part's positions, all with the same id, which stands for the whole model's prompt.
    """

    kind = ""

    def __init__(self, whole: Vlm, architecture: Architecture) -> None:
        name = f"{whole.name}-{architecture.name}"
        super().__init__(whole.model, whole.processor, architecture, name, whole.revision, whole.longest_prompt)
        self.whole, self.server = whole, whole.server
        self._questions: dict[int, str] = {}  # by their ids
        self._asked: dict[int, tuple[int, ...]] = {}  # the whole model's tokens of each
        self._inputs: Inputs = {}  # of the pass that is traced, and where its prompts end, if not all at their last token
        self._ends: torch.Tensor | None = None

    @abstractmethod
    def count(self) -> int:
        """How many positions the part has."""

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_questions": {}, "_inputs": {}, "_ends": None}

    def for_job(self, rows: Collection[tuple[int, ...]]) -> Vlm:
        there = copy(self)
        there._asked = {number: self._asked[number] for number in {row[0] for row in rows} & self._asked.keys()}
        there.whole = self.whole.for_job(set(there._asked.values()))
        return there

    def _tokenized(self, question: str) -> Prompt:
        prompt = self.whole.prompt(question)
        count, number = self.count(), _number(prompt.ids)
        self._questions[number], self._asked[number] = question, prompt.ids
        words = tuple(f"{self.kind} {i}" for i in range(count))
        return Prompt(prompt.text, (number,) * count, (None,) * count, words, (self.kind,) * count)

    @property
    def tokenize(self) -> Callable[[str], Prompt]:
        return self.whole.prompt

    def answer_ids(self, question: str, answer: str) -> tuple[int, ...]:
        return self.whole.answer_ids(question, answer)

    def reference_answer_ids(self, generated: str, correct: str, incorrect: str) -> tuple[int, int]:
        return self.whole.reference_answer_ids(generated, correct, incorrect)

    def generate(self, questions: Sequence[str], images: Sequence[Image.Image], tokens: int = ANSWER_TOKENS) -> list[str]:
        return self.whole.generate(questions, images, tokens)

    def generation_inputs(self, ids: torch.Tensor, pixels: Pixels) -> Inputs:
        return self.whole.generation_inputs(ids, pixels)

    def template(self, question: str) -> tuple[str, int]:
        return self.whole.template(question)

    def pixels(self, images: Sequence[Image.Image]) -> Pixels:
        return self.whole.pixels(images)

    def embedding_width(self, modality: str) -> int:
        return self.whole.embedding_width(modality)

    def embedded_positions(self, modality: str, prompt: Prompt) -> np.ndarray:
        return self.whole.embedded_positions(modality, self.whole.prompt(self._questions[prompt.ids[0]]))

    def read_embeddings(self, modality: str) -> Any:
        return self.whole.read_embeddings(modality)

    def write_embeddings(self, modality: str, states: torch.Tensor) -> None:
        self.whole.write_embeddings(modality, states)

    def packs_from(self, ids: torch.Tensor) -> tuple[int, str]:
        return len(ids), ""

    def inputs(
        self,
        ids: torch.Tensor,
        pixels: Pixels,
        real: torch.Tensor | None = None,
        cache: bool = False,
        forced: Sequence[Sequence[int]] = (),
    ) -> Inputs:
        given = forced or [()] * len(ids)
        asked = [self.whole.ids_after(self._asked[row[0]], tokens) for row, tokens in zip(ids.tolist(), given, strict=True)]
        lengths = [len(prompt) for prompt in asked]
        rows = [[*prompt, *[0] * (max(lengths) - len(prompt))] for prompt in asked]
        own = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        self._ends = None if own.all() else torch.tensor(lengths, device=self.device) - 1
        self._inputs = self.whole.inputs(torch.tensor(rows, device=self.device), pixels, own.to(self.device), False, forced)
        return self._inputs

    def logits(self, last: torch.Tensor | None = None) -> Any:
        return self.whole.logits(self._ends)

    def packed(self, packing: Packing, known: Known) -> Inputs:
        side = self.module.config.vision_config.image_size
        nothing = {"pixel_values": torch.zeros(len(known.ids), 1, 3, side, side, device=self.device, dtype=self.dtype)}
        return self.inputs(known.ids, nothing, forced=known.forced)

    def packed_logits(self, packing: Packing) -> Any:
        return self.logits()


def _number(ids: Sequence[int]) -> int:
    """One number for some tokens: the same wherever and whenever they are read, so that jobs of the same name are of the same prompts."""
    return int.from_bytes(hashlib.sha256(repr(tuple(ids)).encode()).digest()[:7])


class AnswerDecoder(Part):
    """BLIP's answer decoder, at its start token."""

    kind = "start"
    embedded_first = ("image", "text")
    batches_pairs = False  # what fills up shorter questions would have to be masked before the decoder's layers

    def count(self) -> int:
        return 1

    def logits(self, last: torch.Tensor | None = None) -> Any:
        return self.whole.at_the_end(self._inputs["decoder_input_ids"])  # type: ignore[attr-defined]

    def image_states(self) -> Any:
        return self.model.text_encoder.output[0]

    def enter_packed(self, packing: Packing, known: Known) -> None:
        vision = self.module.config.vision_config
        nothing = known.image.new_zeros(len(known.image), 1, vision.hidden_size)  # the question encoder that would read it is skipped too
        self.model.vision_model.skip(BaseModelOutputWithPooling(last_hidden_state=nothing))
        self.model.text_encoder.skip((known.image,))


class VisionTower(Part):
    """BLIP's vision tower, at its class token (patch 0) and its patches."""

    kind = "patch"
    reads = ("image",)
    late_embeddings = ("image",)

    def count(self) -> int:
        return self.whole.image_states_per_image

    def enter_packed(self, packing: Packing, known: Known) -> None:
        self.model.vision_model.embeddings.skip(known.embedded)


class QFormer(Part):
    """The heads of BLIP-2's or InstructBLIP's Q-Former that read the image, at its query tokens."""

    kind = "query"
    late_embeddings = ("text",)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("image", "text") if getattr(self.whole, "reads_questions", False) else ("image",)

    def count(self) -> int:
        return self.module.query_tokens.shape[1]

    def image_states(self) -> Any:
        return self.model.vision_model.output.last_hidden_state

    def enter_packed(self, packing: Packing, known: Known) -> None:
        self.model.vision_model.skip(BaseModelOutputWithPooling(last_hidden_state=known.image))

    def read_embeddings(self, modality: str) -> Any:
        return self.image_states()

    def write_embeddings(self, modality: str, states: torch.Tensor) -> None:
        self.model.vision_model.output = BaseModelOutputWithPooling(last_hidden_state=states)

    def embedding_width(self, modality: str) -> int:
        return self.module.config.vision_config.hidden_size

    def embedded_positions(self, modality: str, prompt: Prompt) -> np.ndarray:
        return np.ones(self.image_states_per_image, bool)


def part_of(whole: Vlm, name: str) -> Part:
    """A part of a model by name; ValueError names those that it has."""
    described = whole.architecture.parts
    if name not in described:
        parts = ", ".join(described) or "none"
        raise ValueError(f"{whole.name} has no part {name!r} that is described in interventions/models/architecture.py; there are: {parts}")
    return named_class(described[name].wrapper)(whole, described[name])
