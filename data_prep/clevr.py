"""CLEVR: rendered scenes of simple solids -> questions such as "Is the large metal cube red or blue?".

In: a scenes file and its images (or the yes/no questions of Palit et al.). Out: a sample table with the categories colour, shape, material
and size. The corrupt image is another scene in which the same description fits one object, of the other value. Only that is guaranteed:
the other objects and all places differ, as little as the data set allows (see `scene_partners`).
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ast
import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from data_prep.scenes.partners import PARTNERS, Partners, Thing
from data_prep.tables.candidates import Candidate, Preparation, Source, correct_comes_first, left_out_entry, rng_of
from data_prep.tables.counterparts import LeftOutEntries, file_hash, images_hash, wrong_layout
from data_prep.tables.images import bounding_box, open_image
from data_prep.tables.readers import main, reader
from data_prep.tables.sample import Excluded, SampleError

KEYS = {"colour": "color", "shape": "shape", "material": "material", "size": "size"}  # what is asked: its name in the scenes file
FORMS = {
    "colour": "Is the {size} {material} {shape} {first} or {second}?",
    "shape": "Is the {size} {colour} {material} object a {first} or a {second}?",
    "material": "Is the {size} {colour} {shape} made of {first} or {second}?",
    "size": "Is the {colour} {material} {shape} {first} or {second}?",
}
FOCAL_LENGTH = 35 / 32  # of CLEVR's camera, in image widths
EXTENT = {"sphere": (1.0, 1.0), "cylinder": (1.0, 1.34), "cube": (1.27, 1.46)}  # in half heights: width, height seen from 26 degrees above
BOXES = "from the objects' masks where the scenes have them; else approximated from centre, depth and size, as if nothing hid the object"
LAYOUT = """\
  CLEVR_v1.0/
    images/val/CLEVR_val_000000.png ...
    scenes/CLEVR_val_scenes.json
