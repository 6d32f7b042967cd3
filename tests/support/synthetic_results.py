"""A results folder written by hand with numpy and xarray: two small models whose universal heads and head functions are known."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from corruptions.base import CORRUPTIONS

LAYERS, HEADS, GRID = 4, 6, 8
CATEGORIES = ("colour", "shape")
SAMPLES = 24
VISION, TEXT, MULTIMODAL = (1, 2), (0, 5), (3, 0)
DETECTS, SUPPRESSES_OBJECT, SUPPRESSES_OUTLIERS = MULTIMODAL, VISION, TEXT
OUTLIERS = (0, 1)  # patches that most heads favour
PLANTED = {"sip": (VISION, MULTIMODAL), "str": (TEXT, MULTIMODAL)}
COMPONENT = {"blip-small": "cross_attention", "llava-small": "self_attention"}
TOKEN = {"blip-small": "correct", "llava-small": "last"}
ROLES = {
    "blip-small": ["[CLS]", "question", "noun", "correct", "or", "incorrect", "?", "[SEP]"],
    "llava-small": ["[CLS]", "template", "image", "question", "noun", "incorrect", "or", "correct", "?", "assistant", "last"],
}


def modality_of(corruption: str) -> str:
    """What a corruption changes, by the label of its results; the image where it is none of the program's."""
    name = corruption.removesuffix("-noising")
    return CORRUPTIONS[name].modality if name in CORRUPTIONS else "image"


def effects(
    logits: np.ndarray, tokens: Sequence, roles: Sequence[str], categories: Sequence[str] = CATEGORIES, corrupt: float = -1.0, **attrs: str
) -> xr.Dataset:
    """Effects that follow the schema: `logits` [sample, layer[, head], token] is the logit difference that each patch restores."""
    samples = len(logits)
    dims = ("sample", "layer", "head", "token") if logits.ndim == 4 else ("sample", "layer", "token")
    each = np.ones(samples, dtype="float32")
    variables = {
        "logit_correct": (dims, (2 + corrupt + logits).astype("float32")),
        "logit_incorrect": (dims, np.full(logits.shape, 2, dtype="float32")),
        "log_normalizer": (dims, np.full(logits.shape, 5, dtype="float32")),
    }
    for run, difference in {"clean": 3.0, "corrupt": corrupt}.items():
        variables |= {f"{run}_logit_correct": ("sample", each * np.float32(2 + difference)), f"{run}_logit_incorrect": ("sample", each * 2)}
        variables[f"{run}_log_normalizer"] = ("sample", each * 5)
    text = {
        "correct_answer": "red",
        "incorrect_answer": "blue",
        "clean_prompt": "Is this red or blue?",
        "corrupt_prompt": "Is this red or blue?",
    }
    coords = {
        "sample": [f"s{i:03d}" for i in range(samples)],
        "token": list(tokens),
        "category": ("sample", [categories[i % len(categories)] for i in range(samples)]),
        "correct_first": ("sample", np.arange(samples) % 4 < 2),
        "token_role": (("sample", "token"), np.array([list(roles)] * samples, dtype=object)),
        "token_text": (("sample", "token"), np.array([list(roles)] * samples, dtype=object)),
    }
    coords |= {dim: np.arange(size) for dim, size in zip(dims, logits.shape, strict=True) if dim in ("layer", "head")}
    coords |= {name: ("sample", np.array([value] * samples, dtype=object)) for name, value in text.items()}
    attrs = {"granularity": "heads" if logits.ndim == 4 else "module", "main_token": "correct", "component": "cross_attention"} | attrs
    attrs = {"model": "m", "dataset": "d", "corruption": "sip"} | attrs
    return xr.Dataset(variables, coords=coords, attrs={"modality": modality_of(attrs["corruption"])} | attrs)


def head_effects(generator: np.random.Generator, planted: Sequence[tuple[int, int]], samples: int = SAMPLES) -> np.ndarray:
    """Noise of 0.05 logits in every head, 1 logit in the planted ones: [sample, layer, head, 1]."""
    logits = generator.normal(0, 0.05, (samples, LAYERS, HEADS, 1))
    for layer, head in planted:
        logits[:, layer, head] += 1
    return logits


def object_masks(samples: int = SAMPLES) -> np.ndarray:
    """A 3 x 3 object that wanders over the lower rows: share of each patch [sample, patch]."""
    masks = np.zeros((samples, GRID, GRID))
    for i in range(samples):
        row, column = 2 + i % 3, i % (GRID - 2)
        masks[i, row : row + 3, column : column + 3] = 1
    return masks.reshape(samples, -1)


