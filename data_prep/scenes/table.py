"""Rendered scenes as a sample table: questions about pairs of scenes that differ in one attribute of one object."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image
from tqdm import tqdm

from data_prep.scenes.questions import ASKED, Question, ask
from data_prep.scenes.rendering import ATTRIBUTES, Scene, random_scene, render
from data_prep.tables import schema as samples
from data_prep.tables.images import bounding_box

EVALUATION_SEED = 1_000_000_009  # the training draws its scenes from another
SMALLEST_MASK = 40  # visible pixels of the object asked about


def make_shapes(per_category: int, seed: int, split: str = "test", progress: bool = True) -> Dataset:
    """Draw the data set.

    The target's mask has at least 40 visible pixels; half of the questions have the correct option first. The samples of a category
    depend on the seed alone, so a smaller table is a prefix of a larger one, category by category.

    Returns
    -------
    A sample table of 64 x 64 images with masks, boxes and attributes, `4 * per_category` rows.

    Raises
    ------
    ValueError
        For fewer than one sample, a negative seed or an unknown split.
    """
    if per_category < 1:
        raise ValueError(f"per_category is {per_category}: it must be 1 or more")
    if seed < 0:
        raise ValueError(f"seed is {seed}: it must be 0 or more")
    with tqdm(total=per_category * len(ASKED), desc="shapes", disable=not progress) as bar:

        def rows() -> Iterator[dict[str, Any]]:
            for category, asked in enumerate(ASKED):
                rng = np.random.default_rng([EVALUATION_SEED, seed, category])
                for number in range(per_category):
                    scene, corrupt, question = draw_pair(rng, asked, split, correct_first=number % 2 == 0)
                    yield _row(f"shapes-{asked}-{number:04d}", scene, corrupt, question)
                    bar.update()

        return samples.build(rows())


def draw_pair(rng: np.random.Generator, asked: str, split: str, correct_first: bool) -> tuple[Scene, Scene, Question]:
    """Draw scenes until one admits a question about `asked` with a visible target.

    Returns
    -------
    The clean scene, the corrupt one (the target's attribute is the incorrect answer) and the question.
    """
    while True:
        scene = random_scene(rng, split)
        question = ask(scene, asked, rng, counterfactual=True, correct_first=correct_first)
        if question is None or render(scene)[1][question.target].sum() < SMALLEST_MASK:
            continue
        corrupt = scene.with_attribute(question.target, asked, question.incorrect)
        for these, true in ((scene, question.correct), (corrupt, question.incorrect)):
            if true_options(these, question) != {true}:
                raise AssertionError(f"{question.text!r}: not exactly {true!r} is true of {these.objects}")
        return scene, corrupt, question


def true_options(scene: Scene, question: Question) -> set[str]:
    """The options that are true of some object that fits the words of the question."""
    described = {name: word for word in question.thing.split() for name, values in ATTRIBUTES.items() if word in values}
    fitting = [thing for thing in scene.objects if all(getattr(thing, name) == word for name, word in described.items())]
    return {getattr(thing, question.asked) for thing in fitting} & {question.correct, question.incorrect}


def _row(sample_id: str, scene: Scene, corrupt: Scene, question: Question) -> dict[str, Any]:
    pixels, masks = render(scene)
    mask = masks[question.target]
    return {
        "sample_id": sample_id,
        "dataset": "shapes",
        "category": question.asked,
        "question": question.text,
        "correct_answer": question.correct,
        "incorrect_answer": question.incorrect,
        "correct_first": question.correct_first,
        "noun": question.noun,
        "clean_image": Image.fromarray(pixels),
        "corrupt_image": Image.fromarray(render(corrupt)[0]),
        "object_mask": Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)),
        "object_box": bounding_box(mask),
        "changed_attribute": question.asked,
        "clean_attributes": json.dumps([thing.attributes() for thing in scene.objects]),
        "corrupt_attributes": json.dumps([thing.attributes() for thing in corrupt.objects]),
    }
