"""A diffusion model that paints a region of an image anew: any Stable Diffusion inpainting checkpoint in the format of `diffusers`."""

import hashlib
import importlib.util
import os
from functools import cache, cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging as transformers_logging

from corruptions.base import LeftOut
from data_prep.tables.counterparts import file_hash

DTYPES = {"float32": torch.float32, "float16": torch.float16}


class InpaintingError(ValueError):
    """A diffusion model that cannot be used: says why, and what can be done."""


class Inpainter:
    """A checkpoint and its settings. It is found at once, and loaded when it first paints.

    Parameters
    ----------
    model : a folder with `model_index.json`, or a Hub id
    revision : of a checkpoint on the Hub
    dtype : number format of weights and computation
    device : "auto" (CUDA if there is one), "cpu", "cuda", ...

    Raises
    ------
    InpaintingError
        `diffusers` is not installed, there is no such checkpoint, or a setting makes no sense.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        *,
        steps: int = 120,
        guidance: float = 8.0,
        dtype: str = "float32",
        device: str = "auto",
    ) -> None:
        if steps < 1 or guidance < 0:
            raise InpaintingError(f"--inpainting-steps is {steps}, --inpainting-guidance {guidance}: at least 1 and 0 are needed")
        self.folder, version = find(model, revision)
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        name = Path(model).resolve().name if Path(model).is_dir() else model
        self.settings: dict[str, Any] = {
            "model": name,
            "version": version,
            "scheduler": "DDIM",
            "steps": steps,
            "guidance": guidance,
            "dtype": dtype,
        }

    @cached_property
    def pipeline(self) -> Any:
        """The loaded checkpoint.

        Raises
        ------
        InpaintingError
            It cannot be read, or is of a kind that does not paint regions with a U-Net.
        """
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        from diffusers import AutoPipelineForInpainting, DDIMScheduler  # optional, and seconds to load
        from diffusers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        dtype = DTYPES[self.settings["dtype"]]
        try:
            pipeline = AutoPipelineForInpainting.from_pretrained(self.folder, dtype=dtype, use_safetensors=True)
            if not hasattr(pipeline, "unet"):
                raise InpaintingError(f"{self.settings['model']} is a {type(pipeline).__name__}; only Stable Diffusion's are supported")
            pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
            return pipeline.to(self.device)
        except InpaintingError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())
            raise InpaintingError(f"could not load the inpainting model {self.settings['model']} on {self.device}: {reason}") from error

    def paint(self, image: Image.Image, mask: Image.Image, prompt: str, negative_prompt: str, seed: int) -> Image.Image:
        """The image with the white region of the mask painted; its other pixels are not exactly kept.

        The model sees the image scaled to about as many pixels as it was trained with, its sides in about their proportion.

        Parameters
        ----------
        negative_prompt : what the region shall not show; "" for nothing in particular
        seed : of the noise that the model starts from

        Raises
        ------
        LeftOut
            The model's safety checker withholds the picture.
        InpaintingError
            The picture is not of finite numbers.
        """
        width, height = self._size(*image.size)
        pipeline = self.pipeline
        pipeline.set_progress_bar_config(desc="inpainting", unit="step", leave=False)
        painted = pipeline(
            prompt=prompt,
            negative_prompt=negative_prompt or None,
            image=image,
            mask_image=mask,
            width=width,
            height=height,
            strength=1.0,
            num_inference_steps=self.settings["steps"],
            guidance_scale=self.settings["guidance"],
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        )
        if any(getattr(painted, "nsfw_content_detected", None) or []):
            raise LeftOut(f"the safety checker of {self.settings['model']} withholds the painted image")
        if not np.isfinite(painted.images).all():
            raise InpaintingError(f"{self.settings['model']} gives no finite numbers in {self.settings['dtype']}; try float32")
        return Image.fromarray((painted.images[0] * 255).round().astype(np.uint8)).resize(image.size, Image.Resampling.LANCZOS)

    def _size(self, width: int, height: int) -> tuple[int, int]:
        unet, factor = self.pipeline.unet.config, self.pipeline.vae_scale_factor
        unit = max(8, factor * 2 ** (len(unet.block_out_channels) - 1))  # what sides must be a multiple of
        scale = unet.sample_size * factor / (width * height) ** 0.5
        return max(unit, round(width * scale / unit) * unit), max(unit, round(height * scale / unit) * unit)


@cache
def find(model: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder of a checkpoint, fetched from the Hub if need be, and its version: the Hub's commit, or a hash over a folder's files.

    Raises
    ------
    InpaintingError
        `diffusers` is not installed, or there is no such checkpoint.
    """
    if importlib.util.find_spec("diffusers") is None:
        raise InpaintingError("inpainting needs diffusers, which this environment lacks: pip install -r requirements-diffusers.txt")
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise InpaintingError(f"{model} is no checkpoint of diffusers: it has no model_index.json")
        return folder.resolve(), _version(folder)
    if model.count("/") != 1 or model.startswith((".", "/")):
        raise InpaintingError(f"unknown inpainting model {model!r}: no folder, and no Hub id")
    transformers_logging.set_verbosity_error()
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()
    try:
        snapshot = Path(DiffusionPipeline.download(model, revision=revision, use_safetensors=True))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        hint = "Where the Hub is out of reach, copy the checkpoint's folder here and give its path."
        raise InpaintingError(f"could not fetch the inpainting model {model!r}: {reason} {hint}") from error
    return snapshot, snapshot.name


def _version(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".txt", ".safetensors")):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_hash(path)}\n".encode())
    return digest.hexdigest()[:12]
