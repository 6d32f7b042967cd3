"""What data sets on COCO's images share: the image files, the words that name its 80 object categories, and where the objects are.

In: a folder of images, an instances file of COCO. Out: paths by image id; the category that a word names; masks and boxes.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from data_prep.tables.counterparts import image_files, wrong_layout
from data_prep.tables.sample import SampleError

IMAGES = """\
  images/  (or below it, in train2014/ and val2014/)
    COCO_train2014_000000023004.jpg  (or COCO_val2014_..., COCO_QA000000023004.jpg, 000000023004.jpg)
    ..."""
WORDS = Path(__file__).parents[1] / "wording" / "word_lists" / "coco_objects.json"

_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_|COCO_QA)?(\d{12})\.jpe?g", re.IGNORECASE)


def find_images(folder: Path) -> dict[int, Path]:
    """The image files below a folder by COCO's image id; of several files with one id, the first in alphabetical order.

    Raises
    ------
    SampleError
        When the folder is missing or has no image named by an id.
    """
    if not folder.is_dir():
        raise wrong_layout(folder, "no such folder", IMAGES)
    found: dict[int, Path] = {}
    for file in image_files(folder, folder)[0]:
        if name := _NAME.fullmatch(Path(file).name):
            found.setdefault(int(name[1]), folder / file)
    if not found:
        raise wrong_layout(folder, "no image named by its COCO id", IMAGES)
    return found


@dataclass(frozen=True)
class Noun:
    """A word (or two) for an object: its singular, its plural and the COCO category that it names."""

    singular: str
    plural: str
    category: str


@cache
def nouns() -> dict[str, Noun]:
    """Singular and plural words -> what they name."""
    import inflect  # takes two seconds to load

    engine = inflect.engine()
    found: dict[str, Noun] = {}
    for category, others in json.loads(WORDS.read_text(encoding="utf-8")).items():
        for word in (category, *others):
            plural = word if word == "skis" else engine.plural_noun(word)  # type: ignore[arg-type]
            noun = Noun(word, plural, category)
            found |= {plural: noun, word: noun}
    return found


@dataclass(frozen=True)
class Objects:
    """The objects of some images.

    Attributes
    ----------
    sizes : image id -> width, height
    found : image id and category -> its annotations in COCO's form
    """

    sizes: dict[int, tuple[int, int]]
    found: dict[tuple[int, str], list[dict[str, Any]]]

    def place(self, image_id: int, category: str, image: Image.Image) -> dict[str, Any]:
        """The columns `object_mask` and `object_box` of the image's only object of a category; empty when there is none, or several.

        Raises
        ------
        SampleError
            When the image has not the size that the annotations are for, or they cannot be read.
        """
        found = self.found.get((image_id, category), [])
        if len(found) != 1 or found[0].get("iscrowd"):
            return {}
        if image.size != self.sizes[image_id]:
            expected = "{} x {}".format(*self.sizes[image_id])
            raise SampleError(f"the image is {image.width} x {image.height} pixels, its objects are given for {expected}")
        try:
            x, y, width, height = found[0]["bbox"]
            outlines = found[0].get("segmentation")
            mask = _mask(outlines, image.size) if isinstance(outlines, list) else None
        except (LookupError, TypeError, ValueError) as error:
            raise SampleError(f"the {category} of image {image_id} has no readable place ({error!r})") from error
        right, bottom = min(image.width, math.ceil(x + width)), min(image.height, math.ceil(y + height))
        return {"object_box": [max(0, math.floor(x)), max(0, math.floor(y)), right, bottom], "object_mask": mask}


def _mask(polygons: list[list[float]], size: tuple[int, int]) -> Image.Image | None:
    """The inside of polygons [x, y, x, y, ...]; None when no pixel is inside."""
    mask = Image.new("L", size)
    for polygon in polygons:
        ImageDraw.Draw(mask).polygon(list(zip(polygon[::2], polygon[1::2], strict=True)), fill=255)
    return mask if mask.getbbox() else None


def read_objects(path: Path, images: Collection[int]) -> Objects:
    """The objects of these images, from a file such as instances_train2014.json.

    Raises
    ------
    SampleError
        When the file is missing or not of this form, or has none of the images.
    """

    def needed(record: dict[str, Any]) -> dict[str, Any]:
        """Nothing for the annotations of other images, so that a million outlines do not fill the memory."""
        return record if "bbox" not in record or record.get("image_id") in images else {}

    try:
        with path.open(encoding="utf-8") as file:
            table = json.load(file, object_hook=needed)
        names = {category["id"]: category["name"] for category in table["categories"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in table["images"] if image["id"] in images}
        found = defaultdict(list)
        for annotation in table["annotations"]:
            if annotation and annotation["image_id"] in sizes:
                found[annotation["image_id"], names[annotation["category_id"]]].append(annotation)
    except FileNotFoundError as error:
        raise SampleError(f"{path}: no such file") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise SampleError(f'{path}: not COCO instances, {{"images": ..., "annotations": ..., "categories": ...}} ({error!r})') from error
    if not sizes:
        raise SampleError(f"{path}: has none of the images; take the file of their split")
    return Objects(sizes, dict(found))
