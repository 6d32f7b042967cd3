"""Causal decoders whose prompt holds the image as tokens: LLaVA and its kin."""

from collections.abc import Collection, Sequence
from copy import copy
from functools import cached_property
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from corruptions.base import Prompt
from interventions.models.packing import Packing, additive
from interventions.models.vlm import Inputs, Known, Pixels, Vlm

MARKS = ("token_type_ids", "mm_token_type_ids")  # inputs that mark image tokens, where a processor makes them


class Decoder(Vlm):
    """The answer is the first token after the prompt."""

    def __getstate__(self) -> dict[str, Any]:
        made = {name: values for name, values in self._made.items() if not values.is_floating_point()}
        return super().__getstate__() | {"_made": made}

    def answer_ids(self, question: str, answer: str) -> tuple[int, ...]:
        tokenizer, prompt = self.processor.tokenizer, self.prompt(question).text
        blank = "" if prompt[-1].isspace() else " "
        before, whole = (tokenizer(text, **self.adding_special_tokens(text))["input_ids"] for text in (prompt, f"{prompt}{blank}{answer}"))
        if whole[: len(before)] != before:
            raise ValueError(f"the answer {answer!r} changes the tokens of the prompt it follows")
        return tuple(whole[len(before) :])

    def read_after(self, prompt: Prompt, forced: Sequence[int]) -> Prompt:
        if not forced:
            return prompt
        added = tuple(forced)
        words = tuple(self.processor.tokenizer.convert_ids_to_tokens(added))
        return Prompt(
            prompt.text + self.processor.tokenizer.decode(added),
            self.ids_after(prompt.ids, added),
            prompt.spans + (None,) * len(added),
            prompt.words + words,
            prompt.kinds + ("answer",) * len(added),
        )

    def ids_after(self, ids: tuple[int, ...], forced: Sequence[int]) -> tuple[int, ...]:
        return (*ids, *forced)

    def reference_answer_ids(self, generated: str, correct: str, incorrect: str) -> tuple[int, int]:
        """The last sub-token of the text that the model generated, and of the incorrect answer as it stands in the question."""
        return tuple(self.processor.tokenizer(text)["input_ids"][-1] for text in (generated, incorrect))  # type: ignore[return-value]

    def inputs(
        self,
        ids: torch.Tensor,
        pixels: Pixels,
        real: torch.Tensor | None = None,
        cache: bool = False,
        forced: Sequence[Sequence[int]] = (),
    ) -> Inputs:
        return {**self._prompts(ids, pixels, real), "use_cache": cache, "logits_to_keep": 1}

    def generation_inputs(self, ids: torch.Tensor, pixels: Pixels) -> Inputs:
        return self._prompts(ids, pixels, None)

    def _prompts(self, ids: torch.Tensor, pixels: Pixels, real: torch.Tensor | None) -> Inputs:
        mask = torch.ones_like(ids) if real is None else real.long()
        marks = {name: self._is_image(ids).long() * marked for name, marked in self._marks.items()}
        if "cross_attention_mask" in self._made:
            marks["cross_attention_mask"] = self._cross_attention_mask(ids)
        return {"input_ids": ids, "attention_mask": mask, **marks, **{name: parts.flatten(0, 1) for name, parts in pixels.items()}}

    def _cross_attention_mask(self, ids: torch.Tensor) -> torch.Tensor:
        """[row, token, image, tile]: from the image's token on, every token reads the tiles that the image has."""
        tiles = self._made["cross_attention_mask"][0, -1].to(self.device)
        return (self._is_image(ids).cumsum(1) > 0)[:, :, None, None] * tiles

    def _is_image(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.eq(ids, -1 if self.image_token_id is None else self.image_token_id)

    @cached_property
    def _marks(self) -> dict[str, bool]:
        """For each of `MARKS` that the processor makes: whether it marks image tokens, or nothing."""
        return {name: bool(self._made[name].any()) for name in MARKS if name in self._made}

    @cached_property
    def _made(self) -> Inputs:
        """What the processor makes of a prompt and an image."""
        return self.processed(self.template("?")[0], self.square(self.blank))

    def packs_from(self, ids: torch.Tensor) -> tuple[int, str]:
        config = self.module.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or [])
        window = getattr(config, "sliding_window", None) or 0
        if 0 < window < len(ids) and (not kinds or "sliding_attention" in kinds):
            return len(ids), f"its attention slides over a window of {window} tokens, and the prompts have {len(ids)}"
        if other := kinds - {"full_attention", "sliding_attention"}:
            return len(ids), f"it has layers of {', '.join(sorted(other))}"
        if self.architecture.causal_from == "nowhere":
            return len(ids), "its prompt cannot be taken up midway"
        if self.architecture.causal_from == "image":
            image = self._is_image(ids).nonzero()
            return (int(image[-1]) + 1 if len(image) else 0), "the tokens of its image read each other, or get more of the image on the way"
        return 0, ""

    def text_inputs(self) -> Inputs:
        known = {"input_ids", "inputs_embeds", "past_key_values", "use_cache"}
        return {name: value for name, value in self.text_model.inputs[1].items() if name not in known}

    def read_embeddings(self, modality: str) -> Any:
        return self.text_model.inputs[1]["inputs_embeds"]

    def write_embeddings(self, modality: str, states: torch.Tensor) -> None:
        arguments, options = self.text_model.inputs
        self.text_model.inputs = (arguments, options | {"inputs_embeds": states})

    def embedded_positions(self, modality: str, prompt: Prompt) -> np.ndarray:
        return np.array([kind == {"image": "image", "text": "question"}[modality] for kind in prompt.kinds])

    def embedded(self) -> Any:
        states = self.text_model.inputs[1].get("inputs_embeds")
        return super().embedded() if states is None else states

    def cache(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(layer.keys, layer.values) for layer in self.text_model.output.past_key_values.layers]

    def packed(self, packing: Packing, known: Known) -> Inputs:
        if packing.apart:
            whole = torch.ones_like(known.ids)  # `enter_packed` puts in the masks that the corrupt run had
            positions = known.text_inputs.get("position_ids")  # a model may remember those of other runs (Qwen's rope_deltas)
            given = {} if positions is None else {"position_ids": positions}
            return {"inputs_embeds": known.embedded, "attention_mask": whole, **given, "use_cache": False, "logits_to_keep": 1}
        return {
            "inputs_embeds": known.embedded,
            "attention_mask": additive(packing.causal(known.cache[0][0].shape[2]), self.dtype),
            "position_ids": self._positions(packing, known.text_inputs.get("position_ids")),
            "past_key_values": DynamicCache(known.cache),  # made anew: a pass appends to it
            "use_cache": True,
            "logits_to_keep": 1,
        }

    @staticmethod
    def _positions(packing: Packing, known: torch.Tensor | None) -> torch.Tensor:
        """Positions as the corrupt run has them: [row, packed], or [axis, row, packed] where time, height and width are apart."""
        if known is None:
            return packing.position
        known = known.expand(*known.shape[:-2], len(packing.position), -1)
        return known.gather(-1, packing.position.expand(*known.shape[:-2], -1, -1))

    def enter_packed(self, packing: Packing, known: Known) -> None:
        if packing.apart:
            again = {"inputs_embeds": known.embedded, "past_key_values": None, "use_cache": False}
            self.text_model.inputs = ((), known.text_inputs | again)

    def packed_logits(self, packing: Packing) -> Any:
        return self._read(packing.last)

    def logits(self, last: torch.Tensor | None = None) -> Any:
        if last is None:
            return self.model.output.logits[:, -1]
        tokens = self.text_model.output.last_hidden_state.shape[1]
        return self._read(torch.arange(len(last), device=last.device) * tokens + last)

    def _read(self, places: torch.Tensor) -> Any:
        """Logits at some tokens, counted with all rows laid end to end."""
        states = self.text_model.output.last_hidden_state.flatten(0, 1)[places]
        attrgetter(self.architecture.answer_head)(self.model).input = states[:, None]
        return self.model.output.logits[:, 0]


