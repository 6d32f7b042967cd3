"""Bring your own: a table of image pairs and two-choice questions (CSV, TSV or JSON lines) -> a sample table.

In: a text table whose columns are listed in `COLUMNS`, and the image files that it names. Out: a sample table; every row that
cannot be used is left out with its reason.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from datasets import Dataset
from PIL import Image
from tqdm import tqdm

from data_prep import samples
from data_prep.images import ImageError, open_image
from data_prep.samples import SampleError
from data_prep.scenes import bounding_box

COLUMNS: dict[str, tuple[str, ...]] = {  # column: other names for it
    "clean_image": ("clean_image_path",),
    "corrupt_image": ("corrupt_image_path",),
    "question": ("clean_prompt", "clean_question", "prompt"),
    "correct_answer": ("correct",),
    "incorrect_answer": ("incorrect",),
    "corrupt_question": ("corrupt_prompt",),
    "category": ("task",),
    "mask": ("mask_path", "object_mask"),
    "noun": (),
    "sample_id": ("id",),
}
NEEDED = ("clean_image", "corrupt_image", "question", "correct_answer", "incorrect_answer")
FAULT = "(fault)"

_CHAT = re.compile(r"\s*USER:\s*<image>\s*(.*?)\s*(?:Answer with one word\.\s*)?ASSISTANT:\s*", re.IGNORECASE | re.DOTALL)


@dataclass
class Pairs:
    """Make a sample table from your own image pairs.

    The table has the columns clean_image, corrupt_image, question, correct_answer, incorrect_answer, and if you like
    corrupt_question, category, mask, noun, sample_id. Both answers must stand in the question.

    Example: python -m data_prep.pairs --table my_pairs.csv --out data/my_pairs
    """

    table: Path
    """The table: .csv, .tsv or .jsonl, in UTF-8."""
    out: Path
    """Folder that receives the sample table; an older table there is replaced."""
    name: str | None = None
    """Name of the data set; default: the table's file name."""
    images_root: Path | None = None
    """Folder that the image paths start from; default: the table's folder."""
    strict: bool = False
    """Stop at the first row that cannot be used, rather than leave it out."""


def main(options: Pairs) -> None:
    name = options.name or options.table.stem
    try:
        dataset, left_out = make_pairs(options.table, name=name, images_root=options.images_root, strict=options.strict)
        record = samples.save(dataset, options.out, {"name": name, "source": options.table.name, "left_out": left_out})
    except (SampleError, OSError) as error:
        raise SystemExit(f"data_prep.pairs: {error}") from error
    for entry in left_out:
        print(f"left out {entry['sample']}: {entry['reason']}", file=sys.stderr)
    print(f"{record['samples']} samples ({', '.join(f'{v} {k}' for k, v in record['counts'].items())}) in {options.out}")
    print(f"{len(left_out)} rows left out" + (" (see above, and data.json)" if left_out else ""))


def make_pairs(
    table: str | Path, *, name: str, images_root: str | Path | None = None, strict: bool = False, progress: bool = True
) -> tuple[Dataset, list[dict[str, str]]]:
    """Read a table and its images.

    Parameters
    ----------
    name : name of the data set; also the category of rows that have none, and the start of ids that are not given.
    images_root : where relative image paths start; default: the table's folder.
    strict : stop at the first row that cannot be used.

    Returns
    -------
    The sample table, and what was left out: ``{"sample": id, "reason": line and reason}``.

    Raises
    ------
    SampleError
        For a table that is missing, empty, unreadable or without a needed column; when no row is left; with `strict`, for the
        first row that cannot be used.
    """
    table = Path(table)
    root = Path(images_root) if images_root is not None else table.parent
    if not root.is_dir():
        raise SampleError(f"the folder of images {root} does not exist")
    records = read_table(table)
    left_out: list[dict[str, str]] = []

    def rows() -> Iterator[dict[str, Any]]:
        first_line: dict[str, int] = {}
        for number, (line, record) in enumerate(tqdm(records, desc=name, disable=not progress), 1):
            sample_id = record["sample_id"] or f"{name}-{number:04d}"
            try:
                if first_line.setdefault(sample_id, line) != line:
                    raise SampleError(f"its sample_id is already used in line {first_line[sample_id]}")
                yield _row(record, sample_id, name, root)
            except (SampleError, ImageError) as error:
                if strict:
                    raise SampleError(f"{table}, line {line} ({sample_id}): {error}") from error
                left_out.append({"sample": sample_id, "reason": f"line {line}: {error}"})

    dataset = samples.build(rows())
    if not len(dataset):
        raise SampleError(f"{table}: no row can be used", [f"{entry['sample']}, {entry['reason']}" for entry in left_out])
    return dataset, left_out


