"""Tables that other analyses wrote, as the page shows them: a CSV -> columns and rows of text.

A value and the ends of its interval become one column; columns without any value are dropped; those that say the same in every row are
said once. Of a table that is not in `COLUMNS` every column is shown.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.page.encoding import rounded
from analysis.page.tables import MISSING, number
from analysis.store.tables import read_table

ROWS = 400
OF_COMPONENT = ("model", "dataset", "component", "direction", "window", "definition")
THIRDS = ("early", "middle", "late")
COLUMNS = {
    "modules": (*OF_COMPONENT, "corruption", "order", "peak_layer", "peak_role", "peak_effect", *THIRDS, "early-late", "early-late_p_holm"),
    "modules_text_image": (
        *(*OF_COMPONENT, "image", "text", "image_peak_role", "text_peak_role"),
        *(*(f"difference_{third}" for third in THIRDS), "rank_correlation"),
    ),
    "compare_corruptions": (*OF_COMPONENT, "heads", "corruption", "samples", *THIRDS),
    "compare_corruptions_ranks": (*OF_COMPONENT, "heads", "a", "b", "cells", "mean_absolute_effect", "mean_effect"),
}


def shown(path: Path, rows: int = ROWS, without: tuple[str, str] | None = None) -> dict[str, Any] | None:
    """A CSV for the page, its first `rows` rows; None where there is no such file.

    Parameters
    ----------
    without : a column and the value whose rows are left out

    Returns
    -------
    columns : name and whether its values are numbers; rows : cells with `text` and `value` (to sort by); same : what every row says;
    total : the number of rows there are; more : whether the file has columns that are not shown; file : its name

    Raises
    ------
    ResultsError
        When it is not a CSV.
    """
    path = Path(path)
    if not path.is_file():
        return None
    frame = read_table(path)
    if "heads" in frame and set(frame["heads"]) <= {0, 1}:
        frame["heads"] = frame["heads"].map({0: "whole modules", 1: "heads"})
    if without and without[0] in frame:
        frame = frame[frame[without[0]] != without[1]]
    there = frame.dropna(axis=1, how="all")
    ends = {str(name): found for name in there.columns if (found := _ends(str(name), set(there.columns)))}
    hidden = {end for found in ends.values() for end in found}
    chosen = [name for name in COLUMNS.get(path.stem, there.columns) if name in there.columns and name not in hidden]
    constant = [name for name in chosen if len(there) > 2 and name not in ends and there[name].nunique(dropna=False) == 1]
    names = [name for name in chosen if name not in constant]
    first = there.head(rows)
    cells = {name: _cells(first, name, ends.get(name)) for name in names}
    return {
        "file": path.name,
        "total": len(frame),
        "more": len(chosen) + len(hidden) < len(there.columns),
        "same": [(_words(name), _text(there[name].iloc[0])) for name in constant],
        "columns": [{"name": _words(name), "number": _is_number(there[name])} for name in names],
        "rows": [[cells[name][i] for name in names] for i in range(len(first))],
    }


def noise_claims(path: Path) -> list[dict[str, str]]:
    """Of each comparison in `compare_corruptions.csv`: what is compared, and whether NOTICE's claim about noise holds there."""
    frame = read_table(path)
    rows = frame[frame["row"] == "claim"].to_dict("records") if {"row", "claim"} <= set(frame.columns) else []
    of = [(row, f"{row['model']}, {row['dataset']}, {_words(row['component'])}" + (" heads" if row.get("heads") else "")) for row in rows]
    return [{"of": name, "claim": _text(row["claim"])} for row, name in of]


def thirds(path: Path) -> list[dict[str, Any]]:
    """The shares of `compare_corruptions.csv` for the page's plots: of each corruption the share of each third with its interval."""
    frame = read_table(path)
    columns = [column for third in THIRDS for column in (third, f"{third}_low", f"{third}_high")]
    if not {"row", *columns} <= set(frame.columns):
        return []
    return [
        {
            "of": f"{row['model']}, {row['dataset']}",
            "component": _words(row["component"]) + (" heads" if row["heads"] else ""),
            "corruption": row["corruption"] + ("-noising" if row["direction"] == "noising" else ""),
            "samples": _text(row["samples"]),
            "thirds": [rounded([row[third], row[f"{third}_low"], row[f"{third}_high"]]) for third in THIRDS],
        }
        for row in frame[(frame["row"] == "share") & (frame["window"] == 1) & (frame["definition"] == "ours")].to_dict("records")
    ]


def paper_claims(path: Path) -> list[dict[str, str]] | None:
    """The rows of `paper_claims.csv` as text, those that were tested first; None where there is no such file."""
    if not Path(path).is_file():
        return None
    rows = [{str(name): _text(value) for name, value in row.items()} for row in read_table(path).to_dict("records")]
    return sorted(rows, key=lambda row: row.get("result") == "not run")


def _ends(name: str, columns: set[Any]) -> tuple[str, str] | None:
    """The columns with the ends of a column's interval: <name>_low and _high; of an effect also without "_effect", or low and high."""
    stems = [f"{name}_", *((f"{name.removesuffix('_effect')}_", "") if name.endswith("_effect") else ())]
    return next(((f"{stem}low", f"{stem}high") for stem in stems if {f"{stem}low", f"{stem}high"} <= columns), None)


def _cells(frame: pd.DataFrame, name: str, ends: tuple[str, str] | None) -> list[dict[str, Any]]:
    found, numbers = [], _is_number(frame[name])
    for i, value in enumerate(frame[name]):
        text = _text(value)
        if ends and text != MISSING:
            text += f" [{', '.join(_text(frame[end].iloc[i]) for end in ends)}]"
        found.append({"text": text, "value": value if numbers and not pd.isna(value) else ""})
    return found


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return MISSING
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    whole = float(value).is_integer() and abs(value) < 1e6
    return number(int(value), "d") if whole else number(value, "#.3g")


def _words(name: Any) -> str:
    return str(name).replace("_", " ")
