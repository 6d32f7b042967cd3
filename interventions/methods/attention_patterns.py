"""Attention patterns: what share of its attention each head gives to each image patch, from the query token, in the clean run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from PIL import Image

from corruptions.base import LeftOut
from interventions.engine.attention_maps import patch_shares, shares
from interventions.engine.pairs import PreparedPair
from interventions.methods.options import AttentionPatterns
from interventions.methods.per_sample import each_sample
from interventions.models.vlm import Vlm
from interventions.results import effects
from interventions.results.assembling import assemble, stacked
from interventions.results.manifest import note_not_run
from interventions.results.roles import roles, tokens_of_roles
from interventions.results.store import Arrays, Store
from interventions.study.options import check_bounds
from interventions.study.study import Study

LARGEST_PICTURE = 112  # pixels a side of the pictures kept beside the maps


def write(study: Study, options: AttentionPatterns) -> Path:
    """See `interventions.attention_patterns`."""
    check_bounds(options)
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
        note_not_run(study.options.out, path, problem)
        raise LeftOut(problem)
    pairs, parts = each_sample(study, store, partial(_maps_of, component=component, query=query))
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


def _maps_of(study: Study, prepared: PreparedPair, _: bool, component: str, query: str) -> Arrays:
    vlm, pair = study.vlm, prepared.pair
    prompt = vlm.prompt(pair.clean_question)
    (cell,) = tokens_of_roles(prompt, roles(prompt, pair, vlm.architecture.causal), [query])
    after_class_token = vlm.architecture.attention[component].image_keys == "after_class_token"
    keys = () if after_class_token else tuple(i for i, kind in enumerate(prompt.kinds) if kind == "image")
    maps = vlm.run(shares, vlm.ids([prompt]), vlm.pixels([pair.clean_image]), component, cell.positions, keys)
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


def _assemble(study: Study, pairs: Sequence[PreparedPair], parts: Sequence[Arrays], component: str, query: str) -> xr.Dataset:
    whole = stacked(parts, len(parts))
    patches = whole["object_share"].shape[1]
    side = round(patches**0.5)
    title = f"Attention of {component} heads from the token {query!r} to image patches, clean run"
    return assemble(
        study.attributes(title, component, samples_of=study.options.corruption) | {"query": query},
        [pair.coordinates() for pair in pairs],
        {
            "layer": np.arange(study.vlm.n_layers),
            "head": np.arange(study.vlm.n_heads),
            "patch_row": ("patch", np.arange(patches) // side),
            "patch_col": ("patch", np.arange(patches) % side),
            "question": ("sample", np.array([pair.sample["question"] for pair in pairs], object)),
        },
        {
            "attention": (("sample", "layer", "head", "patch"), whole["attention"]),
            "object_share": (("sample", "patch"), whole["object_share"]),
            "image": (("sample", "y", "x", "rgb"), whole["image"]),
        },
    )