def read_table(table: str | Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table under the names of `COLUMNS`, each with the line where it starts (from 1); absent cells are "".

    A row whose cells do not fit the columns has the reason under `FAULT`, which is "" in the others.

    Raises
    ------
    SampleError
        For a file that is missing, empty, not UTF-8, of another kind or malformed, and for a missing or repeated column.
    """
    table = Path(table)
    kind = table.suffix.lower()
    if kind not in (".csv", ".tsv", ".jsonl", ".ndjson"):
        raise SampleError(f"{table}: the name must end in .csv, .tsv or .jsonl")
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise SampleError(f"{table}: no such file") from error
    except OSError as error:
        raise SampleError(f"{table}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SampleError(f"{table}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if not text.strip():
        raise SampleError(f"{table}: the file is empty")
    columns, rows = _json_lines(table, text) if kind in (".jsonl", ".ndjson") else _delimited(table, text, kind)
    known = _known_columns(table, columns)
    if not rows:
        raise SampleError(f"{table}: no rows below the line of column names")
    known[FAULT] = FAULT
    return [(line, {name: _text(row.get(known.get(name, ""), "")) for name in (*COLUMNS, FAULT)}) for line, row in rows]


def _delimited(table: Path, text: str, kind: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    header = text.lstrip().splitlines()[0]
    delimiter = "\t" if kind == ".tsv" else max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    rows = []
    end = 0
    try:
        for cells in reader:
            line, end = end + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [cell.strip() for cell in cells]
            elif len(cells) > len(columns):
                fault = f"{len(cells)} cells for {len(columns)} columns: put quotes around text that holds {delimiter!r}"
                rows.append((line, {FAULT: fault}))
            else:
                rows.append((line, dict(zip(columns, cells, strict=False))))
    except csv.Error as error:
        raise SampleError(f"{table}, line {end + 1}: not a readable table ({error})") from error
    return columns, rows


def _json_lines(table: Path, text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    columns: dict[str, None] = {}
    rows = []
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except ValueError as error:
            raise SampleError(f"{table}, line {line}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise SampleError(f"{table}, line {line}: not a JSON object with named columns")
        columns |= dict.fromkeys(record)
        rows.append((line, {key: "" if value is None else str(value) for key, value in record.items()}))
    return list(columns), rows


def _known_columns(table: Path, columns: list[str]) -> dict[str, str]:
    """Column of `COLUMNS` -> its name in this table."""
    known: dict[str, str] = {}
    for name, aliases in COLUMNS.items():
        here = [column for column in columns if re.sub(r"[\s-]+", "_", column.strip().lower()) in (name, *aliases)]
        if len(here) > 1:
            raise SampleError(f"{table}: several columns for {name}: {', '.join(here)}; keep one")
        if here:
            known[name] = here[0]
    missing = [" or ".join((name, *COLUMNS[name])) for name in NEEDED if name not in known]
    if missing:
        raise SampleError(f"{table}: missing columns; found: {', '.join(columns)}", [f"missing: {name}" for name in missing])
    return known


def _text(cell: str) -> str:
    """Without surrounding space, in composed Unicode, and without LLaVA's chat template (a model adds its own)."""
    text = unicodedata.normalize("NFC", cell).strip()
    chat = _CHAT.fullmatch(text)
    return chat[1] if chat else text


def _row(record: dict[str, str], sample_id: str, name: str, root: Path) -> dict[str, Any]:
    """One checked row of a sample table; raises SampleError or ImageError."""
    if record[FAULT]:
        raise SampleError(record[FAULT])
    empty = [column for column in NEEDED if not record[column]]
    if empty:
        raise SampleError(f"{' and '.join(empty)} empty")
    right, wrong = samples.option_spans(record["question"], record["correct_answer"], record["incorrect_answer"])
    clean, corrupt = (_open(record[column], root) for column in ("clean_image", "corrupt_image"))
    if clean.size == corrupt.size and clean.tobytes() == corrupt.tobytes():
        raise SampleError("the clean and the corrupt image are identical")
    mask = _open(record["mask"], root).convert("L") if record["mask"] else None
    row = {
        "sample_id": sample_id,
        "dataset": name,
        "category": record["category"] or name,
        **{column: record[column] for column in ("question", "corrupt_question", "correct_answer", "incorrect_answer", "noun")},
        "correct_first": right < wrong,
        "clean_image": clean,
        "corrupt_image": corrupt,
        "object_mask": mask,
        "object_box": [] if mask is None else bounding_box(np.asarray(mask) > 127),
        "changed_attribute": "",
        "clean_attributes": "",
        "corrupt_attributes": "",
    }
    found = samples.problems(row)
    if found:
        raise SampleError("; ".join(found))
    return row


def _open(path: str, root: Path) -> Image.Image:
    return open_image(root / path, name=path)


if __name__ == "__main__":
    main(tyro.cli(Pairs))
