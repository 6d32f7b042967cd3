"""The sample table: one row is a two-choice question on a clean image, with the image of its semantic pair.

In: rows as plain dictionaries. Out: a `datasets.Dataset` with the columns of `FEATURES`, on disk a folder of Arrow files and
`data.json` (name, seed, counts, samples left out, fingerprint). `validate` says what a table must be; `load` always asks it.
"""

import hashlib
import io
import json
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, Value, load_from_disk
from PIL import Image

from data_prep.tables.images import DECODING_ERRORS, FORMATS
from data_prep.tables.sample import SampleError, option_spans

FEATURES = Features(
    {
        "sample_id": Value("string"),  # unique in the table
        "dataset": Value("string"),  # the data set's name
        "category": Value("string"),  # the task; effects are averaged and compared by it
        "question": Value("string"),  # without a model's chat template; names both options
        "corrupt_question": Value("string"),  # a ready-made text corruption; "" = none
        "correct_answer": Value("string"),  # true of clean_image, a whole word (or words) of the question
        "incorrect_answer": Value("string"),  # likewise; the one that is false of clean_image
        "correct_first": Value("bool"),  # the correct option stands first in the question
        "noun": Value("string"),  # the word(s) of the question that name the thing; "" = unknown
        "clean_image": datasets.Image(),  # RGB, PNG bytes
        "corrupt_image": datasets.Image(),  # RGB, PNG bytes: the semantic pair, of which incorrect_answer is true
        "object_mask": datasets.Image(),  # 8-bit grey, of clean_image's size; > 127 = the thing asked about; null = unknown
        "object_box": datasets.Sequence(Value("int32")),  # left, top, right, bottom in pixels, exclusive; empty = unknown
        "changed_attribute": Value("string"),  # what differs between the images; "" = unknown
        "clean_attributes": Value("string"),  # JSON list, one {attribute: value} per object; "" = unknown
        "corrupt_attributes": Value("string"),  # the same for corrupt_image
    }
)

_TEXTS = [name for name, feature in FEATURES.items() if feature == Value("string")]
_IMAGES = ["clean_image", "corrupt_image", "object_mask"]
_REQUIRED = ["sample_id", "dataset", "category", "question", "correct_answer", "incorrect_answer", "clean_image", "corrupt_image"]

_CHUNK = 256  # rows encoded at a time


class Row(Mapping[str, Any]):
    """One sample of a table: texts at hand, images read from the table each time they are asked for."""

    def __init__(self, table: Dataset, index: int, texts: Mapping[str, Any]) -> None:
        self._table, self._index, self._texts = table, index, texts

    def __getitem__(self, name: str) -> Any:
        return self._table[name][self._index] if name in _IMAGES else self._texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(FEATURES)

    def __len__(self) -> int:
        return len(FEATURES)


def rows(table: Dataset) -> Iterator[Row]:
    """The samples of a table in order, without reading their images."""
    for index, texts in enumerate(table.remove_columns(_IMAGES)):
        yield Row(table, index, texts)


def problems(row: Mapping[str, Any]) -> list[str]:
    """What is wrong with one row, one line each; empty for a good row.

    Parameters
    ----------
    row : every column of `FEATURES`; images as PIL images or as stored (``{"bytes": ..., "path": ...}``).
    """
    missing = [name for name in FEATURES if name not in row]
    if missing:
        return [f"columns missing: {', '.join(missing)}"]
    nulls = [f"{name} is {row[name]!r}, not text" for name in _TEXTS if not isinstance(row[name], str)]
    if nulls:
        return nulls
    found = [f"{name} is empty" for name in _TEXTS if name in _REQUIRED and not row[name].strip()]
    found += [f"dataset: {reason}"] if row["dataset"].strip() and (reason := _name_problem(row["dataset"])) else []
    found += _text_problems(row) if not found else []
    clean, reason = _decoded(row["clean_image"])
    found += [f"clean_image {reason}"] if reason else _mode_problem("clean_image", clean, "RGB")
    corrupt, reason = _decoded(row["corrupt_image"])
    found += [f"corrupt_image {reason}"] if reason else _mode_problem("corrupt_image", corrupt, "RGB")
    if row["object_mask"] is not None:
        mask, reason = _decoded(row["object_mask"])
        found += [f"object_mask {reason}"] if reason else _mask_problems(mask, clean)
    return found + _box_problems(row["object_box"], clean)


def check_name(name: str) -> None:
    """Raise `SampleError` when a data set's name cannot be that of a folder: results are kept in one of its name."""
    if reason := _name_problem(name):
        raise SampleError(f"the data set's name is not usable: {reason}")


def _name_problem(name: str) -> str:
    if not name.strip():
        return "it is empty"
    if name.startswith(".") or re.search(r"[/\\\x00-\x1f]", name):
        return f"{name!r} must not start with a dot, nor have slashes or control characters in it"
    return ""


