"""A Stable Diffusion inpainting checkpoint of random weights: 32 x 32 pixels, a text model of one layer that reads letters."""

from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SIDE = 32  # pixels that the model is made for


def save_tiny_pipeline(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint, with another scheduler than DDIM."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel

    torch.manual_seed(seed)
    letters = "abcdefghijklmnopqrstuvwxyz,"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    start, end = len(words) - 2, len(words) - 1
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    places = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end, "max_position_embeddings": 64}
    unet = UNet2DConditionModel(
        sample_size=SIDE // 2,
        in_channels=9,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        sample_size=SIDE,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        norm_num_groups=4,
    )
    pipeline = StableDiffusionInpaintPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=len(words), **layers, **places)),
        tokenizer=CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=64),
        unet=unet,
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder
