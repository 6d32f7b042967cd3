"""Inpainting against its definition; what is painted, against diffusers called directly on a tiny random checkpoint."""

import importlib.util
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from corruptions.base import CORRUPTIONS, LeftOut
from corruptions.inpainting import PAPERS_MODEL, Region, prompt_of, repaint
from corruptions.options import CorruptionOptions
from corruptions.painting import inpainter
from corruptions.painting.cache import ImageCache
from corruptions.painting.inpainter import Inpainter, InpaintingError
from interventions.engine.capture import example
from interventions.engine.pairs import prepare_pair
from interventions.models.vlm import Scored
from tests.support.tiny_diffusion import SIDE, save_tiny_pipeline

needs_diffusers = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs requirements-diffusers.txt")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny-inpainting")


@pytest.fixture
def options(checkpoint, tmp_path):
    return CorruptionOptions(inpainting_model=str(checkpoint), inpainting_steps=2, inpainted=tmp_path / "inpainted")


def sample(number=0, size=(SIDE, SIDE), **more):
    """A photograph of noise, with an oval mask off its middle."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    oval = ((rows / height - 0.4) / 0.25) ** 2 + ((columns / width - 0.6) / 0.2) ** 2 <= 1
    clean = np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return {
        "sample_id": f"s{number}", "category": "colour", "question": "Is the striped circle red or blue?", "correct_answer": "red",
        "incorrect_answer": "blue", "corrupt_question": "", "noun": "circle", "clean_image": Image.fromarray(clean),
        "object_mask": Image.fromarray(oval * np.uint8(255)), "object_box": [], "clean_attributes": "", "corrupt_attributes": "",
        **more,
    }  # fmt: skip


def images_of(pair):
    return np.asarray(pair.clean_image), np.asarray(pair.corrupt_image)


# ---------------------------------------------------------------- what changes


@needs_diffusers
@pytest.mark.parametrize("size", [(SIDE, SIDE), (50, 37), (24, 120)])
def test_the_region_changes_and_nothing_else(options, size):
    row = sample(size=size)
    pair = CORRUPTIONS["inpainting"].make([], 0, options).corrupt(row, None)
    clean, corrupt = images_of(pair)
    differs = (clean != corrupt).any(-1)
    region = Region().of(row)
    assert clean.shape == corrupt.shape
    assert not differs[~region].any()
    assert differs[region].mean() > 0.9
    assert pair.corrupt_question == pair.clean_question
    assert [pair.corrupt_question[start:end] for start, end in pair.corrupt_options] == ["red", "blue"]


@needs_diffusers
def test_the_default_is_the_papers_method(options, checkpoint):
    """DDIM, 120 steps, guidance 8, the incorrect option in the prompt: diffusers itself paints the same."""
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline

    row = sample()
    path = CORRUPTIONS["inpainting"].make([], 0, replace(options, inpainting_steps=120)).corrupt(row, None).corrupt_image_from
    seed = json.loads(Image.open(path).text["recipe"])["seed"]
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(checkpoint, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    region = Region().of(row)
    painted = pipeline(
        "a picture of the striped circle blue",
        row["clean_image"],
        Image.fromarray(region * np.uint8(255)),
        num_inference_steps=120,
        guidance_scale=8.0,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(path))[region], np.asarray(painted)[region])
    fields = CorruptionOptions()
    assert (fields.inpainting_steps, fields.inpainting_guidance, fields.inpainting_model) == (120, 8.0, None)
    assert PAPERS_MODEL.endswith("/stable-diffusion-2-inpainting")


@needs_diffusers
def test_noise_depends_on_the_seed_and_the_sample_alone(options):
    rows = [sample(number) for number in range(3)]

    def painted(seed, rows, folder):
        maker = CORRUPTIONS["inpainting"].make([], seed, replace(options, inpainted=options.inpainted / folder))
        return {row["sample_id"]: maker.corrupt(row, None).corrupt_image.tobytes() for row in rows}

    first = painted(0, rows, "a")
    assert painted(0, rows[::-1], "b") == first
    assert all(first[name] != other for name, other in painted(1, rows, "c").items())
    twin = {**rows[0], "sample_id": "another id"}
    assert painted(0, [twin], "d")["another id"] != first["s0"]


@needs_diffusers
def test_a_model_gets_the_painted_image(options, blip):
    row = sample(size=(64, 64))
    pair = CORRUPTIONS["inpainting"].make([], 0, options).corrupt(row, blip.prompt)
    pixels = example(blip, prepare_pair(blip, pair, Scored(5, 6))).pixels["pixel_values"]
    torch.testing.assert_close(pixels[1:], blip.pixels([Image.open(pair.corrupt_image_from)])["pixel_values"])
    assert not torch.equal(pixels[0], pixels[1])


# ---------------------------------------------------------------- the folder of painted images


@needs_diffusers
def test_an_image_is_painted_once(options, monkeypatch):
    """A second run does not even load the model."""
    row = sample()
    first = CORRUPTIONS["inpainting"].make([], 0, options).corrupt(row, None)
    written = first.corrupt_image_from.stat().st_mtime_ns

    def refuse(*_, **__):
        raise AssertionError("painted again")

    monkeypatch.setattr(Inpainter, "paint", refuse)
    again = CORRUPTIONS["inpainting"].make([], 0, options).corrupt(row, None)
    assert again.corrupt_image_from == first.corrupt_image_from
    assert again.corrupt_image_from.stat().st_mtime_ns == written


@needs_diffusers
def test_whatever_an_image_depends_on_gives_another_file(options, tmp_path):
    other = save_tiny_pipeline(tmp_path / "other" / "tiny-inpainting", seed=1)  # of the same name
    settings = [
        {}, {"inpainting_steps": 3}, {"inpainting_guidance": 2.0}, {"inpainting_dilation": 0}, {"inpainting_region": "box"},
        {"inpainting_model": str(other)},
    ]  # fmt: skip
    rows = [{}, {"clean_image": Image.new("RGB", (SIDE, SIDE))}, {"incorrect_answer": "green", "question": "Is it red or green?"}]
    made = [CORRUPTIONS["inpainting"].make([], 0, replace(options, **changed)).corrupt(sample(), None) for changed in settings]
    made += [CORRUPTIONS["inpainting"].make([], seed, options).corrupt(sample(**changed), None) for changed in rows[1:] for seed in (0, 1)]
    assert len({pair.corrupt_image_from for pair in made}) == len(made) == len(list(options.inpainted.iterdir()))
    assert len({pair.corrupt_image.tobytes() for pair in made}) == len(made)


def test_an_interrupted_run_leaves_what_is_finished_and_nothing_half_done(tmp_path, monkeypatch):
    images = ImageCache(tmp_path / "images")
    rows = [sample(number) for number in range(2)]
    black = lambda image, mask: Image.new("RGB", image.size)  # noqa: E731
    done = repaint(rows[0], Region(), {"by": "test"}, black, images)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repaint(rows[1], Region(), {"by": "test"}, stop, images)
    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        repaint(rows[1], Region(), {"by": "test"}, black, images)
    assert list(images.folder.iterdir()) == [done]
    monkeypatch.undo()
    assert repaint(rows[0], Region(), {"by": "test"}, stop, images) == done
    assert repaint(rows[1], Region(), {"by": "test"}, black, images).is_file()


# ---------------------------------------------------------------- the region


@pytest.mark.parametrize("shape", ["contour", "box"])
@pytest.mark.parametrize("dilation", [0, 1, 4])
def test_the_region_reaches_as_far_as_it_says(shape, dilation):
    row = sample(size=(30, 20))
    inside = np.argwhere(np.asarray(row["object_mask"]) > 127)
    if shape == "box":
        (top, left), (bottom, right) = inside.min(0), inside.max(0)
        inside = np.array([(y, x) for y in range(top, bottom + 1) for x in range(left, right + 1)])
    expected = np.zeros((20, 30), bool)
    for y, x in np.ndindex(expected.shape):
        expected[y, x] = ((inside - (y, x)) ** 2).sum(1).min() <= dilation**2
    np.testing.assert_array_equal(Region(shape, dilation).of(row), expected)


@pytest.mark.parametrize("shape", ["contour", "box"])
def test_a_box_serves_where_there_is_no_mask(shape):
    region = Region(shape, 0).of(sample(object_mask=None, object_box=[3, 5, 10, 9]))
    assert region[5:9, 3:10].all()
    assert region.sum() == 7 * 4


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"object_mask": None}, "neither a mask nor a box .* data_prep.pseudo_masks"),
        ({"object_mask": None, "object_box": [1, 1, SIDE - 1, SIDE - 1]}, "the whole image"),
    ],
)
def test_a_sample_without_a_usable_region_is_left_out(given, reason, tmp_path):
    with pytest.raises(LeftOut, match=reason):
        CORRUPTIONS["object_removal"].make([], 0, CorruptionOptions(inpainted=tmp_path)).corrupt(sample(**given), None)


def test_a_region_painted_as_it_was_is_left_out(tmp_path):
    with pytest.raises(LeftOut, match="identical"):
        repaint(sample(), Region(), {}, lambda image, mask: image, ImageCache(tmp_path))


# ---------------------------------------------------------------- the prompt


@pytest.mark.parametrize(
    ("question", "correct", "incorrect", "prompt"),
    [
        ("Is the striped circle red or blue?", "red", "blue", "the striped circle blue"),
        ("Is the striped circle blue or red?", "red", "blue", "the striped circle blue"),
        ("Is the object a circle or a square?", "circle", "square", "the object a square"),
        ("Is it an apple or a banana?", "apple", "banana", "it a banana"),
        ("Is it a banana or an apple?", "apple", "banana", "it a banana"),
        ("Is the circle at the left or the top?", "left", "top", "the circle at the top"),
        ("Is the man sitting or lying in the grass?", "sitting", "lying", "the man lying in the grass"),
        ("Are these dogs wet, or dry ?", "wet", "dry", "these dogs dry"),
        ("What color is the circle, red or blue?", "red", "blue", "circle, blue"),
    ],
)
def test_the_prompt_says_the_incorrect_option(question, correct, incorrect, prompt):
    assert prompt_of(sample(question=question, correct_answer=correct, incorrect_answer=incorrect)) == f"a picture of {prompt}"


def test_the_prompt_is_the_corrupt_images_triplet_where_there_is_one():
    triplet = json.dumps([{"subject": "man", "verb": "lie", "object": "grass"}])
    assert prompt_of(sample(corrupt_attributes=triplet)) == "a picture of man lie grass"
    assert prompt_of(sample(noun="", question="What is it, red or blue?")) == "a picture of blue"
    assert prompt_of(sample(corrupt_attributes=json.dumps([{"colour": "blue"}]))) == "a picture of the striped circle blue"


# ---------------------------------------------------------------- models that cannot be used, and pictures that cannot


def test_without_diffusers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InpaintingError, match=r"pip install -r requirements-diffusers\.txt"):
        CORRUPTIONS["inpainting"].configuration(CorruptionOptions(inpainting_model="some/model-of-none"))


@needs_diffusers
def test_a_model_that_is_not_there_is_said_to_be_so(tmp_path, checkpoint):
    for name, reason in (
        ("nowhere", "no folder, and no Hub id"),
        (str(tmp_path / "x"), "no folder"),
        (str(tmp_path), "no model_index.json"),
    ):
        with pytest.raises(InpaintingError, match=reason):
            CORRUPTIONS["inpainting"].configuration(CorruptionOptions(inpainting_model=name))
    index = json.loads((checkpoint / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": "DDPMPipeline"}))
    model = Inpainter(str(tmp_path), None)
    with pytest.raises(InpaintingError, match=f"could not load the inpainting model {tmp_path.name} on cpu: .*DDPMPipeline"):
        model.paint(*(sample()[name] for name in ("clean_image", "object_mask")), "", "", 0)


@needs_diffusers
def test_a_checkpoint_of_the_hub_is_known_by_its_commit(tmp_path, checkpoint, monkeypatch):
    """Taken from the Hub's own cache, offline."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--me--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(checkpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert inpainter.find("me/tiny") == (repository / "snapshots" / commit, commit)
    with pytest.raises(InpaintingError, match=r"'me/other': .* copy the checkpoint's folder here"):
        inpainter.find("me/other")


