"""What data sets of labelled images share: finding the files, and drawing for each image another one that has another label.

In: folders of images, and `Picture`s that say what is true of them. Out: `Candidate`s of `data_prep/tables/candidates.py`.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from data_prep.tables.candidates import Candidate, correct_comes_first, left_out_entry, rng_of
from data_prep.tables.images import bounding_box, open_image
from data_prep.tables.sample import Excluded, SampleError

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
LeftOutEntries = list[dict[str, str]]


@dataclass(frozen=True)
class Picture:
    """A labelled image.

    Attributes
    ----------
    where : file, or table and line, that messages name
    answer : the label, as the question names it
    open : gives the image, or raises `ImageError`
    ask : gives the question from its first and second option
    columns : gives what else the sample states (noun, mask, box, ...) from the opened image
    """

    sample_id: str
    category: str
    where: str
    answer: str
    open: Callable[[], Image.Image]
    ask: Callable[[str, str], str]
    columns: Callable[[Image.Image], Mapping[str, Any]]


def pair_up(pictures: Sequence[Picture], admissible: Callable[[str, str], bool], seed: int) -> tuple[list[Candidate], list[str]]:
    """Draw a counterpart for each of some pictures of the same kind of thing: first its answer, then the image.

    Parameters
    ----------
    admissible : whether a second answer may be offered against a first, other one.

    Returns
    -------
    The candidates, and the answers that have no admissible counterpart among the pictures.
    """
    by_answer: dict[str, list[Picture]] = {}
    for picture in sorted(pictures, key=lambda picture: picture.sample_id):
        by_answer.setdefault(picture.answer, []).append(picture)
    candidates, alone = [], []
    for answer, own in sorted(by_answer.items()):
        rivals = [others for other, others in sorted(by_answer.items()) if other != answer and admissible(answer, other)]
        if rivals:
            candidates += [Candidate(p.sample_id, p.category, p.where, partial(_row, p, rivals, seed)) for p in own]
        else:
            alone.append(answer)
    return candidates, alone


def _row(picture: Picture, rivals: Sequence[Sequence[Picture]], seed: int) -> dict[str, Any]:
    rng = rng_of(seed, "counterpart", picture.sample_id)
    others = rivals[int(rng.integers(len(rivals)))]
    other = others[int(rng.integers(len(others)))]
    options = (picture.answer, other.answer) if correct_comes_first(seed, picture.sample_id) else (other.answer, picture.answer)
    clean = picture.open()
    return {
        "question": picture.ask(*options),
        "correct_answer": picture.answer,
        "incorrect_answer": other.answer,
        "clean_image": clean,
        "corrupt_image": other.open(),
        **picture.columns(clean),
    }


def mixed(candidates: Sequence[Candidate], seed: int) -> list[Candidate]:
    """The candidates in random order: a study that takes a table's first samples then sees all kinds."""
    return [candidates[i] for i in rng_of(seed, "mixed").permutation(len(candidates))]


def image_files(folder: Path, root: Path) -> tuple[list[str], LeftOutEntries]:
    """The images below a folder, as sorted paths from `root`, and the other files with the reason.

    Hidden files are not looked at. Links are followed, but not to a folder that they lie in.
    """
    found: list[str] = []
    left_out: LeftOutEntries = []
    above = {str(folder): {os.path.realpath(folder)}}  # of each folder, what it and those on the way to it really are
    for here, folders, names in os.walk(folder, onerror=_stop, followlinks=True):
        ways = above.pop(here)
        real = {name: os.path.realpath(os.path.join(here, name)) for name in folders if not name.startswith(".")}
        loops = [name for name in real if real[name] in ways]
        left_out += [_not_taken((Path(here) / name).relative_to(root).as_posix(), "a link to a folder that it lies in") for name in loops]
        folders[:] = [name for name in real if name not in loops]
        above |= {os.path.join(here, name): ways | {real[name]} for name in folders}
        for name in names:
            path = (Path(here) / name).relative_to(root).as_posix()
            if name.startswith("."):
                continue
            if not _is_text(path):
                left_out.append({"sample": ascii(path), "reason": "the name is not UTF-8; rename it"})
            elif not name.lower().endswith(IMAGE_ENDINGS):
                left_out.append(_not_taken(path, f"not an image by its ending ({', '.join(IMAGE_ENDINGS)})"))
            else:
                found.append(path)
    return sorted(found), sorted(left_out, key=lambda entry: entry["sample"])


def _not_taken(path: str, reason: str) -> dict[str, str]:
    return left_out_entry(path, "", Excluded(reason))


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # bytes that Python keeps as lone surrogates
        return False
    return True


def _stop(error: OSError) -> None:
    raise error


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def images_hash(root: Path, names: Iterable[str]) -> str:
    """SHA-256 of the names of some files below a folder, their sizes and times of last change, which tells them from others."""
    digest = hashlib.sha256()
    for name in sorted(set(names)):
        try:
            status = (root / name).stat()
            known = [name, status.st_size, status.st_mtime_ns]
        except (OSError, ValueError):
            known = [name]
        digest.update(json.dumps(known).encode())
    return digest.hexdigest()


def object_place(root: Path, mask: str, box: str, image: Image.Image) -> dict[str, Any]:
    """The columns `object_mask` and `object_box` from a table's cells; empty where both are.

    Parameters
    ----------
    mask : path of an image from `root`; more than 127 is the object
    box : left, top, right, bottom in pixels, the last two exclusive, with blanks, commas or semicolons between; cut at the image's edges.
        Without one, it is the mask's.

    Raises
    ------
    SampleError, ImageError
        When they cannot be read.
    """
    columns: dict[str, Any] = {}
    if mask:
        opened = open_image(inside(root, mask), mask).convert("L")
        columns = {"object_mask": opened, "object_box": bounding_box(np.asarray(opened) > 127)}
    if box:
        try:
            left, top, right, bottom = [round(float(edge)) for edge in re.split(r"[\s,;]+", box.strip("[]() "))]
        except (ValueError, OverflowError) as error:
            raise SampleError(f"the box {box!r} is not four numbers: left top right bottom") from error
        columns["object_box"] = [max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)]
    return columns


def inside(root: Path, path: str) -> Path:
    """A path that a table gives, from `root`.

    Raises
    ------
    SampleError
        When it is absolute, goes up (`..`), or is a web address.
    """
    if re.match(r"[a-z][a-z0-9+.-]+://", path, re.IGNORECASE):
        raise SampleError(f"{path!r} is a web address, and nothing is fetched here: download the image and give its path")
    windows = PureWindowsPath(path)  # knows both separators
    if windows.anchor or ".." in windows.parts:
        raise SampleError(f"the path {path!r} leaves the folder of images: paths must start from {root}, without '..'")
    return root / path


def wrong_layout(path: Path, why: str, layout: str) -> SampleError:
    """The error for a source that is missing or laid out otherwise; says what was expected."""
    return SampleError(f"{path}: {why}; expected:\n{layout}")
