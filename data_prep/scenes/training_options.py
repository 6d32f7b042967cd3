"""How the small models are trained: the options, and the presets of the shipped ones. Loads no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Training:
    """How one small model is trained. The defaults made the shipped checkpoints.

    Example: python -m data_prep.train_shapes blip-shapes --out checkpoints/blip-shapes
    """

    out: Path
    """Folder that receives the checkpoint in Hugging Face format, and `training.json`."""
    model: tyro.conf.Fixed[Literal["blip-shapes", "llava-shapes"]] = "blip-shapes"
    """Which of the two architectures."""
    layers: int = 4
    """Layers of the language part."""
    heads: int = 6
    """Attention heads a layer of the language part (must divide 96)."""
    warm_up_steps: int = 800
    """Steps on the vision tower alone."""
    steps: int = 4000
    """Steps on questions, after the warm-up."""
    polish_steps: int = 600
    """Last steps, on questions alone at a third of the learning rate, with `options_only` 0."""
    images: int = 64
    """Scenes a step in the warm-up; question steps use `images * question_share`."""
    question_share: float = 1.0
    """Scenes of a question step, as a share of `images`."""
    questions: int = 3
    """Questions on each scene."""
    learning_rate: float = 1e-3
    """Peak learning rate; twice this for the vision tower."""
    patch_loss_weight: float = 0.3
    """Weight of the patch loss while questions are learned."""
    impossible: float = 0.15
    """Share of questions to which neither option is true; the target is then either. They make the model read the options."""
    options_only: float = 0.35
    """BLIP: share of questions whose decoder sees the option tokens alone, and (drawn apart) whose other tokens get nothing from
    the image. This trains the answer to pass through the option tokens, where NOTICE patches."""
    seed: int = 0
    """Seed of the initial weights and of the order of scenes."""
    threads: int = 2
    """CPU threads."""


PRESETS = {
    "blip-shapes": ("BLIP: a question encoder that reads the image by cross-attention", Training(Path("checkpoints/blip-shapes"))),
    "llava-shapes": (
        "LLaVA: a causal decoder with image tokens in its prompt",
        Training(Path("checkpoints/llava-shapes"), "llava-shapes", layers=6, steps=2600, polish_steps=0, questions=6, question_share=0.5),
    ),
}
