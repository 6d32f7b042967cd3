"""Text tables: a file of comma- or tab-separated values with a line of column names -> its rows, each with the line where it begins."""

import csv
import io
import unicodedata
from pathlib import Path

from data_prep.tables.sample import SampleError

FAULT = "(fault)"  # beside a row's columns: what is wrong with the row, "" where nothing is
Line = tuple[int, dict[str, str]]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises
    ------
    SampleError
        For a file that is missing, cannot be read, is empty or not UTF-8, or a Git LFS pointer.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise SampleError(f"{path}: no such file") from error
    except OSError as error:
        raise SampleError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SampleError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if not text.strip():
        raise SampleError(f"{path}: the file is empty")
    if text.startswith("version https://git-lfs"):
        raise SampleError(f"{path}: is a Git LFS pointer, not the table itself (run `git lfs pull`)")
    return text


def read_delimited(path: Path, short_rows: bool = True) -> tuple[list[str], list[Line]]:
    """The columns and rows of a table (tabs in .tsv; else what its first line has most of: commas, semicolons or tabs).

    Cells are stripped and in composed Unicode, and "" where a row is short (a fault unless `short_rows`). Blank lines are skipped.

    Raises
    ------
    SampleError
        As `read_text`, and for quotes that are never closed.
    """
    text = read_text(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=text.lstrip().splitlines()[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    rows: list[Line] = []
    end = 0
    try:
        for raw in reader:
            line, end = end + 1, reader.line_num
            cells = [unicodedata.normalize("NFC", cell).strip() for cell in raw]
            if not any(cells):
                continue
            if not columns:
                columns = cells
            elif len(cells) > len(columns):
                fault = f"{len(cells)} cells for {len(columns)} columns: put quotes around text that holds {delimiter!r}"
                rows.append((line, dict.fromkeys(columns, "") | {FAULT: fault}))  # no telling which cell is of which column
            else:
                fault = "" if short_rows or len(cells) == len(columns) else f"{len(cells)} cells for {len(columns)} columns"
                rows.append((line, dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False)) | {FAULT: fault}))
    except csv.Error as error:
        raise SampleError(f"{path}, line {end + 1}: not a readable table ({error})") from error
    return columns, rows
