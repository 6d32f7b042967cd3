"""The rendered data set: what the pairs share, what is asked, and that a seed says everything."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from data_prep.scenes.questions import ASKED
from data_prep.scenes.rendering import BACKGROUNDS, _coverage, is_held_out, random_scene, render
from data_prep.scenes.table import EVALUATION_SEED, draw_pair, make_shapes, true_options
from data_prep.tables import schema as samples
from data_prep.tables.images import bounding_box

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dataset():
    return make_shapes(20, 0, progress=False)


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(5)
    return [draw_pair(rng, asked, "test", correct_first=bool(n % 2)) for asked in ASKED for n in range(60)]


def test_the_table_is_valid_and_balanced(dataset):
    samples.validate(dataset)
    assert dataset["category"][:] == [asked for asked in ASKED for _ in range(20)]
    assert dataset["sample_id"][20] == "shapes-shape-0000"
    for asked in ASKED:
        assert sum(dataset.filter(lambda row, asked=asked: row["category"] == asked)["correct_first"]) == 10
    assert all(noun in question for noun, question in zip(dataset["noun"], dataset["question"], strict=True))


def test_masks_boxes_and_attributes_agree(dataset):
    for row in dataset:
        mask = np.asarray(row["object_mask"])
        assert set(np.unique(mask)) == {0, 255}
        assert (mask > 127).sum() >= 40
        assert tuple(row["object_box"]) == bounding_box(mask > 127)
        clean, corrupt = json.loads(row["clean_attributes"]), json.loads(row["corrupt_attributes"])
        changes = [(a, b) for a, b in zip(clean, corrupt, strict=True) if a != b]
        assert len(changes) == 1
        before, after = changes[0]
        assert {name for name in before if before[name] != after[name]} == {row["changed_attribute"]} == {row["category"]}
        assert before[row["category"]] == row["correct_answer"]
        assert after[row["category"]] == row["incorrect_answer"]


def test_exactly_one_option_is_true_of_each_image(drawn):
    for scene, corrupt, question in drawn:
        assert true_options(scene, question) == {question.correct}
        assert true_options(corrupt, question) == {question.incorrect}


def test_images_differ_only_where_the_target_is(drawn):
    for scene, corrupt, question in drawn:
        (clean_pixels, clean_masks), (corrupt_pixels, corrupt_masks) = render(scene), render(corrupt)
        touched = [_coverage(these.objects[question.target])[2] > 0 for these in (scene, corrupt)]
        near = binary_dilation(clean_masks[question.target] | corrupt_masks[question.target], iterations=4)
        differ = (clean_pixels != corrupt_pixels).any(-1)
        assert differ.any()
        assert not (differ & ~(touched[0] | touched[1])).any()
        assert not (differ & ~near).any()  # beyond the mask there are thin, faint tips of stars and triangles
        others = [(a, b) for n, (a, b) in enumerate(zip(scene.objects, corrupt.objects, strict=True)) if n != question.target]
        assert all(a == b for a, b in others)
        assert (scene.background, scene.seed) == (corrupt.background, corrupt.seed)


def test_test_scenes_share_no_combination_and_no_background_with_training():
    assert not set(BACKGROUNDS["train"]) & set(BACKGROUNDS["test"])
    for split, held_out in (("train", False), ("validation", False), ("test", True)):
        rng = np.random.default_rng(1)
        for _ in range(100):
            scene = random_scene(rng, split)
            assert {is_held_out(o.colour, o.shape, o.texture) for o in scene.objects} == {held_out}
            assert scene.background in BACKGROUNDS["test" if held_out else "train"]


def test_the_same_seed_gives_the_same_table_and_a_prefix_of_a_larger_one(dataset):
    assert samples.fingerprint(make_shapes(20, 0, progress=False)) == samples.fingerprint(dataset)
    larger = make_shapes(40, 0, progress=False)
    rows = [first + n for first in range(0, 160, 40) for n in range(20)]
    assert samples.fingerprint(larger.select(rows)) == samples.fingerprint(dataset)
    assert samples.fingerprint(make_shapes(20, 1, progress=False)) != samples.fingerprint(dataset)
    assert samples.fingerprint(make_shapes(20, 0, "train", progress=False)) != samples.fingerprint(dataset)


def test_evaluation_scenes_are_not_drawn_from_the_training_seed():
    source = (ROOT / "data_prep" / "scenes" / "training.py").read_text()  # read, as importing it takes seconds
    assert "TRAINING_SEED = " in source
    assert f"{EVALUATION_SEED:_}" not in source


@pytest.mark.parametrize(("arguments", "says"), [((0, 0), "per_category is 0"), ((1, -1), "seed is -1"), ((1, 0, "holdout"), "holdout")])
def test_arguments_that_make_no_table(arguments, says):
    with pytest.raises(ValueError, match=says):
        make_shapes(*arguments, progress=False)


def test_command_line_from_another_folder(tmp_path):
    script = [sys.executable, str(ROOT / "data_prep" / "shapes.py")]
    arguments = ["--out", "t", "--per-category", "2", "--seed", "4"]
    done = subprocess.run([*script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 samples (2 colour, 2 shape, 2 texture, 2 position)" in done.stdout
    record = samples.provenance(tmp_path / "t")
    assert (record["seed"], record["split"], record["left_out"]) == (4, "test", [])
    assert record["fingerprint"] == samples.fingerprint(make_shapes(2, 4, progress=False))
    failed = subprocess.run([*script, "--per-category", "0"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "per_category is 0" in failed.stderr
    assert "Traceback" not in failed.stderr
