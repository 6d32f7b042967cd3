"""The judged claims in words: the page `paper_claims.md`, and a summary for the terminal."""

from typing import Any

import pandas as pd

from analysis.claims.outcome import NOT_RUN, RESULTS
from analysis.claims.subject import RESULTS_FOLDER


def markdown(rows: pd.DataFrame, confidence: float = 0.95) -> str:
    """The rows as a page: a table of what these results show, then how each claim is tested, and what to run for the rest.

    >>> from analysis.paper_claims import PaperClaims, find
    >>> from pathlib import Path
    >>> markdown(find(Path("results"), PaperClaims(resamples=20))).splitlines()[0]
    "# The papers' claims against these results"
    """
    judged, missing = rows[rows["result"] != NOT_RUN], rows[rows["result"] == NOT_RUN]
    lines = ["# The papers' claims against these results", "", counts(rows), ""]
    lines += [
        f"In brackets: {confidence:.0%} intervals over samples. What another model than the paper's shows says nothing of the paper's.",
        "",
    ]
    for paper, of_paper in judged.groupby("paper", sort=False):
        lines += [f"## {paper}", "", "| claim | here | result | figure |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{row.id}` {_cell(row.says)} | {row.model}, {row.dataset} ({row.setting}) | **{row.result}** | {_cell(_words(row))} |"
            for row in of_paper.itertuples()
        ]
        lines.append("")
    lines += ["## How each is tested", ""]
    for test, of_test in rows.drop_duplicates("id").groupby("test", sort=False):
        first = of_test.iloc[0]
        names = ", ".join(f"`{name}`" for name in of_test["id"])
        lines.append(f"- {names} ({first['paper']}, {first['source']}): {test}.")
    if len(missing):
        lines += ["", "## Not run", "", "| claim | missing | run |", "| --- | --- | --- |"]
        lines += [f"| `{row.id}` {_cell(row.says)} | {_cell(row.note)} | `{_cell(row.command)}` |" for row in missing.itertuples()]
        lines += ["", f"In the commands, {RESULTS_FOLDER} stands for the path of this results folder."]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _words(row: Any) -> str:
    words = "; ".join(part for part in (row.figure, row.note) if part)
    return f"{words} ({row.files})" if row.files else words


def counts(rows: pd.DataFrame) -> str:
    """How many rows come out which way, in words.

    >>> counts(pd.DataFrame({"id": ["notice-blip-text", "notice-blip-vision"], "result": ["holds", "not run"]}))
    '2 rows of 2 claims: 1 holds, 0 does not hold, 0 undecided, 1 not run'
    """
    number = rows["result"].value_counts()
    return f"{len(rows)} rows of {rows['id'].nunique()} claims: " + ", ".join(f"{number.get(name, 0)} {name}" for name in RESULTS)


def summary(rows: pd.DataFrame) -> str:
    """The rows in words, a line each, those that were not run in one line.

    >>> summary(pd.DataFrame({"id": ["notice-blip-vision"], "result": ["not run"]})).splitlines()[1]
    '  not run: notice-blip-vision; paper_claims.md has the commands'
    """
    lines = [counts(rows)]
    for row in rows[rows["result"] != NOT_RUN].itertuples():
        lines.append(f"  {row.result:13} {row.id}, {row.model}, {row.dataset} ({row.setting}): {row.figure or row.note}")
    missing = rows.loc[rows["result"] == NOT_RUN, "id"].unique()
    return "\n".join(lines + ([f"  not run: {', '.join(missing)}; paper_claims.md has the commands"] if len(missing) else []))
