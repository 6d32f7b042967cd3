"""The curves of the page: `stability.csv` and `robust_power.csv` -> of each model lines of (x, y), by measure or by rule."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.heads.power import COLUMNS, ORDERED_RULES
from analysis.heads.rules import rule_title
from analysis.page.encoding import rounded
from analysis.store.tables import read_table

AGREEMENT = {
    "rank_correlation": "rank correlation of the heads’ scores",
    "jaccard": "named by both over named by either",
    "none_named": "repeats in which neither names any",
}


def stability(path: Path) -> list[dict[str, Any]]:
    """How subsamples agree with the rest, for each model and measure; empty where there is no such file.

    Returns
    -------
    model, measure (in words), x (numbers of samples) and lines: of each corruption and rule a name and y (means over the tasks that have so
    many samples and a value; None where none has).

    Raises
    ------
    ResultsError
        When it is not a CSV, or lacks a column.
    """
    rows = read_table(path, ("model", "rule", "corruption", "samples", *AGREEMENT))
    return [
        {
            "model": model,
            "measure": words,
            "x": (x := sorted({int(samples) for samples in of_model["samples"]})),
            "lines": [
                {"name": f"{corruption}, {_title(rule)}", "y": rounded(of.groupby("samples")[measure].mean().reindex(x).to_numpy())}
                for (corruption, rule), of in of_model.groupby(["corruption", "rule"], sort=False)
            ],
        }
        for model, of_model in rows.groupby("model")
        for measure, words in AGREEMENT.items()
    ]


def power(path: Path) -> list[dict[str, Any]]:
    """The power of each rule, for each model; empty where there is no such file.

    Returns
    -------
    model, rule, runs (studies behind each point), x (sizes of the planted effect, in SD of an average head) and lines: of each number of
    samples a name and y.

    Raises
    ------
    ResultsError
        When it is not a CSV, or lacks a column.
    """
    rows = read_table(path, COLUMNS)
    planted = rows[rows["size"] > 0]
    return [
        {
            "model": model,
            "rule": _title(rule.name),
            "runs": int(of_model["runs"].iloc[0]),
            "x": (x := sorted(set(of_model["size"]))),
            "lines": [{"name": f"{samples} samples", "y": _at(x, of, rule.power)} for samples, of in of_model.groupby("samples")],
        }
        for model, of_model in planted.groupby("model")
        for rule in ORDERED_RULES
    ]


def _title(rule: str) -> str:
    return rule_title(rule).replace("'", "’")


def _at(x: list[float], rows: pd.DataFrame, column: str) -> list[float | None]:
    return rounded(rows.set_index("size")[column].reindex(x).to_numpy())
