"""Models of real shapes with random weights, for cost and for tests: no checkpoint of theirs is at hand."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoProcessor,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
)

from data_prep.scenes.small_models import blip_shapes
from interventions.models.loading import wrap
from interventions.models.names import CHECKPOINTS
from interventions.models.vlm import Vlm


def blip_base(vision_layers: int = 12, layers: int = 12) -> Vlm:
    """blip-vqa-base: 12 layers x 12 heads of 64, 384-pixel images in 577 states."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        _, small = blip_shapes(Path(folder))
    text = {"num_hidden_layers": layers, "num_attention_heads": 12, "bos_token_id": 30522, "encoder_hidden_size": 768}
    vision = {"image_size": 384, "num_hidden_layers": vision_layers, "initializer_range": 0.02}
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": 384, "width": 384}), small.tokenizer)
    module = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision))
    return wrap(module.eval().requires_grad_(False), processor, "blip-vqa-base-random")


def llava(
    layers: int,
    heads: int,
    width: int,
    feed_forward: int,
    vision_layers: int,
    vision_width: int,
    key_value_heads: int | None = None,
    sliding_window: int | None = None,
    image_size: int = 336,
    vocabulary: int = 200,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Vlm:
    """A LLaVA whose images are of 14-pixel patches, 576 of them by default, on a Llama, or on a Mistral where its attention slides."""
    torch.manual_seed(0)
    processor = AutoProcessor.from_pretrained(CHECKPOINTS / "llava-shapes")
    processor.image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
    processor.patch_size = 14
    vision = CLIPVisionConfig(
        hidden_size=vision_width, intermediate_size=4 * vision_width, num_hidden_layers=vision_layers, num_attention_heads=16,
        image_size=image_size, patch_size=14,
    )  # fmt: skip
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary, "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": feed_forward,
        "num_attention_heads": heads, "num_key_value_heads": key_value_heads or heads,
    }  # fmt: skip
    text = MistralConfig(**sizes, sliding_window=sliding_window) if sliding_window else LlamaConfig(**sizes)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=processor.tokenizer.get_vocab()["<image>"])
    with torch.device(device):
        module = LlavaForConditionalGeneration._from_config(config, dtype=dtype)
    return wrap(module.eval().requires_grad_(False), processor, f"llava-{layers}x{heads}-random")


def small_llava() -> Vlm:
    """8 layers x 8 heads of 64, about 600 tokens, and LLaVA-1.5's own vision tower (CLIP ViT-L/14 at 336 pixels)."""
    return llava(layers=8, heads=8, width=512, feed_forward=1376, vision_layers=24, vision_width=1024)


def llava_7b(device: str, dtype: torch.dtype = torch.bfloat16, layers: int = 32) -> Vlm:
    """The shape of llava-1.5-7b: 32 layers x 32 heads of 128, weights made on the device."""
    sizes = {"layers": layers, "heads": 32, "width": 4096, "feed_forward": 11008, "vision_layers": 24, "vision_width": 1024}
    return llava(**sizes, vocabulary=32064, device=device, dtype=dtype)