def _text_problems(row: Mapping[str, Any]) -> list[str]:
    question, correct, incorrect = row["question"], row["correct_answer"], row["incorrect_answer"]
    found = []
    try:
        right, wrong = option_spans(question, correct, incorrect)
    except SampleError as error:
        found.append(str(error))
    else:
        if row["correct_first"] != (right < wrong):
            found.append(f"correct_first is {row['correct_first']}, but the question is {question!r} ({correct!r} is correct)")
    if row["corrupt_question"].strip() == question.strip():
        found.append("corrupt_question equals the question (leave it empty when there is none)")
    for name in ("clean_attributes", "corrupt_attributes"):
        if row[name] and not _is_attribute_list(row[name]):
            found.append(f"{name} is not a JSON list of objects: {row[name]!r}")
    return found


def _is_attribute_list(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _decoded(value: Any) -> tuple[Image.Image | None, str]:
    """The image with its pixels loaded, or None and why not."""
    if value is None:
        return None, "is missing"
    try:
        image = (
            value
            if isinstance(value, Image.Image)
            else Image.open(io.BytesIO(value["bytes"]) if value["bytes"] else value["path"], formats=FORMATS)
        )
        image.load()
    except DECODING_ERRORS as error:
        return None, f"does not decode: {error}"
    return image, ""


def _mode_problem(name: str, image: Image.Image | None, mode: str) -> list[str]:
    return [] if image is None or image.mode == mode else [f"{name} has mode {image.mode}, not {mode}"]


def _mask_problems(mask: Image.Image | None, clean: Image.Image | None) -> list[str]:
    if mask is None:
        return []
    found = _mode_problem("object_mask", mask, "L")
    if clean is not None and mask.size != clean.size:
        found.append(f"object_mask is {mask.size[0]} x {mask.size[1]} pixels, clean_image {clean.size[0]} x {clean.size[1]}")
    if not found and mask.getextrema()[1] <= 127:  # type: ignore[operator]
        found.append("object_mask has no pixel above 127 (the object must be white)")
    return found


def _box_problems(box: list[int] | None, clean: Image.Image | None) -> list[str]:
    if not box:
        return []
    if len(box) != 4:
        return [f"object_box has {len(box)} numbers, not 4"]
    left, top, right, bottom = box
    if not (0 <= left < right and 0 <= top < bottom) or (clean is not None and (right > clean.size[0] or bottom > clean.size[1])):
        return [f"object_box {list(box)} is not a box inside clean_image"]
    return []


def validate(dataset: Dataset) -> None:
    """Check a whole table.

    Raises
    ------
    SampleError
        With every problem of every row, by row number (from 0) and sample id.
    """
    _check_features(dataset)
    if not len(dataset):
        raise SampleError("the table has no samples")
    found: list[str] = []
    first_row: dict[str, int] = {}
    for number, row in enumerate(_stored_rows(dataset)):
        name = row["sample_id"]
        here = problems(row)
        if first_row.setdefault(name, number) != number:
            here.append(f"sample_id is already used in row {first_row[name]}")
        found += [f"row {number} ({name}): {problem}" for problem in here]
    if found:
        raise SampleError(f"{len(found)} problems in the sample table:", found)


def _check_features(dataset: Dataset) -> None:
    have = dataset.features
    if have == FEATURES:
        return
    found = [f"column missing: {name}" for name in FEATURES if name not in have]
    found += [f"unknown column: {name}" for name in have if name not in FEATURES]
    found += [f"column {name} is {have[name]}, not {FEATURES[name]}" for name in FEATURES if name in have and have[name] != FEATURES[name]]
    raise SampleError("the columns are not those of a sample table (data_prep/tables/schema.py):", found)


def _stored_rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Rows with the images' bytes, so that one broken image does not end the iteration."""
    for name in _IMAGES:
        dataset = dataset.cast_column(name, datasets.Image(decode=False))
    yield from dataset  # type: ignore[misc]


def build(rows: Iterable[Mapping[str, Any]]) -> Dataset:
    """A table from rows.

    Parameters
    ----------
    rows : dictionaries with the columns of `FEATURES`; images are RGB PIL images (the mask's mode is L or 1). Optional columns
        may be absent, and `correct_first` is then read off the question.

    Raises
    ------
    SampleError
        For an unknown or absent column, an image that is no RGB PIL image, or an answer that is not in the question (needed for
        `correct_first`). The rest is `validate`'s business.
    """
    encoded = (_encoded(row, number) for number, row in enumerate(rows))
    parts = []
    while chunk := list(islice(encoded, _CHUNK)):
        parts.append(Dataset.from_dict({name: [row[name] for row in chunk] for name in FEATURES}, features=FEATURES))
    if not parts:
        return Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)
    return datasets.concatenate_datasets(parts)


