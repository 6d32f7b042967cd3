"""A study is opened: its data are read or rendered, and its model, or a part of it, is taken. The model has answered nothing yet."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset

from corruptions.base import named
from data_prep.scenes.table import make_shapes
from data_prep.tables import schema as sample_table
from interventions.models.parts import part_of
from interventions.models.vlm import Vlm
from interventions.results.manifest import update_manifest
from interventions.study.options import Options, check_bounds
from interventions.study.study import Study

SMALL_WIDTH = 256  # of models whose matrices are not worth sharing out among threads


def check_options(options: Options) -> None:
    """Raise ValueError, before any work, where an option cannot be used; says which, and what it may be."""
    check_bounds(options)
    named(options.corruption).configuration(options.corruption_options)  # raises where its diffusion model cannot be used


class Data(NamedTuple):
    """A sample table: the data set's name, the table, its fingerprint and its folder."""

    name: str
    table: Dataset
    fingerprint: str
    folder: Path


def open_study(options: Options, vlm: Vlm, data: Data) -> Study:
    """The study of a model on a table."""
    return Study(options, vlm, data.name, data.table, data.fingerprint, {}, data.folder)


def wanted_part(options: Options, vlm: Vlm) -> Vlm:
    """The part of a model that the options name; sets torch's threads as they say."""
    vlm = part_of(vlm, options.part) if options.part else vlm
    torch.set_num_threads(options.threads or (1 if vlm.width < SMALL_WIDTH else os.cpu_count() or 1))
    return vlm


def load_data(options: Options) -> Data:
    """The data set of some options; makes `shapes` in `<out>/data/` with a fifth more samples than asked for."""
    folder = options.data_folder
    if options.data == "shapes" and not folder.is_dir():
        table = make_shapes(options.rendered, options.seed)
        sample_table.save(table, folder, {"name": "shapes", "seed": options.seed, "left_out": []})
    data = read_data(folder)
    entry = {"samples": len(data.table), "folder": str(folder), "left_out": sample_table.left_out(folder)}
    update_manifest(options.out, "data", data.name, entry)
    return data


def facts(vlm: Vlm) -> dict[str, Any]:
    """What the analysis must know of a model to say which commands can be run on it; for the manifest."""
    architecture = vlm.architecture
    head_attention = architecture.attention.get(architecture.head_component)
    return {
        "causal": architecture.causal,
        "head_component": architecture.head_component,
        "main_token": architecture.main_token,
        "reads": sorted(vlm.reads),
        "reads_patches": head_attention is not None and head_attention.image_keys in ("after_class_token", "image_tokens"),
    }


def read_data(folder: Path) -> Data:
    """The sample table in a folder."""
    table = sample_table.load(folder)
    return Data(table[0]["dataset"], table, sample_table.fingerprint(table), folder)
