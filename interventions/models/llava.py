"""LLaVA: a vision tower and a projector turn the image into tokens of a causal decoder's prompt."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from nnsight.modeling.huggingface import HuggingFaceModel
from PIL import Image
from transformers import DynamicCache

from interventions.models.vlm import Inputs, Vlm
from interventions.packing import Packing, additive


class LlavaModel(HuggingFaceModel):
    """nnsight wrapper of a LLaVA checkpoint."""

    AUTO_CLASS = "AutoModelForImageTextToText"


class Llava(Vlm):
    """The answer is the first token after "ASSISTANT:"; one prompt for all, NOTICE's."""

    def template(self, question: str) -> tuple[str, int]:
        before = f"USER: {self.processor.image_token}\n"
        return f"{before}{question} Answer with one word. ASSISTANT:", len(before)

    def template_kind(self, text: str, at: int) -> str:
        return "assistant" if at >= text.rindex("ASSISTANT") else "template"

    @cached_property
    def image_token_id(self) -> int:  # type: ignore[override]
        return self.module.config.image_token_index

    @cached_property
    def tokens_per_image(self) -> int:  # type: ignore[override]
        config = self.module.config
        side = config.vision_config.image_size // config.vision_config.patch_size
        return side * side + (config.vision_feature_select_strategy == "full")

    def answer_id(self, question: str, answer: str) -> int:
        tokenizer, prompt = self.processor.tokenizer, self.template(question)[0]
        before, whole = tokenizer(prompt)["input_ids"], tokenizer(f"{prompt} {answer}")["input_ids"]
        if whole[: len(before)] != before:
            raise ValueError(f"the answer {answer!r} changes the tokens of the prompt it follows")
        return whole[len(before)]

    def reference_answer_ids(self, generated: str, correct: str, incorrect: str) -> tuple[int, int]:
        """The last sub-token of the text that the model generated, and of the incorrect answer as it stands in the question."""
        return tuple(self.processor.tokenizer(text)["input_ids"][-1] for text in (generated, incorrect))  # type: ignore[return-value]

    def inputs(self, ids: torch.Tensor, pixels: torch.Tensor, cache: bool = False) -> Inputs:
        return {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids), "use_cache": cache, "logits_to_keep": 1}

    def generate(self, questions: Sequence[str], images: Sequence[Image.Image]) -> list[str]:
        prompts = [self.prompt(question) for question in questions]
        longest = max(len(prompt.ids) for prompt in prompts)
        pad = self.processor.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(p.ids)) + list(p.ids) for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in prompts], device=self.device)
        out = self.module.generate(
            input_ids=ids, attention_mask=mask, pixel_values=self.pixels(images), max_new_tokens=self.max_answer_tokens, do_sample=False
        )
        return [answer.strip() for answer in self.processor.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)]

    def image_states(self) -> Any:
        return self.layers[0].input

    def cache(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(layer.keys, layer.values) for layer in self.model.output.past_key_values.layers]

    def packed(self, packing: Packing, ids: torch.Tensor, image: Any, cache: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Inputs:
        return {
            "inputs_embeds": image[packing.position][None],
            "attention_mask": additive(packing.causal(len(ids)), self.dtype),
            "position_ids": packing.position[None],
            "past_key_values": DynamicCache(cache),  # made anew: a pass appends to it
            "use_cache": True,
            "logits_to_keep": packing.last,
        }

    def packed_logits(self, packing: Packing) -> Any:
        return self.model.lm_head.output[0]

    def logits(self) -> Any:
        return self.model.lm_head.output[:, -1]