def planted_attention(generator: np.random.Generator, masks: np.ndarray) -> np.ndarray:
    """Heads that favour two outlier patches, with noise, but for one head of each function: [sample, layer, head, patch]."""
    samples, patches = masks.shape
    maps = generator.uniform(0.5, 1.5, (samples, LAYERS, HEADS, patches))
    maps[..., OUTLIERS] *= 12
    noise = generator.uniform(0.9, 1.1, (samples, patches))
    outliers = np.isin(np.arange(patches), OUTLIERS)
    maps[:, *DETECTS] = noise * (0.2 + 8 * masks)
    maps[:, *SUPPRESSES_OBJECT] = noise * (np.where(outliers, 60, 1) * (1 - 0.95 * masks))
    maps[:, *SUPPRESSES_OUTLIERS] = noise * np.where(outliers, 0.1, 1)
    return maps


def attention_dataset(maps: np.ndarray, masks: np.ndarray, categories: Sequence[str] = CATEGORIES, **attrs: str) -> xr.Dataset:
    """An attention file: maps scaled so that each head gives the image 0.8 of its attention."""
    samples, patches = masks.shape
    side = int(np.sqrt(patches))
    scaled = 0.8 * maps / maps.sum(axis=-1, keepdims=True)
    image = np.full((samples, side, 8, side, 8, 3), 90, dtype="uint8")
    colours = np.array([[230, 80, 60], [60, 140, 230], [70, 190, 90]], dtype="uint8")
    inside = np.nan_to_num(masks).reshape(samples, side, 1, side, 1, 1) > 0.5
    image = np.where(inside, colours[np.arange(samples) % 3].reshape(samples, 1, 1, 1, 1, 3), image).reshape(samples, side * 8, side * 8, 3)
    text = {"correct_answer": "red", "incorrect_answer": "blue", "question": "Is this square red or blue?"}
    return xr.Dataset(
        {
            "attention": (("sample", "layer", "head", "patch"), scaled.astype("float32")),
            "object_share": (("sample", "patch"), masks.astype("float32")),
            "image": (("sample", "y", "x", "rgb"), image),
        },
        coords={
            "sample": [f"s{i:03d}" for i in range(samples)],
            "category": ("sample", [categories[i % len(categories)] for i in range(samples)]),
            "patch_row": ("patch", np.arange(patches) // side),
            "patch_col": ("patch", np.arange(patches) % side),
        }
        | {name: ("sample", np.array([value] * samples, dtype=object)) for name, value in text.items()},
        attrs={"model": "m", "dataset": "d", "component": "cross_attention", "query": "correct"} | attrs,
    )


def write_results(folder: Path, models: Sequence[str] = tuple(COMPONENT), corruptions: Sequence[str] = ("sip", "str")) -> Path:
    """Write the whole folder: effects of heads and modules, attention, manifest."""
    for seed, model in enumerate(models):
        generator = np.random.default_rng(seed)
        component, token, roles = COMPONENT[model], TOKEN[model], ROLES[model]
        place = folder / model / "shapes"
        for corruption in corruptions:
            attrs = {"model": model, "dataset": "shapes", "corruption": corruption, "modality": "image" if corruption == "sip" else "text"}
            heads = effects(head_effects(generator, PLANTED[corruption]), [token], [token], component=component, main_token=token, **attrs)
            save(heads, place / corruption / f"{component}-heads.nc")
            for module in ("self_attention", "cross_attention", "mlp", "block"):
                if module == "cross_attention" and component != "cross_attention":
                    continue
                depth = np.linspace(0, 1, LAYERS)[:, None] * np.array([role in (token, "noun") for role in roles])
                logits = generator.normal(0, 0.1, (SAMPLES, LAYERS, len(roles))) + depth * (3 if module == "block" else 1)
                logits[1::2, :, -1] = np.nan
                whole = effects(logits, range(len(roles)), roles, component=module, main_token=token, **attrs)
                whole["token_role"][1::2, -1] = ""
                save(whole, place / corruption / f"{module}.nc")
        masks = object_masks()
        maps = planted_attention(generator, masks)
        save(attention_dataset(maps, masks, model=model, dataset="shapes", component=component, query=token), place / "attention.nc")
    _write_manifest(folder, models, corruptions)
    return folder


def save(dataset: xr.Dataset, path: Path) -> None:
    """Write NetCDF4, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.to_netcdf(path, engine="netcdf4")


def _write_manifest(folder: Path, models: Sequence[str], corruptions: Sequence[str]) -> None:
    runs = {
        f"{m}/shapes/{c}/{COMPONENT[m]}-heads.nc": {"status": "finished", "samples": SAMPLES, "seconds": 12.34}
        for m in models
        for c in corruptions
    }
    left_out = [{"sample": "s100", "reason": "answered <wrongly>"}, {"sample": "s101", "reason": "answered <wrongly>"}]
    next(iter(runs.values()))["left_out"] = left_out
    answers = {f"{m}/shapes": {"colour": {"asked": 14, "correct": 12}, "shape": {"asked": 0, "correct": 0}} for m in models}
    data = {"shapes": {"samples": 28, "left_out": [{"sample": "s200", "reason": "options of unequal token length"}]}}
    manifest = {"program": "vlm-notice 0.1", "runs": runs, "answers": answers, "data": data}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
