"""Bring your own: a table of image pairs and two-choice questions (CSV, TSV or JSON lines) -> a sample table.

In: a text table whose columns are listed in `COLUMNS`, and the image files that it names. Out: a sample table; every row that
cannot be used is left out with its reason.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json
import re
import unicodedata
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from data_prep.tables.candidates import Candidate, Preparation, Source
from data_prep.tables.counterparts import file_hash, images_hash, inside, object_place
from data_prep.tables.delimited import FAULT, Line, read_delimited, read_text
from data_prep.tables.images import open_image
from data_prep.tables.readers import main, reader
from data_prep.tables.sample import SampleError

COLUMNS: dict[str, tuple[str, ...]] = {  # column: other names for it
    "clean_image": ("clean_image_path",),
    "corrupt_image": ("corrupt_image_path",),
    "question": ("clean_prompt", "clean_question", "prompt"),
    "correct_answer": ("correct",),
    "incorrect_answer": ("incorrect",),
    "corrupt_question": ("corrupt_prompt",),
    "category": ("task",),
    "mask": ("mask_path", "object_mask"),
    "box": ("object_box",),
    "noun": (),
    "sample_id": ("id",),
}
NEEDED = ("clean_image", "corrupt_image", "question", "correct_answer", "incorrect_answer")

_CHAT = re.compile(r"\s*USER:\s*<image>\s*(.*?)\s*(?:Answer with one word\.\s*)?ASSISTANT:\s*", re.IGNORECASE | re.DOTALL)


@reader(
    title="FineCops-Ref, COOCO, your own pairs",
    categories="yours",
    corrupt_image="yours",
    masks="yours",
)
@dataclass(kw_only=True)
class Pairs(Preparation):
    """Make a sample table from your own image pairs.

    The table has the columns clean_image, corrupt_image, question, correct_answer, incorrect_answer, and if you like
    corrupt_question, category, mask, box ("left top right bottom" in pixels of the clean image, the last two exclusive), noun, sample_id.
    Both answers must stand in the question.

    Example: python -m data_prep.pairs --table my_pairs.csv --out data/my_pairs
    """

    table: Path
    """The table: .csv, .tsv or .jsonl, in UTF-8."""
    out: Path = Path("data/pairs")
    """Folder that receives the sample table; an older table there is replaced."""
    name: str | None = None
    """Name of the data set; default: the table's file name."""
    images_root: Path | None = None
    """Folder that the image paths start from; default: the table's folder."""

    def read(self) -> Source:
        return read_pairs(self.table, name=self.name, images_root=self.images_root)


def read_pairs(table: Path, *, name: str | None = None, images_root: Path | None = None) -> Source:
    """List the samples of a table.

    Parameters
    ----------
    name : name of the data set; also the category of rows that have none, and the start of ids that are not given.
    images_root : where image paths start; default: the table's folder.

    Raises
    ------
    SampleError
        For a table that is missing, empty, unreadable or without a needed column, and a folder of images that is missing.
    """
    name, root = name or table.stem, images_root or table.parent
    if not root.is_dir():
        raise SampleError(f"the folder of images {root} does not exist")
    candidates, left_out = [], []
    first_line: dict[str, int] = {}
    lines = read_table(table)
    for number, (line, record) in enumerate(lines, 1):
        sample_id, where = record["sample_id"] or f"{name}-{number:04d}", f"{table.name}, line {line}"
        if first_line.setdefault(sample_id, line) != line:
            reason = f"{where}: its sample_id is already used in line {first_line[sample_id]}"
            left_out.append({"sample": sample_id, "reason": reason})
        else:
            candidates.append(Candidate(sample_id, record["category"] or name, where, partial(_row, record, root)))
    provenance = {"source": table.name, "sha256": file_hash(table), "images_root": str(images_root or "")}
    files = [record[column] for _, record in lines for column in ("clean_image", "corrupt_image", "mask") if record[column]]
    return Source(name, candidates, left_out, provenance, images_hash(root, files))


def read_table(table: str | Path) -> list[Line]:
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
    columns, rows = _json_lines(table) if kind in (".jsonl", ".ndjson") else read_delimited(table)
    known = _known_columns(table, columns)
    if not rows:
        raise SampleError(f"{table}: no rows below the line of column names")
    known[FAULT] = FAULT
    return [(line, {name: _text(row.get(known.get(name, ""), "")) for name in (*COLUMNS, FAULT)}) for line, row in rows]


def _json_lines(table: Path) -> tuple[list[str], list[Line]]:
    columns: dict[str, None] = {}
    rows = []
    for line, content in enumerate(read_text(table).split("\n"), 1):
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


def _row(record: dict[str, str], root: Path) -> dict[str, Any]:
    if record[FAULT]:
        raise SampleError(record[FAULT])
    if empty := [column for column in NEEDED if not record[column]]:
        raise SampleError(f"{' and '.join(empty)} empty")
    clean = _open(record["clean_image"], root)
    return {
        **{column: record[column] for column in ("question", "corrupt_question", "correct_answer", "incorrect_answer", "noun")},
        "clean_image": clean,
        "corrupt_image": _open(record["corrupt_image"], root),
        **object_place(root, record["mask"], record["box"], clean),
    }


def _open(path: str, root: Path) -> Image.Image:
    return open_image(inside(root, path), name=path)


if __name__ == "__main__":
    main(Pairs)