@needs_diffusers
@pytest.mark.parametrize(
    ("picture", "error", "reason"),
    [
        (SimpleNamespace(images=np.zeros((1, SIDE, SIDE, 3)), nsfw_content_detected=[True]), LeftOut, "safety checker of tiny-inpainting"),
        (SimpleNamespace(images=np.full((1, SIDE, SIDE, 3), np.nan)), InpaintingError, "no finite numbers in float32"),
    ],
)
def test_a_picture_that_is_withheld_or_broken_is_not_used(options, picture, error, reason):
    maker = CORRUPTIONS["inpainting"].make([], 0, options)
    real = maker.inpainter.pipeline

    class Stub:
        unet, vae_scale_factor, set_progress_bar_config = real.unet, real.vae_scale_factor, real.set_progress_bar_config

        def __call__(self, **_):
            return picture

    maker.inpainter.pipeline = Stub()
    with pytest.raises(error, match=reason):
        maker.corrupt(sample(), None)
    assert not options.inpainted.exists()


@needs_diffusers
def test_options_that_make_no_sense_are_refused(options):
    for name, value in (("steps", 0), ("guidance", -1.0), ("dilation", -1)):
        with pytest.raises(ValueError, match=f"--inpainting-{name} (is )?{value}[ ,:]"):
            CORRUPTIONS["inpainting"].configuration(replace(options, **{f"inpainting_{name}": value}))


@needs_diffusers
def test_the_configuration_holds_what_the_images_depend_on(options):
    found = CORRUPTIONS["inpainting"].configuration(options)
    assert found["region"] == {"shape": "contour", "dilation": 3}
    version = found["inpainting"].pop("version")
    assert found["inpainting"] == {"model": "tiny-inpainting", "scheduler": "DDIM", "steps": 2, "guidance": 8.0, "dtype": "float32"}
    assert len(version) == 12
    assert CORRUPTIONS["sip"].configuration(options) == CORRUPTIONS["gaussian_noise"].configuration(options) == {}
