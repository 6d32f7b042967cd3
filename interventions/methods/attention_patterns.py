"""Attention patterns: what share of its attention each head gives to each image patch, from the query token, in the clean run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from nnsight import save
from PIL import Image
from torch import Tensor

from corruptions.base import LeftOut, Pair
from interventions.engine.edges import patch_shares
from interventions.methods.options import AttentionPatterns
from interventions.methods.per_sample import each_sample
from interventions.models.vlm import Pixels, Vlm, moved
from interventions.results import effects
from interventions.results.roles import roles, tokens_of_roles
from interventions.results.store import Arrays, Store, update_manifest
from interventions.study.study import Study

LARGEST_PICTURE = 112  # pixels a side of the pictures kept beside the maps


def write(study: Study, options: AttentionPatterns) -> Path:
    """See `interventions.attention_patterns`."""
    vlm = study.vlm
    component, query = options.component or vlm.architecture.head_component, options.query or vlm.architecture.main_token
    if component not in vlm.architecture.attention:
        raise ValueError(f"{component!r} of {vlm.architecture.name} has no attention; choose from {', '.join(vlm.architecture.attention)}")
    path = study.folder / "attention.nc"
    configuration = study.configuration(samples_of=study.options.corruption, component=component, query=query)
    store = Store(path, configuration, study.options.overwrite)
    if store.is_finished:
        return path
    if problem := _no_grid(study, component):
        update_manifest(
            study.options.out, "runs", str(path.relative_to(study.options.out)), {"status": f"not run: {problem}", "samples": 0}
        )
        raise LeftOut(problem)
    pairs, parts = each_sample(study, store, study.options.corruption, partial(_maps_of, component=component, query=query))
    store.finish(_assemble(study, pairs, parts, component, query), effects.write)
    return path


def _no_grid(study: Study, component: str) -> str:
    """Why a component's keys are not one square grid of image patches; "" where they are."""
    vlm = study.vlm
    attention = vlm.architecture.attention[component]
    if attention.image_keys == "after_class_token":
        return ""
    count = vlm.prompt(study.table[0]["question"]).kinds.count("image") if attention.image_keys == "image_tokens" else 0
    if count and round(count**0.5) ** 2 == count:
        return ""
    return f"the keys of {component} in {vlm.name} are not one square grid of image patches ({count} image tokens), so it has no maps"


def capture_attention(vlm: Vlm, ids: Tensor, pixels: Pixels, component: str) -> Float[Tensor, "layer head query key"]:
    """Attention probabilities of one run (the model must be set to show them, see `Vlm.showing_attention`); NaN in layers without the
    component."""
    port = vlm.architecture.attention[component].probabilities
    having = [number for number in range(vlm.n_layers) if component in vlm.components_of(number)]
    with torch.no_grad(), vlm.model.trace(**vlm.inputs(ids.to(vlm.device), moved(pixels, vlm))):
        maps: list[Tensor] = save([])
        for number in having:
            maps.append(port.read(vlm.layers[number])[0].clone())
    every = maps[0].new_full((vlm.n_layers, *maps[0].shape), torch.nan)
    every[having] = torch.stack(maps)
    return every


def _shares(
    vlm: Vlm, ids: Tensor, pixels: Pixels, component: str, queries: Sequence[int], keys: Sequence[int]
) -> Float[np.ndarray, "layer head key"]:
    """What some keys (none: all but the first) get from the mean of some queries; where the weights are (see `Vlm.run`)."""
    with vlm.showing_attention():
        probabilities = capture_attention(vlm, ids, pixels, component)
    of_keys = list(keys) or list(range(1, probabilities.shape[-1]))
    return probabilities[:, :, list(queries)].mean(2)[:, :, of_keys].float().cpu().numpy()


def _maps_of(study: Study, pair: Pair, _: bool, component: str, query: str) -> Arrays:
    vlm = study.vlm
    prompt = vlm.prompt(pair.clean_question)
    (cell,) = tokens_of_roles(prompt, roles(prompt, pair, vlm.architecture.causal), [query])
    after_class_token = vlm.architecture.attention[component].image_keys == "after_class_token"
    keys = () if after_class_token else tuple(i for i, kind in enumerate(prompt.kinds) if kind == "image")
    maps = vlm.run(_shares, vlm.ids([prompt]), vlm.pixels([pair.clean_image]), component, cell.positions, keys)
    mask = pair.sample["object_mask"]
    return {
        "attention": maps,
        "object_share": patch_shares(vlm, mask, maps.shape[-1]) if mask is not None else np.full(maps.shape[-1], np.nan, np.float32),
        "image": np.asarray(_seen(vlm, pair.clean_image)),
    }


def _seen(vlm: Vlm, image: Image.Image) -> Image.Image:
    """An image as the model's processor cuts and scales it, no larger than is kept."""
    processor = vlm.processor.image_processor
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    if vlm.architecture.square:
        return image.convert("RGB").resize((LARGEST_PICTURE, LARGEST_PICTURE), Image.Resampling.LANCZOS)
    seen = vlm.pixels([image])["pixel_values"][0, 0].float().cpu() * std + mean
    picture = Image.fromarray((seen.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    return picture if picture.width <= LARGEST_PICTURE else picture.resize((LARGEST_PICTURE, LARGEST_PICTURE), Image.Resampling.LANCZOS)


def _assemble(study: Study, pairs: list[Pair], parts: list[Arrays], component: str, query: str) -> xr.Dataset:
    vlm, samples = study.vlm, [pair.sample for pair in pairs]
    patches = parts[0]["object_share"].shape[0]
    side = round(patches**0.5)
    texts = {"category": "category", "correct_answer": "correct_answer", "incorrect_answer": "incorrect_answer", "clean_prompt": "question"}
    return xr.Dataset(
        {
            "attention": (("sample", "layer", "head", "patch"), np.stack([part["attention"] for part in parts])),
            "object_share": (("sample", "patch"), np.stack([part["object_share"] for part in parts])),
            "image": (("sample", "y", "x", "rgb"), np.stack([part["image"] for part in parts])),
        },
        {
            "sample": np.array([sample["sample_id"] for sample in samples], object),
            "layer": np.arange(vlm.n_layers),
            "head": np.arange(vlm.n_heads),
            "patch_row": ("patch", np.arange(patches) // side),
            "patch_col": ("patch", np.arange(patches) % side),
            **{name: ("sample", np.array([sample[column] for sample in samples], object)) for name, column in texts.items()},
        },
        {
            "title": f"Attention of {component} heads from the token {query!r} to image patches, clean run",
            "model": vlm.name,
            "model_revision": vlm.revision,
            "dataset": study.name,
            "dataset_fingerprint": study.fingerprint,
            "component": component,
            "query": query,
            "dtype": vlm.number_format,
            "device": vlm.device_type,
            **study.provenance(),
        },
    )