(train likewise; for scenes of your own give --scenes and --images)"""


@reader(
    title="CLEVR",
    categories="colour, shape, material, size",
    corrupt_image="the most similar scene with another answer",
    masks="boxes",
)
@dataclass(kw_only=True)
class Clevr(Preparation):
    """Make a sample table of CLEVR.

    Each scene asks for the colour, shape, material and size of an object that its other attributes describe uniquely. The partner is the
    most similar scene in which the same description fits one object with another value.

    Example: python -m data_prep.clevr --folder CLEVR_v1.0 --split val --out data/clevr --limit 500
    """

    folder: Path = Path("CLEVR_v1.0")
    """The extracted data set (CLEVR_v1.0 or CLEVR_CoGenT_v1.0)."""
    out: Path = Path("data/clevr")
    """Folder that receives the sample table; an older table there is replaced."""
    split: str = "val"
    """Part of the data: train or val (of CoGenT: trainA, valA or valB)."""
    scenes: Path | None = None
    """Scenes file, for scenes of your own; default: scenes/CLEVR_<split>_scenes.json."""
    images: Path | None = None
    """Folder of the images; default: images/<split>."""
    palit_csv: Path | None = None
    """Ask the yes/no questions of this table instead (clevr_vqa_dataset_3.csv of Palit et al.); scenes are then not read. The partner is
    drawn from the images in which the same question has the other answer."""

    def read(self) -> Source:
        images = self.images or self.folder / "images" / self.split
        if self.palit_csv:
            return read_palit(self.palit_csv, images, seed=self.seed)
        scenes = self.scenes or self.folder / "scenes" / f"CLEVR_{self.split}_scenes.json"
        return read_clevr(scenes, images, seed=self.seed)


@dataclass(frozen=True)
class _Scene:
    name: str
    image: Path
    where: str
    things: tuple[Thing, ...]
    records: tuple[Mapping[str, Any], ...]


def read_clevr(scenes_file: Path, images: Path, *, seed: int = 0) -> Source:
    """List the samples of a scenes file: one for each scene and attribute, about an object drawn from those that can be asked about.

    Raises
    ------
    SampleError
        For a file or folder that is missing or of another form, and when no scene has its image.
    """
    there = _image_names(images)
    scenes, left_out = [], []
    seen: set[str] = set()
    for number, record in enumerate(_scene_records(scenes_file)):
        where = f"{scenes_file.name}, scene {number}"
        try:
            scene = _scene(record, images, where)
            if scene.name in seen:
                raise SampleError(f"{scene.image.name} is already used")
            if scene.image.name not in there:
                raise SampleError(f"{scene.image.name}: no such file in the folder {images.name!r}")
        except SampleError as error:
            name = record.get("image_filename") if isinstance(record, dict) else None
            left_out.append(left_out_entry(str(name or f"scene {number}"), where, error))
            continue
        seen.add(scene.name)
        scenes.append(scene)
    if not scenes:
        reasons = [f"{entry['sample']}: {entry['reason']}" for entry in left_out[:3]]
        raise SampleError(f"{scenes_file}: no scene can be used; the first reasons:", reasons)

    partners = Partners([scene.things for scene in scenes])
    candidates = []
    for asked in KEYS:
        askable = partners.askable(asked)
        for number, scene in enumerate(scenes):
            sample_id = f"{scene.name}-{asked}"
            if number not in askable:
                reason = Excluded(f"no object is the only one of its description and has a partner of another {asked}")
                left_out.append(left_out_entry(sample_id, scene.where, reason))
                continue
            target = int(rng_of(seed, "target", sample_id).choice(askable[number]))
            make = partial(_row, scenes, partners, number, target, asked, correct_comes_first(seed, sample_id))
            candidates.append(Candidate(sample_id, asked, scene.where, make))
    provenance = {"scenes": scenes_file.name, "sha256": file_hash(scenes_file), "partners": PARTNERS, "boxes": BOXES}
    return Source("clevr", candidates, left_out, provenance, images_hash(images, (scene.image.name for scene in scenes)))


def _image_names(images: Path) -> set[str]:
    if not images.is_dir():
        raise wrong_layout(images, "no such folder", LAYOUT)
    return set(os.listdir(images))


def _scene_records(path: Path) -> list[Any]:
    if not path.is_file():
        raise wrong_layout(path, "no such file", LAYOUT)
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["scenes"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise SampleError(f'{path}: not a scenes file, {{"info": ..., "scenes": [...]}} ({error})') from error


def _scene(record: Any, images: Path, where: str) -> _Scene:
    things = []
    try:
        file, objects = record["image_filename"], record["objects"]
        for thing in objects:
            numbers = [float(number) for number in (*thing["pixel_coords"], *thing.get("3d_coords", ()))]
            things.append(Thing({asked: thing[key] for asked, key in KEYS.items()}, (numbers[0], numbers[1])))
            if not np.isfinite(numbers).all():
                raise ValueError(f"coordinates {numbers}")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SampleError(f"not a scene with image_filename and objects ({type(error).__name__}: {error})") from error
    if not isinstance(file, str) or Path(file).name != file:
        raise SampleError(f"image_filename is {file!r}, not a file's name")
    for thing in things:
        if not all(isinstance(value, str) and value for value in thing.attributes.values()):
            raise SampleError(f"an object has the attributes {thing.attributes}")
    return _Scene(Path(file).stem, images / file, where, tuple(things), tuple(objects))


def _row(scenes: Sequence[_Scene], partners: Partners, number: int, target: int, asked: str, correct_first: bool) -> dict[str, Any]:
    scene, thing = scenes[number], scenes[number].things[target]
    other, counterpart = partners.nearest(number, target, asked)
    correct, incorrect = thing.attributes[asked], scenes[other].things[counterpart].attributes[asked]
    first, second = (correct, incorrect) if correct_first else (incorrect, correct)
    clean = open_image(scene.image, scene.image.name)
    mask = _mask(scene.records[target], clean.size)
    return {
        "question": FORMS[asked].format(first=first, second=second, **thing.attributes),
        "correct_answer": correct,
        "incorrect_answer": incorrect,
        "noun": "object" if asked == "shape" else thing.attributes["shape"],
        "clean_image": clean,
        "corrupt_image": open_image(scenes[other].image, scenes[other].image.name),
        "object_mask": None if mask is None else Image.fromarray(mask * np.uint8(255)),
        "object_box": approximate_box(scene.records[target], clean.size) if mask is None else list(bounding_box(mask)),
        "changed_attribute": asked,
    }


def _mask(record: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray | None:
    """The object's mask, [height, width] of bool, or None where the scene has none."""
    rle = record.get("mask")
    if rle is None:
        return None
    width, height = size
    if not isinstance(rle, dict) or rle.get("size") != [height, width]:
        raise SampleError(f"the object's mask is not one of {width} x {height} pixels")
    counts = rle.get("counts")
    try:
        runs = run_lengths(counts) if isinstance(counts, str) else [int(run) for run in counts]  # type: ignore[union-attr]
    except (ValueError, TypeError, OverflowError) as error:
        raise SampleError(f"the object's mask cannot be read ({error})") from error
    if min(runs, default=0) < 0 or sum(runs) != width * height:
        raise SampleError(f"the object's mask has runs of {sum(runs)} pixels in all, not {width * height}, or a negative one")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def run_lengths(text: str) -> list[int]:
    """The run lengths in COCO's compressed mask text: five bits a character from "0" on, the sixth if more follow; from the third on,
    the difference from the run before the last one.

    Written here because pycocotools corrupts memory when the text is damaged.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no character of a compressed mask")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the text ends within a number")
    return runs


def approximate_box(record: Mapping[str, Any], size: tuple[int, int]) -> list[int]:
    """The box of an object from its centre, depth and size, cut at the image's border; empty where the scene does not give them.

    The camera of CLEVR's renderer is known; an object stands on the ground, so its half height is its third coordinate. The turn of a
    cube is not used (its mean width is taken), nor what hides the object.
    """
    extent, coords, place = EXTENT.get(record["shape"]), record["pixel_coords"], record.get("3d_coords", [])
    if extent is None or len(coords) < 3 or len(place) < 3 or coords[2] <= 0:
        return []
    width, height = size
    scale = FOCAL_LENGTH * width * place[2] / coords[2]
    x, y = scale * extent[0], scale * extent[1]
    left, top = max(0, math.floor(coords[0] - x)), max(0, math.floor(coords[1] - y))
    right, bottom = min(width, math.ceil(coords[0] + x)), min(height, math.ceil(coords[1] + y))
    return [left, top, right, bottom] if left < right and top < bottom else []


def read_palit(table: Path, images: Path, *, seed: int = 0) -> Source:
    """List the samples of the questions of Palit et al.: rows with an image's id and a Python list of ``{"question", "answer": 0 or 1}``.

    Raises
    ------
    SampleError
        For a table or folder that is missing or of another form.
    """
    there = _image_names(images)
    questions: dict[tuple[str, str], tuple[str, str, str]] = {}  # image and question -> id, where and answer
    left_out: LeftOutEntries = []
    for line, image, cell in _palit_rows(table):
        try:
            if Path(image).name != image or f"{image}.png" not in there:
                raise SampleError(f"{image}.png: no such file in the folder {images.name!r}")
            asked = _palit_questions(cell)
        except SampleError as error:
            left_out.append(left_out_entry(image, f"{table.name}, line {line}", error))
            continue
        for number, (question, answer) in enumerate(asked):
            sample_id, where = f"{image}-{number:02d}", f"{table.name}, line {line}, question {number}"
            if (image, question) in questions:
                left_out.append(left_out_entry(sample_id, where, Excluded("the image already has this question")))
            else:
                questions[image, question] = sample_id, where, answer
    images_of = defaultdict(list)
    for (image, question), (_, _, answer) in questions.items():
        images_of[question, answer].append(image)
    candidates = []
    for (image, question), (sample_id, where, answer) in questions.items():
        other = "no" if answer == "yes" else "yes"
        if not images_of[question, other]:
            reason = Excluded(f"in no image has the question {question!r} the answer {other!r}")
            left_out.append(left_out_entry(sample_id, where, reason))
            continue
        partner = str(rng_of(seed, "partner", sample_id).choice(images_of[question, other]))
        options = (answer, other) if correct_comes_first(seed, sample_id) else (other, answer)
        make = partial(_palit_row, images, image, partner, f"{question[:-1]}, {options[0]} or {options[1]}?", answer, other)
        candidates.append(Candidate(sample_id, "relation", where, make))
    files = images_hash(images, {f"{image}.png" for image, _ in questions})
    return Source("clevr_palit", candidates, left_out, {"table": table.name, "sha256": file_hash(table)}, files)


def _palit_rows(table: Path) -> list[tuple[int, str, str]]:
    """Line, image id and questions of each row."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [(reader.line_num, row.get("Image_IDs") or "", row.get("Questions_Answers") or "") for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise SampleError(f"{table}: the table cannot be read ({error})") from error
    columns = reader.fieldnames or ()
    if not {"Image_IDs", "Questions_Answers"} <= set(columns):
        raise SampleError(f"{table}: needs the columns Image_IDs and Questions_Answers; there are: {', '.join(columns)}")
    return rows


def _palit_questions(cell: str) -> list[tuple[str, str]]:
    """Questions with "yes" or "no"."""
    try:
        found = [(" ".join(entry["question"].split()), ("no", "yes")[[0, 1].index(entry["answer"])]) for entry in ast.literal_eval(cell)]
    except (ValueError, SyntaxError, TypeError, LookupError, AttributeError, MemoryError, RecursionError) as error:
        raise SampleError(f"Questions_Answers is not a Python list of questions and answers 0 or 1 ({error})") from error
    if wrong := [question for question, _ in found if not question.endswith("?")]:
        raise SampleError(f"{wrong[0]!r} does not end in a question mark")
    return found


def _palit_row(images: Path, image: str, partner: str, question: str, answer: str, other: str) -> dict[str, Any]:
    return {
        "question": question,
        "correct_answer": answer,
        "incorrect_answer": other,
        "clean_image": open_image(images / f"{image}.png", f"{image}.png"),
        "corrupt_image": open_image(images / f"{partner}.png", f"{partner}.png"),
        "changed_attribute": "relation",
    }


if __name__ == "__main__":
    main(Clevr)
