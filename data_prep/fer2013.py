"""FER-2013: faces with one of seven emotions -> questions such as "Is this person feeling happy or angry?".

In: folders of images named by emotion (as on Kaggle), or the competition's table fer2013.csv. Out: a sample table with one category for
each emotion. The corrupt image is a face with the other emotion; the two are of different groups (positive, negative, neutral).
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from PIL import Image

from data_prep.tables.candidates import Preparation, Source, left_out_entry
from data_prep.tables.counterparts import LeftOutEntries, Picture, file_hash, image_files, images_hash, mixed, pair_up, wrong_layout
from data_prep.tables.images import open_image
from data_prep.tables.readers import main, reader
from data_prep.tables.sample import Excluded, SampleError

GROUPS = {  # in the order of the table's numbers
    "angry": "negative",
    "disgusted": "negative",
    "fearful": "negative",
    "happy": "positive",
    "sad": "negative",
    "surprised": "neutral",
    "neutral": "neutral",
}
EMOTIONS = tuple(GROUPS)
NAMES = {name: name for name in EMOTIONS} | {"disgust": "disgusted", "fear": "fearful", "surprise": "surprised"}
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "publictest"), "validation"),
    **dict.fromkeys(("test", "privatetest"), "test"),
}
SIDE = 48  # pixels
LAYOUT = """\
  images/
    train/
      angry/*.jpg
      disgust/*.jpg
      ...
    validation/
      ...
or a table fer2013.csv with the columns emotion, pixels, Usage"""

_COPY = re.compile(r".*\.(jpe?g|png)\d*", re.IGNORECASE)  # of a name without its ending


@reader(
    title="FER-2013",
    categories="seven emotions",
    corrupt_image="a face of another group of emotions",
)
@dataclass(kw_only=True)
class Fer2013(Preparation):
    """Make a sample table of FER-2013.

    Each face asks for its emotion against one of another group: happy is positive; angry, disgusted, fearful and sad are negative;
    neutral and surprised are neutral.

    Example: python -m data_prep.fer2013 --source images --out data/fer2013 --limit 500
    """

    source: Path
    """Folder with the images in folders named by emotion, or the table fer2013.csv."""
    out: Path = Path("data/fer2013")
    """Folder that receives the sample table; an older table there is replaced."""
    split: Literal["train", "validation", "test", "all"] = "train"
    """Part of the data: the folder above the emotions' folders, or the table's Usage (validation: PublicTest, test: PrivateTest)."""

    def read(self) -> Source:
        return read_fer2013(self.source, split=self.split, seed=self.seed)


def read_fer2013(source: Path, *, split: str = "train", seed: int = 0) -> Source:
    """List the samples of FER-2013.

    Raises
    ------
    SampleError
        For a source that is missing, of another layout, a Git LFS pointer, or without images of the split.
    """
    if source.is_dir():
        found, left_out = _read_folders(source)
        provenance = {"folder": source.name, "split": split}
    elif source.is_file():
        found, left_out = _read_table(source)
        provenance = {"table": source.name, "sha256": file_hash(source), "split": split}
    else:
        raise wrong_layout(source, "no such file or folder", LAYOUT)
    if not found:
        raise wrong_layout(source, "no image in a folder named by an emotion", LAYOUT)
    pictures = [picture for part, picture in found if split in (part, "all")]
    if not pictures:
        here = ", ".join(sorted({part for part, _ in found} - {""})) or "none; all images are taken with --split all"
        raise SampleError(f"{source}: no images of the split {split!r}; splits found: {here}")
    candidates, alone = pair_up(pictures, lambda first, second: GROUPS[first] != GROUPS[second], seed)
    reason = f"no face has an emotion of another group than {GROUPS[alone[0]]!r}" if alone else ""
    left_out += [left_out_entry(picture.sample_id, "", Excluded(reason)) for picture in pictures if picture.answer in alone]
    files = images_hash(source, (picture.sample_id for picture in pictures)) if source.is_dir() else ""
    return Source("fer2013", mixed(candidates, seed), left_out, provenance, files)


def _picture(sample_id: str, where: str, emotion: str, image: Callable[[], Image.Image]) -> Picture:
    return Picture(
        sample_id=sample_id,
        category=emotion,
        where=where,
        answer=emotion,
        open=image,
        ask="Is this person feeling {} or {}?".format,
        columns=lambda _: {"noun": "person", "changed_attribute": "emotion"},
    )


def _read_folders(root: Path) -> tuple[list[tuple[str, Picture]], LeftOutEntries]:
    """Each picture with its split; "" where no folder names one."""
    files, left_out = image_files(root, root)
    found = []
    for file in files:
        *above, folder, name = (*root.resolve().parts, *Path(file).parts)
        if folder.lower() not in NAMES:
            left_out.append({"sample": file, "reason": f"its folder {folder!r} is not named by an emotion"})
        elif _COPY.fullmatch(Path(name).stem):
            left_out.append(left_out_entry(file, "", Excluded("an augmented copy of another image, by its double ending")))
        else:
            split = SPLITS.get(above[-1].lower(), "")
            found.append((split, _picture(file, file, NAMES[folder.lower()], partial(open_image, root / file, file))))
    return found, left_out


def _read_table(path: Path) -> tuple[list[tuple[str, Picture]], LeftOutEntries]:
    """Each row's picture with its split; "" where the table has no column Usage. Pixels are read when they are needed."""
    found: list[tuple[str, Picture]] = []
    left_out: LeftOutEntries = []
    with path.open("rb") as table:
        header = table.readline().decode("utf-8-sig", "replace")
        if header.startswith("version https://git-lfs"):
            raise SampleError(f"{path}: is a Git LFS pointer, not the table itself (run `git lfs pull`)")
        columns = [name.strip().lower() for name in header.split(",")]
        if not {"emotion", "pixels"} <= set(columns):
            raise wrong_layout(path, f"the first line does not name the columns emotion and pixels: {header.strip()[:80]!r}", LAYOUT)
        start, number = table.tell(), 1
        while line := table.readline():
            number, here, start = number + 1, start, table.tell()
            if not line.strip():
                continue
            sample_id = f"row-{number:05d}"
            try:
                cells = _cells(line, columns)
                emotion, usage = cells["emotion"], cells.get("usage", "")
                if emotion not in map(str, range(len(EMOTIONS))):
                    raise SampleError(f"the emotion is {emotion!r}, not a number from 0 to {len(EMOTIONS) - 1}")
                if "usage" in columns and usage.lower() not in SPLITS:
                    raise SampleError(f"the Usage is {usage!r}, not Training, PublicTest or PrivateTest")
            except SampleError as error:
                left_out.append({"sample": sample_id, "reason": f"line {number}: {error}"})
                continue
            image = partial(_face, path, here, columns, f"{path.name}, line {number}")
            picture = _picture(sample_id, f"{path.name}, line {number}", EMOTIONS[int(emotion)], image)
            found.append((SPLITS.get(usage.lower(), ""), picture))
    if not found:
        raise SampleError(f"{path}: no row can be used", [f"{entry['sample']}, {entry['reason']}" for entry in left_out[:10]])
    return found, left_out


def _cells(line: bytes, columns: list[str]) -> dict[str, str]:
    cells = [cell.strip() for cell in next(csv.reader([line.decode("utf-8", "replace")]))]
    if len(cells) != len(columns):
        raise SampleError(f"{len(cells)} cells for {len(columns)} columns")
    return dict(zip(columns, cells, strict=True))


def _face(path: Path, start: int, columns: list[str], where: str) -> Image.Image:
    """The image in the row that starts at a byte of the table."""
    with path.open("rb") as table:
        table.seek(start)
        numbers: list[Any] = _cells(table.readline(), columns)["pixels"].split()
    if len(numbers) != SIDE * SIDE:
        raise SampleError(f"{where}: {len(numbers)} pixels, not {SIDE} x {SIDE}")
    if not all(number.isascii() and number.isdigit() and int(number) < 256 for number in numbers):
        raise SampleError(f"{where}: the pixels are not whole numbers from 0 to 255")
    return Image.fromarray(np.array(numbers, int).astype(np.uint8).reshape(SIDE, SIDE)).convert("RGB")


if __name__ == "__main__":
    main(Fer2013)
