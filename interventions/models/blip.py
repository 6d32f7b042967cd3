"""BLIP for visual question answering: the question encoder reads the image by cross-attention, a decoder answers from it."""

from collections.abc import Sequence
from typing import Any

import torch
from nnsight.modeling.huggingface import HuggingFaceModel
from PIL import Image
from transformers.models.blip.modeling_blip import BaseModelOutputWithPooling

from interventions.models.vlm import Inputs, Vlm
from interventions.packing import Packing, additive


class BlipModel(HuggingFaceModel):
    """nnsight wrapper of a BLIP checkpoint (transformers has no pipeline for it any more)."""

    AUTO_CLASS = "BlipForQuestionAnswering"


class Blip(Vlm):
    """The answer is the decoder's first token."""

    def template(self, question: str) -> tuple[str, int]:
        return question, 0

    def answer_id(self, question: str, answer: str) -> int:
        return self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"][0]

    def reference_answer_ids(self, generated: str, correct: str, incorrect: str) -> tuple[int, int]:
        """As ours: the first word piece of each."""
        return self.answer_id("", correct), self.answer_id("", incorrect)

    def inputs(self, ids: torch.Tensor, pixels: torch.Tensor, cache: bool = False) -> Inputs:
        start = torch.full((len(ids), 1), self.module.decoder_start_token_id, device=self.device)
        return {"input_ids": ids, "pixel_values": pixels, "decoder_input_ids": start}

    def generate(self, questions: Sequence[str], images: Sequence[Image.Image]) -> list[str]:
        text = self.processor.tokenizer(list(questions), padding=True, return_tensors="pt").to(self.device)
        out = self.module.generate(
            input_ids=text.input_ids, attention_mask=text.attention_mask, pixel_values=self.pixels(images),
            max_new_tokens=self.max_answer_tokens, do_sample=False,
        )  # fmt: skip
        return [answer.strip() for answer in self.processor.tokenizer.batch_decode(out[:, 1:], skip_special_tokens=True)]

    def image_states(self) -> Any:
        return self.model.vision_model.output.last_hidden_state

    def packed(self, packing: Packing, ids: torch.Tensor, image: Any, cache: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Inputs:
        start = torch.full((len(packing.last), 1), self.module.decoder_start_token_id, device=self.device)
        nothing = image.new_zeros(1, 3, 1, 1)  # the vision tower is skipped; `forward` only wants the argument
        mask = additive(packing.within_runs(), self.dtype)
        return {"input_ids": ids[packing.position][None], "attention_mask": mask, "pixel_values": nothing, "decoder_input_ids": start}

    def enter_packed(self, packing: Packing, image: Any, entering: torch.Tensor) -> None:
        self.model.vision_model.skip(BaseModelOutputWithPooling(last_hidden_state=image[None]))
        self.model.text_encoder.embeddings.skip(entering[packing.position][None])

    def packed_logits(self, packing: Packing) -> Any:
        arguments, options = self.model.text_decoder.inputs
        states = options["encoder_hidden_states"].unflatten(1, (len(packing.last), -1))[0]  # each run is one row of the decoder
        self.model.text_decoder.inputs = (arguments, options | {"encoder_hidden_states": states, "encoder_attention_mask": None})
        return self.logits()

    def logits(self) -> Any:
        return self.model.text_decoder.output.logits[:, -1]
