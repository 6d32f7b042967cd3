"""BLIP for visual question answering: the question encoder reads the image by cross-attention, a decoder answers from it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.models.blip.modeling_blip import BaseModelOutputWithPooling

from corruptions.base import Prompt
from interventions.models.packing import Packing, additive
from interventions.models.vlm import Inputs, Known, Pixels, Vlm


class Blip(Vlm):
    """The answer is the decoder's first token."""

    def answer_ids(self, question: str, answer: str) -> tuple[int, ...]:
        return tuple(self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"])

    def reference_answer_ids(self, generated: str, correct: str, incorrect: str) -> tuple[int, int]:
        """As ours: the first word piece of each."""
        return self.answer_ids("", correct)[0], self.answer_ids("", incorrect)[0]

    def inputs(
        self,
        ids: torch.Tensor,
        pixels: Pixels,
        real: torch.Tensor | None = None,
        cache: bool = False,
        forced: Sequence[Sequence[int]] = (),
    ) -> Inputs:
        mask = {} if real is None or bool(real.all()) else {"attention_mask": real.long()}
        return {
            "input_ids": ids,
            "pixel_values": pixels["pixel_values"].flatten(0, 1),
            **mask,
            "decoder_input_ids": self._starts(len(ids), forced),
        }

    def _starts(self, rows: int, forced: Sequence[Sequence[int]]) -> torch.Tensor:
        """What the decoder is given: its start token and the forced ones, filled up at the end."""
        given = [[self.module.decoder_start_token_id, *tokens] for tokens in forced or [()] * rows]
        longest, fill = max(map(len, given)), self.pad_token_id
        return torch.tensor([tokens + [fill] * (longest - len(tokens)) for tokens in given], device=self.device)

    def generation_inputs(self, ids: torch.Tensor, pixels: Pixels) -> Inputs:
        return {"input_ids": ids, "pixel_values": pixels["pixel_values"].flatten(0, 1)}

    def generated_from(self, length: int) -> int:
        return 1

    def image_states(self) -> Any:
        return self.model.vision_model.output.last_hidden_state

    def packed(self, packing: Packing, known: Known) -> Inputs:
        nothing = known.embedded.new_zeros(len(known.ids), 3, 1, 1)  # the vision tower is skipped; `forward` only wants the argument
        mask = additive(packing.within_runs(), self.dtype)
        starts = self._starts(len(packing.last), known.forced)
        return {"input_ids": known.ids, "attention_mask": mask, "pixel_values": nothing, "decoder_input_ids": starts}

    def enter_packed(self, packing: Packing, known: Known) -> None:
        self.model.vision_model.skip(BaseModelOutputWithPooling(last_hidden_state=known.image))
        self.model.text_encoder.embeddings.skip(known.embedded)

    def packed_logits(self, packing: Packing) -> Any:
        arguments, options = self.model.text_decoder.inputs
        states = options["encoder_hidden_states"].flatten(0, 1)[packing.tokens]  # each run is one row of the decoder
        self.model.text_decoder.inputs = (arguments, options | {"encoder_hidden_states": states, "encoder_attention_mask": None})
        return self._decoded(packing.real)

    def logits(self, last: torch.Tensor | None = None) -> Any:
        if last is None:
            return self.at_the_end(self.model.text_decoder.inputs[1]["input_ids"])
        states = self.model.text_decoder.inputs[1]["encoder_hidden_states"]
        return self._decoded(torch.arange(states.shape[1], device=last.device) <= last[:, None])

    def _decoded(self, real: torch.Tensor) -> Any:
        """The decoder's logits. It must not read what fills up shorter questions: transformers loses that mask on its way into the
        decoder's cross-attention, so it is put in there."""
        given = self.model.text_decoder.inputs[1]["input_ids"]
        if not real.all():
            mask = additive(real[:, None], self.dtype)
            for layer in self.model.text_decoder.bert.encoder.layer:
                arguments, options = layer.crossattention.self.inputs
                layer.crossattention.self.inputs = (arguments, options | {"encoder_attention_mask": mask})
        return self.at_the_end(given)

    def at_the_end(self, given: torch.Tensor) -> Any:
        """Logits at the last token that the decoder is given in each row."""
        ends = (given != self.pad_token_id).sum(1) - 1
        return self.model.text_decoder.output.logits[torch.arange(len(given), device=given.device), ends]

    def read_embeddings(self, modality: str) -> Any:
        if modality == "image":
            return self.model.vision_model.output.last_hidden_state
        return self.model.text_encoder.embeddings.output

    def write_embeddings(self, modality: str, states: torch.Tensor) -> None:
        if modality == "image":
            self.model.vision_model.output = BaseModelOutputWithPooling(last_hidden_state=states)
        else:
            self.model.text_encoder.embeddings.output = states

    def embedding_width(self, modality: str) -> int:
        return self.module.config.vision_config.hidden_size if modality == "image" else self.width

    def embedded_positions(self, modality: str, prompt: Prompt) -> np.ndarray:
        if modality == "image":
            return np.ones(self.image_states_per_image, bool)
        return np.array([kind == "question" for kind in prompt.kinds])
