"""Masks of the things asked about, guessed by a zero-shot model (see `data_prep.pseudo_masks`)."""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

import datasets
import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError
from torch.nn.functional import interpolate
from tqdm import tqdm
from transformers import AutoConfig, AutoProcessor, CLIPSegForImageSegmentation, OwlViTForObjectDetection
from transformers.utils import logging as transformers_logging

from data_prep.masks.options import PseudoMasks
from data_prep.tables import schema as samples
from data_prep.tables.counterparts import file_hash
from data_prep.tables.images import bounding_box
from data_prep.tables.sample import SampleError
from data_prep.tables.schema import Row


@dataclass(frozen=True)
class Segmenter:
    """A loaded model.

    Attributes
    ----------
    name, version : what it is called, and the hash of its weights or its commit on the Hub
    masks : from images and texts, one for each image, and a threshold: masks of the images' sizes, [height, width] of bool
    """

    name: str
    version: str
    threshold: float
    masks: Callable[[Sequence[Image.Image], Sequence[str], float], list[np.ndarray]]


def make_pseudo_masks(options: PseudoMasks, progress: bool = True) -> dict[str, Any]:
    """Add the masks and save the new table in `options.out`. A table that the same options have already made is left as it is.

    Returns
    -------
    What the new `data.json` holds.

    Raises
    ------
    SampleError
        For a table or model that cannot be read, options that make no sense, and when no sample gets a mask.
    """
    if options.out.resolve() == options.table.resolve():
        raise SampleError(f"--out is the table itself ({options.table}): give another folder")
    samples.check_folder(options.out)
    if options.batch_size < 1 or not 0 <= (options.threshold or 0) < 1 or "{noun}" not in options.prompt:
        raise SampleError("--batch-size must be 1 or more, --threshold from 0 up to but not 1, and --prompt must have {noun}")
    table, old = samples.load(options.table), samples.provenance(options.table)
    rows = list(samples.rows(table))
    stored = table.cast_column("object_mask", datasets.Image(decode=False))["object_mask"]
    lacking = {index for index, mask in enumerate(stored) if mask is None}
    asked = [index for index in sorted(lacking) if rows[index]["noun"].strip()]
    if not asked:
        raise SampleError(f"{options.table}: no sample lacks a mask and has a noun ({len(rows) - len(lacking)} of {len(rows)} have masks)")
    segmenter = load_segmenter(options.model, options.device, options.revision)
    threshold = segmenter.threshold if options.threshold is None else options.threshold
    made = {"model": segmenter.name, "version": segmenter.version, "threshold": threshold, "prompt": options.prompt}
    made["table"] = samples.fingerprint(table)
    if (options.out / "state.json").is_file() and made.items() <= samples.provenance(options.out).get("pseudo_masks", {}).items():
        print(f"{options.out} is already made by these options; remove it to make it again", file=sys.stderr)
        return samples.provenance(options.out)

    parts = _parts(options.out, made)
    todo = [index for index in asked if not (parts / f"{index}.png").exists()]
    with tqdm(total=len(asked), initial=len(asked) - len(todo), desc="masks", unit="sample", disable=not progress) as bar:
        for start in range(0, len(todo), options.batch_size):
            batch = todo[start : start + options.batch_size]
            images = [rows[index]["clean_image"] for index in batch]
            texts = [options.prompt.replace("{noun}", rows[index]["noun"].strip()) for index in batch]
            for index, mask in zip(batch, segmenter.masks(images, texts, threshold), strict=True):
                temporary = parts / "new"
                Image.fromarray(mask * np.uint8(255)).save(temporary, "PNG")
                temporary.rename(parts / f"{index}.png")
            bar.update(len(batch))
    record = _save(options, rows, old, made, parts, lacking)
    shutil.rmtree(parts)
    return record


def _parts(out: Path, configuration: Mapping[str, Any]) -> Path:
    """The folder of the masks made so far, by row number; emptied when they are of another configuration."""
    folder = out.resolve().with_name(f".{out.resolve().name}.masks")
    record = folder / "configuration.json"
    if not record.is_file() or json.loads(record.read_text()) != configuration:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        record.write_text(json.dumps(configuration))
    return folder


