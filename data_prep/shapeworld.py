"""ShapeWorld: flat coloured shapes on black -> questions such as "Is the cross red or blue?".

In: folders of a generated data set (any of its kinds: agreement, classification, ...) with images and world models; captions and labels
are not read. Out: a sample table with the categories colour and shape, with masks and boxes. The corrupt image is the most similar world
in which the same description fits one shape, of the other value.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from data_prep.scenes.partners import PARTNERS, Partners, Thing
from data_prep.tables.candidates import Candidate, Preparation, Source, correct_comes_first, left_out_entry, rng_of
from data_prep.tables.counterparts import LeftOutEntries, file_hash, images_hash, mixed, wrong_layout
from data_prep.tables.images import bounding_box, open_image
from data_prep.tables.readers import main, reader
from data_prep.tables.sample import Excluded, SampleError

KINDS = {"square": "rectangle", "circle": "ellipse"}  # the first is one of the second
MASKS = "drawn from the world models: the pixels whose centres lie inside the shape and inside no shape that was drawn after it"
LAYOUT = """\
  examples/
    agreement/existential-oneshape/
      world_model.json
      world-0.png
      world-1.png
      ...
    classification/shape-count/
      ...
(any folder at or above one with world_model.json; unpack archives first)"""

_GOLDEN = (math.sqrt(5) - 1) / 2


@reader(
    title="ShapeWorld",
    categories="colour, shape",
    corrupt_image="the most similar world with another answer",
    masks="exact",
)
@dataclass(kw_only=True)
class ShapeWorld(Preparation):
    """Make a sample table of ShapeWorld.

    Each world asks for the colour of a shape that is the only one of its kind, and for the shape of the only thing of a colour. The
    partner is the most similar world in which the same description fits one thing of another value.

    Example: python -m data_prep.shapeworld --folder examples/agreement --out data/shapeworld
    """

    folder: Path
    """Folder of a data set, or one above several, which then share their partners."""
    out: Path = Path("data/shapeworld")
    """Folder that receives the sample table; an older table there is replaced."""

    def read(self) -> Source:
        return read_shapeworld(self.folder, seed=self.seed)


@dataclass(frozen=True)
class World:
    """One image with its model; entities in the order in which they were drawn."""

    name: str
    image: Path
    where: str
    entities: tuple[Mapping[str, Any], ...]


def read_shapeworld(folder: Path, *, seed: int = 0) -> Source:
    """List the samples of a data set: one for each world and attribute, about a shape drawn from those that can be asked about.

    Raises
    ------
    SampleError
        For a folder that is missing or has no world models, a model file of another form, and when no world has its image.
    """
    models = sorted(folder.rglob("world_model.json"))
    if not models:
        raise wrong_layout(folder, "no world_model.json in it or below it" if folder.is_dir() else "no such folder", LAYOUT)
    worlds: list[World] = []
    left_out: LeftOutEntries = []
    for path in models:
        here, without = _read_worlds(path, folder)
        worlds += here
        left_out += without
    if not worlds:
        raise wrong_layout(folder, f"no world has an image; {left_out[0]['reason'] if left_out else 'the models are empty'}", LAYOUT)

    partners = Partners([[_thing(entity) for entity in world.entities] for world in worlds], KINDS)
    candidates = []
    for asked in ("colour", "shape"):
        askable = partners.askable(asked)
        for number, world in enumerate(worlds):
            sample_id = f"{world.name}-{asked}"
            if number not in askable:
                reason = Excluded(f"no shape is the only one of its description and has a partner of another {asked}")
                left_out.append(left_out_entry(sample_id, world.where, reason))
                continue
            target = int(rng_of(seed, "target", sample_id).choice(askable[number]))
            make = partial(_row, worlds, partners, number, target, asked, correct_comes_first(seed, sample_id))
            candidates.append(Candidate(sample_id, asked, world.where, make))
    hashes = {path.relative_to(folder).as_posix(): file_hash(path) for path in models}
    provenance = {"folder": folder.resolve().name, "sha256": hashes, "partners": PARTNERS, "masks": MASKS}
    files = images_hash(folder, (world.image.relative_to(folder).as_posix() for world in worlds))
    return Source("shapeworld", mixed(candidates, seed), left_out, provenance, files)


def _read_worlds(path: Path, root: Path) -> tuple[list[World], LeftOutEntries]:
    """The worlds of one file of models that have images; model number k belongs to world-k."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{path}: not JSON ({error})") from error
    if not isinstance(records, list):
        raise SampleError(f"{path}: not a list of worlds, one for each image")
    base = path.parent.relative_to(root).as_posix()
    base = "" if base == "." else f"{base}/"
    numbers = (re.fullmatch(r"world-(\d+)\.(png|bmp)", file.name) for file in path.parent.iterdir())
    images = {int(match[1]): match[0] for match in numbers if match}
    worlds, left_out = [], []
    for number, record in enumerate(records):
        name, where = f"{base}world-{number}", f"{base}world_model.json, world {number}"
        try:
            if number not in images:
                raise SampleError(f"there is no image world-{number}.png")
            worlds.append(World(name, path.parent / images[number], where, _entities(record)))
        except SampleError as error:
            left_out.append(left_out_entry(name, where, error))
    beyond = sorted(number for number in images if number >= len(records))
    left_out += [{"sample": f"{base}world-{n}", "reason": f"{base}world_model.json has {len(records)} worlds"} for n in beyond]
    return worlds, left_out