class CrossAttentionDecoder(Decoder):
    """Llama 3.2 Vision: some of its layers read the image's tiles by cross-attention, and one token of the prompt stands for the image."""

    def read_embeddings(self, modality: str) -> Any:
        given = self.text_model.inputs[1]
        if modality == "image":
            return given["cross_attention_states"].unflatten(0, (len(given["input_ids"]), -1)).flatten(1, 2)
        return self.module.get_input_embeddings()(given["input_ids"])

    def write_embeddings(self, modality: str, states: torch.Tensor) -> None:
        arguments, given = self.text_model.inputs
        if modality == "image":
            changed: Inputs = {"cross_attention_states": states.view_as(given["cross_attention_states"])}
        else:
            changed = {"input_ids": None, "inputs_embeds": states}
        self.text_model.inputs = (arguments, given | changed)

    def embedded_positions(self, modality: str, prompt: Prompt) -> np.ndarray:
        if modality == "text":
            return super().embedded_positions(modality, prompt)
        tiles = self._made["cross_attention_mask"][0, -1].flatten().bool().numpy()  # those that an image of this size fills
        return tiles.repeat(self.module.model.vision_model.num_patches)


class QFormerDecoder(Decoder):
    """BLIP-2 and InstructBLIP: a Q-Former reads the image (InstructBLIP's with the question) into tokens at the start of the prompt."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._asked: dict[tuple[int, ...], tuple[int, ...]] = {}  # what InstructBLIP's Q-Former reads with a prompt, by the prompt's tokens

    def _tokenized(self, question: str) -> Prompt:
        prompt = super()._tokenized(question)
        if self.reads_questions:
            self._asked[prompt.ids] = tuple(self.processor.qformer_tokenizer(prompt.text)["input_ids"])
        return prompt

    def ids_after(self, ids: tuple[int, ...], forced: Sequence[int]) -> tuple[int, ...]:
        after = super().ids_after(ids, forced)
        if self.reads_questions:
            self._asked[after] = self._asked[ids]
        return after

    def for_job(self, rows: Collection[tuple[int, ...]]) -> Vlm:
        there = copy(self)
        there._asked = {ids: asked for ids, asked in self._asked.items() if ids in rows}
        return there

    @property
    def reads_questions(self) -> bool:
        """Whether the Q-Former reads the question too."""
        return "qformer_input_ids" in self._made

    def _prompts(self, ids: torch.Tensor, pixels: Pixels, real: torch.Tensor | None) -> Inputs:
        inputs = super()._prompts(ids, pixels, real)
        if not self.reads_questions:
            return inputs
        kept = torch.ones_like(ids, dtype=torch.bool) if real is None else real
        asked = [torch.tensor(self._asked[tuple(row[mask].tolist())]) for row, mask in zip(ids.cpu(), kept.cpu(), strict=True)]
        own = pad_sequence([torch.ones_like(tokens) for tokens in asked], batch_first=True).to(self.device)
        return inputs | {"qformer_input_ids": pad_sequence(asked, batch_first=True).to(self.device), "qformer_attention_mask": own}

    def generated_from(self, length: int) -> int:
        return 0

    def packed(self, packing: Packing, known: Known) -> Inputs:
        nothing = SimpleNamespace(pooler_output=known.embedded.new_zeros(0), qformer_outputs=None, vision_outputs=None)
        unused = {"pixel_values": None, "input_ids": None} | ({"qformer_input_ids": None} if self.reads_questions else {})
        return super().packed(packing, known) | unused | {"mm_encoder_outputs": {"image": nothing}}  # the image's tokens are in `embedded`