def _save(
    options: PseudoMasks, rows: Sequence[Row], old: Mapping[str, Any], made: dict[str, Any], parts: Path, lacking: set[int]
) -> dict[str, Any]:
    name = f"{old.get('name') or options.table.resolve().name}-pseudo-masks"
    without: list[dict[str, str]] = []

    def new_rows() -> Iterator[dict[str, Any]]:
        for index, row in enumerate(rows):
            new, noun = dict(row) | {"dataset": name}, row["noun"].strip()
            if index in lacking and noun and (mask := np.asarray(Image.open(parts / f"{index}.png")) > 127).any():
                new |= {"object_mask": Image.fromarray(mask * np.uint8(255)), "object_box": list(bounding_box(mask))}
            elif index in lacking:
                reason = f"the model finds no {noun!r} above the threshold {made['threshold']}" if noun else "the sample has no noun"
                without.append({"sample": row["sample_id"], "reason": reason})
            yield new

    table = samples.build(new_rows())
    count, kept = len(lacking) - len(without), len(rows) - len(lacking)
    if not count:
        raise SampleError(f"{made['model']} finds the noun of no sample above the threshold {made['threshold']}; try a lower --threshold")
    record = {
        "name": name,
        "seed": old.get("seed"),
        "masks": f"pseudo: {made['model']}" + (f" ({count} samples; the masks of {kept} others are the data set's own)" if kept else ""),
        "pseudo_masks": made | {"made": count, "kept": kept, "without": without},
        "source_table": {key: value for key, value in old.items() if key != "left_out"},
        "left_out": old.get("left_out", []),
    }
    return samples.save(table, options.out, record)


def load_segmenter(model: str, device: str = "auto", revision: str | None = None) -> Segmenter:
    """Load a checkpoint (safetensors only) from a folder or the Hub.

    Raises
    ------
    SampleError
        For a checkpoint that is missing or damaged, or of another kind than CLIPSeg and OWL-ViT, and a device that is not there.
    """
    folder = Path(model)
    source = str(folder.resolve()) if folder.is_dir() else model
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        if config.model_type not in _KINDS:
            raise SampleError(f"{model} is a {config.model_type} model; supported: {', '.join(_KINDS)}")
        auto, threshold, find = _KINDS[config.model_type]
        processor = AutoProcessor.from_pretrained(source, revision=revision, trust_remote_code=False)
        module = auto.from_pretrained(source, revision=revision, use_safetensors=True).to(chosen).eval().requires_grad_(False)
    except SampleError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError, SafetensorError, StrictDataclassError) as error:
        hint = "" if folder.is_dir() else " Where the Hub is out of reach, copy the checkpoint's folder here and give its path."
        raise SampleError(f"could not load {model!r} on {chosen}: {' '.join(str(error).split())}{hint}") from error
    weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    version = " ".join(map(file_hash, weights)) or str(getattr(config, "_commit_hash", ""))
    name = folder.resolve().name if folder.is_dir() else model

    def masks(images: Sequence[Image.Image], texts: Sequence[str], threshold: float) -> list[np.ndarray]:
        with torch.no_grad():
            return find(module, processor, images, texts, threshold)

    return Segmenter(name, version, threshold, masks)


def _clipseg(module: Any, processor: Any, images: Sequence[Image.Image], texts: Sequence[str], threshold: float) -> list[np.ndarray]:
    """The model sees each image stretched to a square, and its probabilities are stretched back."""
    inputs = processor(text=list(texts), images=list(images), padding=True, truncation=True, return_tensors="pt").to(module.device)
    probabilities = module(**inputs).logits.sigmoid().reshape(len(images), 1, *inputs["pixel_values"].shape[-2:])
    whole = [
        interpolate(probability[None], size=(image.height, image.width), mode="bilinear")[0, 0]
        for probability, image in zip(probabilities, images, strict=True)
    ]
    return [(probability > threshold).cpu().numpy() for probability in whole]


def _owlvit(module: Any, processor: Any, images: Sequence[Image.Image], texts: Sequence[str], threshold: float) -> list[np.ndarray]:
    """The rectangle of the best box."""
    inputs = processor(text=[[text] for text in texts], images=list(images), truncation=True, return_tensors="pt").to(module.device)
    sizes = [(image.height, image.width) for image in images]
    found = processor.post_process_grounded_object_detection(module(**inputs), threshold=threshold, target_sizes=sizes)
    masks = []
    for (height, width), boxes in zip(sizes, found, strict=True):
        mask = np.zeros((height, width), bool)
        if len(boxes["scores"]):
            left, top, right, bottom = boxes["boxes"][boxes["scores"].argmax()].tolist()
            mask[max(0, math.floor(top)) : max(0, math.ceil(bottom)), max(0, math.floor(left)) : max(0, math.ceil(right))] = True
        masks.append(mask)
    return masks


_KINDS: dict[str, tuple[Any, float, Callable[..., list[np.ndarray]]]] = {
    "clipseg": (CLIPSegForImageSegmentation, 0.5, _clipseg),
    "owlvit": (OwlViTForObjectDetection, 0.1, _owlvit),
}