def _entities(record: Any) -> tuple[Mapping[str, Any], ...]:
    """A world's shapes with what is needed of them: attributes, and numbers in parts of the image's side."""
    found = []
    try:
        for entity in record["entities"]:
            center, size = entity["center"], entity["shape"]["size"]
            numbers = [float(value) for value in (center["x"], center["y"], size["x"], size["y"], entity["rotation"])]
            names = {"shape": entity["shape"]["name"], "colour": entity["color"]["name"]}
            found.append(names | dict(zip(("x", "y", "width", "height", "turn"), numbers, strict=True)))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SampleError(f"not a world with entities ({type(error).__name__}: {error})") from error
    for entity in found:
        numbers = list(entity.values())[2:]
        if (
            entity["shape"] not in _INSIDE
            or not isinstance(entity["colour"], str)
            or not np.isfinite(numbers).all()
            or min(numbers[2:4]) <= 0
        ):
            raise SampleError(f"not a known shape: {entity}")
    return tuple(found)


def _thing(entity: Mapping[str, Any]) -> Thing:
    return Thing({name: entity[name] for name in ("colour", "shape")}, (entity["x"], entity["y"]))


def _row(worlds: Sequence[World], partners: Partners, number: int, target: int, asked: str, correct_first: bool) -> dict[str, Any]:
    world, entity = worlds[number], worlds[number].entities[target]
    other, counterpart = partners.nearest(number, target, asked)
    correct, incorrect = entity[asked], worlds[other].entities[counterpart][asked]
    first, second = (correct, incorrect) if correct_first else (incorrect, correct)
    if asked == "colour":
        noun, question = entity["shape"], f"Is the {entity['shape']} {first} or {second}?"
    else:
        noun, question = "shape", f"Is the {entity['colour']} shape {_article(first)} {first} or {_article(second)} {second}?"
    clean = open_image(world.image, f"{world.name}{world.image.suffix}")
    if clean.width != clean.height:
        raise SampleError(f"the image has {clean.width} x {clean.height} pixels; worlds are square")
    mask = visible(world.entities, target, clean.width)
    return {
        "question": question,
        "correct_answer": correct,
        "incorrect_answer": incorrect,
        "noun": noun,
        "clean_image": clean,
        "corrupt_image": open_image(worlds[other].image, f"{worlds[other].name}{worlds[other].image.suffix}"),
        "object_mask": Image.fromarray(mask * np.uint8(255)),
        "object_box": list(bounding_box(mask)) if mask.any() else [],
        "changed_attribute": asked,
    }


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def visible(entities: Sequence[Mapping[str, Any]], target: int, side: int) -> np.ndarray:
    """The visible pixels of a shape, [side, side] of bool: inside it and inside none that was drawn later."""
    covered = [_inside(entity, side) for entity in entities[target:]]
    return covered[0] & ~np.any([np.zeros_like(covered[0]), *covered[1:]], axis=0)


def _inside(entity: Mapping[str, Any], side: int) -> np.ndarray:
    """The pixels whose centres lie in a shape. The renderer shows the unit square with a border of two pixels around it."""
    border = 2 / side
    place = np.arange(side) / (side - 1) * (1 + 2 * border) - border
    x, y = place[None, :] - entity["x"], place[:, None] - entity["y"]
    angle = 2 * math.pi * entity["turn"]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return _INSIDE[entity["shape"]](along / entity["width"], across / entity["height"])


_INSIDE = {  # of coordinates in half widths and half heights, y downwards
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 1,
    "rectangle": lambda x, y: np.maximum(abs(x), abs(y)) <= 1,
    "circle": lambda x, y: np.hypot(x, y) <= 1,
    "ellipse": lambda x, y: np.hypot(x, y) <= 1,
    "semicircle": lambda x, y: (np.hypot(x, (y + 1) / 2) <= 1) & (y >= -1),
    "triangle": lambda x, y: (y >= -1) & (2 * abs(x) + y <= 1),
    "pentagon": lambda x, y: (
        (y >= np.maximum(0, (abs(x) - _GOLDEN) / (1 - _GOLDEN) * 2 * _GOLDEN) - 1) & (y <= 1 - abs(x) * 2 * (1 - _GOLDEN))
    ),
    "cross": lambda x, y: (np.maximum(abs(x), abs(y)) <= 1) & (np.minimum(abs(x), abs(y)) <= 1 / 3),
}


if __name__ == "__main__":
    main(ShapeWorld)
