"""The table of what tests hold against raw PyTorch hooks: `python -m tests.support.oracle_table` runs these tests, and writes it."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATH, TESTS, WRITE = ROOT / "docs" / "oracle_table.md", ROOT / "tests/interventions/engine/test_oracles.py", "WRITE_ORACLE_TABLE"
COMMAND = "python -m tests.support.oracle_table"
Cell = tuple[str, str, str, str, str]  # method, corruption, direction, wrapper, number format
HEAD = f"""# What is held against raw PyTorch hooks

The tests compare the numbers of every method with those of the bare Hugging Face module and
PyTorch's own hooks, on small models. They compare both paths: the fast one and the slow one
(`interventions/engine/oracle/`). `{COMMAND}` runs them and writes
this table. A test fails where a cell that the program supports is not held.

- **both**: held in the directions denoising and noising; **held**: the method has no direction.
- **no**: the program refuses the cell; the reasons are below.
- A corruption stands for its kind: sip for all that change the image, str for all that change
  the question.
- Attention knockout, direct effects, attention patterns and head ablation use clean runs: the
  corruption chooses the samples, or what replaces a head's z.
"""


def rendered(record: dict[Cell, str]) -> str:
    """The page of a record, which gives for each cell the reason for which it is refused, or "" where it is held."""
    wrappers = list(dict.fromkeys(wrapper for _, _, _, wrapper, _ in record))
    rows: dict[tuple[str, str], dict[str, dict[str, bool]]] = {}
    formats: dict[str, dict[str, list[str]]] = {}
    reasons: dict[str, dict[str, None]] = {}
    for (method, corruption, direction, wrapper, dtype), reason in record.items():
        if dtype == "float32":
            rows.setdefault((method, corruption), {}).setdefault(wrapper, {})[direction] = not reason
        else:
            formats.setdefault(method, {}).setdefault(wrapper, []).extend([] if reason else [dtype])
        if reason:
            reasons.setdefault(reason, {})[f"{method}, {wrapper}"] = None
    of_rows = [[*row, *(_word(cells[wrapper]) for wrapper in wrappers)] for row, cells in rows.items()]
    of_formats = [[name, *(" ".join(cells[wrapper]) or "no" for wrapper in wrappers)] for name, cells in formats.items()]
    pages = [HEAD, _table(["method", "corruption", *wrappers], of_rows)]
    pages.append("## Numbers of 16 bits\n\nUnder sip, denoising: equal to the hooks' but for rounding.\n")
    pages.append(_table(["method", *wrappers], of_formats))
    pages.append("## What the program refuses, in its own words\n")
    pages += [f"- {'; '.join(cells)}: {reason}" for reason, cells in reasons.items()]
    return "\n".join(pages) + "\n"


def _word(directions: dict[str, bool]) -> str:
    held = [direction for direction, is_held in directions.items() if is_held]
    return "no" if not held else ("both" if len(held) == 2 else "held" if len(directions) == 1 else held[0])


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows]) + "\n"


def check(record: dict[Cell, str]) -> None:
    """Fail where the page says something else than the record; or write it, where the command has asked for that."""
    if os.environ.get(WRITE):
        PATH.parent.mkdir(exist_ok=True)
        PATH.write_text(rendered(record))
    assert PATH.read_text() == rendered(record), f"docs/oracle_table.md is not what the tests hold: {COMMAND} writes it"


if __name__ == "__main__":
    os.environ[WRITE] = "1"
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", str(TESTS)]))