def _encoded(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    where = f"row {number} ({row.get('sample_id', 'no sample_id')})"
    unknown = [name for name in row if name not in FEATURES]
    absent = [name for name in _REQUIRED if row.get(name) is None]
    if unknown or absent:
        raise SampleError(f"{where}:", [f"unknown column: {n}" for n in unknown] + [f"column missing: {n}" for n in absent])
    full = dict.fromkeys(_TEXTS, "") | {"object_mask": None, "object_box": []} | dict(row)
    if full.get("correct_first") is None:
        try:
            right, wrong = option_spans(full["question"], full["correct_answer"], full["incorrect_answer"])
        except SampleError as error:
            raise SampleError(f"{where}: {error}") from error
        full["correct_first"] = right < wrong
    for name in _IMAGES:
        image = full[name]
        if image is None:
            continue
        modes = ("L", "1") if name == "object_mask" else ("RGB",)
        if not isinstance(image, Image.Image) or image.mode not in modes:
            kind = f"a PIL image of mode {image.mode}" if isinstance(image, Image.Image) else type(image).__name__
            raise SampleError(f"{where}: {name} is {kind}, not a PIL image of mode {modes[0]} (open_image makes RGB)")
        full[name] = {"bytes": _png(image.convert("L") if name == "object_mask" else image), "path": None}
    full["object_box"] = [int(edge) for edge in full["object_box"]]
    return full


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of what the rows say: texts and decoded pixels, in order. The same on every machine, however the table was made."""
    digest = hashlib.sha256(b"notice samples 1")
    for row in _stored_rows(dataset):
        for name in FEATURES:
            if name in _IMAGES:
                image, reason = _decoded(row[name])
                if image is None and row[name] is not None:
                    raise SampleError(f"{row['sample_id']}: {name} {reason}")
                part = b"" if image is None else f"{image.mode} {image.size}".encode() + image.tobytes()
            else:
                part = json.dumps(row[name]).encode()
            digest.update(f"{name} {len(part)} ".encode())
            digest.update(part)
    return digest.hexdigest()


def check_folder(folder: Path) -> None:
    """Raise `SampleError` when a folder that is to receive a sample table holds something else."""
    if folder.exists() and not (folder.is_dir() and ((folder / "state.json").is_file() or not any(folder.iterdir()))):
        raise SampleError(f"{folder} exists and is not a sample table: give another folder, or remove it")


def save(dataset: Dataset, folder: str | Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Write a table whole or not at all, with `data.json` beside its Arrow files.

    Parameters
    ----------
    folder : made anew; an older sample table there is replaced.
    provenance : `name`, and if they apply `seed` and `left_out` (a list of ``{"sample": ..., "reason": ...}``, with ``"kind": "excluded"``
        where it is by design); other entries are kept as they are.

    Returns
    -------
    What `data.json` holds: the provenance, the counts per category and the fingerprint.

    Raises
    ------
    SampleError
        For a table that is not valid, a provenance without a name that a folder can have, or a folder that holds something else.
    """
    validate(dataset)
    left = list(provenance.get("left_out", []))
    if not provenance.get("name") or any(set(entry) - {"kind"} != {"sample", "reason"} for entry in left):
        raise SampleError('provenance needs a name, and left_out as a list of {"sample": ..., "reason": ...}')
    check_name(provenance["name"])
    folder = Path(folder).resolve()
    check_folder(folder)
    record = {"name": provenance["name"], "seed": provenance.get("seed")}
    record |= {key: value for key, value in provenance.items() if key not in ("name", "seed", "left_out")}
    record |= {"samples": len(dataset), "counts": dict(Counter(dataset["category"])), "left_out": left}
    record["fingerprint"] = fingerprint(dataset)
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"

    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    new, old = (folder.with_name(f".{folder.name}.{mark}.{kind}") for kind in ("new", "old"))
    try:
        dataset.save_to_disk(new)
        (new / "data.json").write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return record


def load(folder: str | Path) -> Dataset:
    """Read and validate a table.

    Raises
    ------
    SampleError
        When the folder is missing, is no saved data set, is damaged, has other columns, or holds a sample that is not valid.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SampleError(f"no sample table at {folder}: make one with python -m data_prep.shapes or python -m data_prep.pairs")
    if (folder / "dataset_dict.json").exists():
        raise SampleError(f"{folder} holds several splits: give the folder of one of them")
    if not (folder / "state.json").exists():
        raise SampleError(f"{folder} is not a saved data set (it has no state.json)")
    try:
        dataset = load_from_disk(str(folder))
    except Exception as error:  # Arrow, JSON and file errors of many kinds
        raise SampleError(f"the data set in {folder} cannot be read, make it again: {error}") from error
    assert isinstance(dataset, Dataset)
    try:
        validate(dataset)
    except SampleError as error:
        raise SampleError(f"{folder}: {error}") from error
    return dataset


def provenance(folder: str | Path) -> dict[str, Any]:
    """What `data.json` says of a table; empty for a table that was not written by `save`.

    Raises
    ------
    SampleError
        When the folder is missing or `data.json` is not JSON.
    """
    path = Path(folder) / "data.json"
    if not path.parent.is_dir():
        raise SampleError(f"no sample table at {path.parent}")
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SampleError(f"{path} is not JSON: {error}") from error


def left_out(folder: str | Path) -> list[dict[str, str]]:
    """The samples that were left out when the table was made, as ``{"sample": id, "reason": text}``."""
    return list(provenance(folder).get("left_out", []))
