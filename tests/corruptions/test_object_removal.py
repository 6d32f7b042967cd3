"""Object removal against its definition: a known background comes back, and nothing else changes."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from corruptions.base import CORRUPTIONS
from corruptions.inpainting import Region
from corruptions.options import CorruptionOptions
from data_prep.tables import schema as sample_table
from interventions.backends.opening import prepare
from interventions.head_patching import patch_heads
from interventions.results import effects
from interventions.study.options import Options
from tests.support.tiny_diffusion import save_tiny_pipeline


def disc_on(background, radius=6):
    """A sample whose image is a red disc on a background, [height, width, rgb]."""
    height, width = background.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 <= radius**2
    return {
        "sample_id": "s", "question": "Is the circle red or blue?", "correct_answer": "red", "incorrect_answer": "blue", "noun": "circle",
        "clean_image": Image.fromarray(np.where(disc[..., None], np.uint8([255, 0, 0]), background)),
        "object_mask": Image.fromarray(disc * np.uint8(255)), "object_box": [],
    }  # fmt: skip


@pytest.fixture
def options(tmp_path):
    return CorruptionOptions(inpainted=tmp_path / "inpainted")


@pytest.mark.parametrize(("slope", "tolerance"), [(0, 4), (3, 30)])
def test_the_background_comes_back(options, slope, tolerance):
    """Up to rounding, which adds up, where it is of one colour; nearly, where it changes slowly."""
    background = np.broadcast_to((40 + slope * np.arange(50))[None, :, None] + [0, 10, 60], (40, 50, 3)).astype(np.uint8)
    pair = CORRUPTIONS["object_removal"].make([], 0, options).corrupt(disc_on(background), None)
    assert np.abs(np.asarray(pair.corrupt_image).astype(int) - background).max() <= tolerance


def test_the_region_changes_and_nothing_else(options, shapes):
    for row in shapes:
        pair = CORRUPTIONS["object_removal"].make([], 0, options).corrupt(row, None)
        clean, corrupt = np.asarray(pair.clean_image).astype(int), np.asarray(pair.corrupt_image)
        region = Region().of(row)
        assert not (clean != corrupt)[~region].any()
        assert np.abs(clean - corrupt)[np.asarray(row["object_mask"]) > 127].mean() > 10
        assert (pair.corrupt_question, pair.corrupt_options) == (row["question"], pair.clean_options)


def test_it_needs_no_diffusion_model(options, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert CORRUPTIONS["object_removal"].configuration(options)["inpainting"] == {"fill": "Telea", "radius": 3}


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs requirements-diffusers.txt")
def test_a_diffusion_model_is_told_to_paint_anything_but_the_thing(options, tmp_path):
    model = save_tiny_pipeline(tmp_path / "tiny")
    row = disc_on(np.full((32, 32, 3), 90, np.uint8))
    with_model = CorruptionOptions(inpainted=options.inpainted, inpainting_model=str(model), inpainting_steps=2)
    pair = CORRUPTIONS["object_removal"].make([], 0, with_model).corrupt(row, None)
    recipe = json.loads(Image.open(pair.corrupt_image_from).text["recipe"])
    assert (recipe["prompt"], recipe["negative_prompt"], recipe["model"]) == ("", "circle", "tiny")
    clean, corrupt = np.asarray(pair.clean_image), np.asarray(pair.corrupt_image)
    assert not (clean != corrupt)[~Region().of(row)].any()
    assert (clean != corrupt).any()
    named_otherwise = CORRUPTIONS["object_removal"].make([], 0, with_model).corrupt(row | {"noun": "ball"}, None)
    assert (np.asarray(named_otherwise.corrupt_image) != corrupt).any()


def test_a_study_patches_it_as_an_image_corruption(tmp_path, shapes, blip, monkeypatch):
    monkeypatch.chdir(tmp_path)  # painted images go into data/inpainted
    sample_table.save(shapes, tmp_path / "table", {"name": "shapes", "seed": 1, "left_out": []})
    study = prepare(Options(model=blip.name, data=str(tmp_path / "table"), samples=2, out=tmp_path / "results", device="cpu"), blip)
    dataset = effects.read(patch_heads(study.under("object_removal")))
    assert dataset.attrs["modality"] == "image"
    differences = (dataset[f"{run}_logit_correct"] - dataset[f"{run}_logit_incorrect"] for run in ("clean", "corrupt"))
    clean, corrupt = (float(difference.mean()) for difference in differences)
    assert corrupt < clean / 2
