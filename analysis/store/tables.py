"""Tables of the analysis, read again: a CSV of a results folder -> a data frame, or an error that says what makes the file again."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from analysis.store.errors import ResultsError
from analysis.store.folder import again, write_whole


def write_table(rows: pd.DataFrame, path: Path) -> None:
    """Write a table with six digits, whole or not at all.

    >>> write_table(pd.DataFrame({"head": [0], "effect": [1 / 3]}), Path("rows.csv"))
    >>> Path("rows.csv").read_text().split()
    ['head,effect', '0,0.333333']
    """
    write_whole(path, lambda temporary: rows.to_csv(temporary, index=False, float_format="%.6g"))


def read_table(path: Path, columns: Collection[str] = ()) -> pd.DataFrame:
    """A table that an analysis wrote; empty where there is no such file.

    Parameters
    ----------
    columns : those that it must have

    Raises
    ------
    ResultsError
        When it is not a CSV, or lacks a column; says which command makes it again.

    >>> Path("stability.csv").write_text("model,rule\\n")
    11
    >>> list(read_table(Path("stability.csv"), ["model", "rule"]))
    ['model', 'rule']
    >>> read_table(Path("power.csv"), ["model"]).empty
    True
    """
    path = Path(path)
    if not path.is_file():
        return pd.DataFrame(columns=list(columns))
    try:
        frame = pd.read_csv(path)
    except ValueError as error:
        raise ResultsError(f"{path} is not a CSV that can be read ({error}). {again(path)}") from error
    if missing := [name for name in columns if name not in frame]:
        raise ResultsError(f"{path} lacks {', '.join(missing)}. {again(path)}")
    return frame
