"""Tables of the analysis, read again: a CSV of a results folder -> a data frame, or an error that says what makes the file again."""

import shlex
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from analysis.store.errors import ResultsError
from analysis.store.folder import write_whole

MADE_BY = {  # how the file's name begins: the command that makes it
    "universal_heads": "universal_heads",
    "robust_power": "robust_heads --power",
    "robust": "robust_heads",
    "stability": "stability",
    "head_functions": "head_functions",
    "modules": "modules",
    "compare_corruptions": "compare_corruptions",
    "paper_claims": "paper_claims",
}


def command_that_makes(path: Path) -> str:
    """The command that makes a table of the analysis in a results folder; "" for another file.

    >>> command_that_makes(Path("results/robust_overlap.csv"))
    'python -m analysis.robust_heads --results results'
    >>> command_that_makes(Path("my results/robust_power.csv"))
    "python -m analysis.robust_heads --results 'my results' --power"
    """
    made = next((of for begins, of in MADE_BY.items() if Path(path).name.startswith(begins)), "")
    if not made:
        return ""
    script, *options = made.split()
    return " ".join([f"python -m analysis.{script} --results {shlex.quote(str(Path(path).parent))}", *options])


def write_table(rows: pd.DataFrame, path: Path) -> None:
    """Write a table with six digits, whole or not at all.

    >>> write_table(pd.DataFrame({"head": [0], "effect": [1 / 3]}), Path("rows.csv"))
    >>> Path("rows.csv").read_text().split()
    ['head,effect', '0,0.333333']
    """
    write_whole(path, lambda temporary: rows.to_csv(temporary, index=False, float_format="%.6g"))


def read_written(path: Path, columns: Collection[str] = ()) -> pd.DataFrame:
    """A table of the analysis.

    Parameters
    ----------
    columns : those that it must have

    Raises
    ------
    ResultsError
        When it is not a CSV, or lacks a column; says which command makes it again.

    >>> Path("stability.csv").write_text("model,rule\\n")
    11
    >>> read_written(Path("stability.csv"), ["model", "rule"]).empty
    True
    """
    path = Path(path)
    command = command_that_makes(path)
    again = f"make it again with `{command}`" if command else "make it again"
    try:
        frame = pd.read_csv(path)
    except ValueError as error:
        raise ResultsError(f"{path} is not a CSV that can be read ({error}): delete it and {again}") from error
    if missing := [name for name in columns if name not in frame]:
        raise ResultsError(f"{path} lacks {', '.join(missing)}: delete it and {again}")
    return frame
