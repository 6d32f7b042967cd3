"""The papers' claims, each held against a results folder: `paper_claims.csv`, `paper_claims.md` and a summary.

Of the papers' own checkpoints this is a report of replication; rows of other models say so. The claims are in `analysis/claims`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd

from analysis.claims import basu, best_practices, notice_functions, notice_heads, notice_modules, notice_universal, palit, zhang
from analysis.claims.claim import NOT_RUN, RESULTS, UNDECIDED, Claim, Finding, NotRun, Undecidable
from analysis.claims.folder import Folder, Resampling
from analysis.claims.place import Place, places
from analysis.store.command import reporting
from analysis.store.folder import effects_files, write_whole

FILE = "paper_claims"
CLAIMS: tuple[Claim, ...] = tuple(
    claim
    for module in (notice_universal, notice_heads, notice_functions, notice_modules, palit, basu, zhang, best_practices)
    for claim in module.CLAIMS
)
REPLICATION, OTHER_DATA, OTHER_MODEL = "the paper's model and data", "the paper's model, other data", "this model, not the paper's"
COLUMNS = (
    *("id", "paper", "source", "says", "papers_models", "papers_data", "model", "dataset", "setting"),
    *("test", "result", "figure", "value", "low", "high", "note", "files", "command"),
)


@dataclass(frozen=True)
class PaperClaims(Resampling):
    """Hold the claims of NOTICE, Palit et al., Basu et al. and Zhang et al. against results.

    python -m analysis.paper_claims --results results
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""


def judge(results: Path, resampling: Resampling | None = None, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """A row for each claim and each model (and data set, where it is tested on each apart) of the kind that it is about.

    A claim that no model in the folder can test has one row, for the paper's model, with what would have to be run.

    Returns
    -------
    Columns: id, paper, source, says; papers_models, papers_data (those of the paper); model, dataset (those here), setting (the paper's
    model and data; its model, other data; not its model); test (the statistic and the rule); result (holds, does not hold, undecided, not
    run); figure (in words), value, low, high (of the first estimate, NaN where there is none); note; files (what it was read from,
    relative to the folder); command (what to run where it was not)

    Raises
    ------
    ResultsError
        When there is no results folder, or a file in it is damaged; names the file.

    >>> rows = judge(Path("results"), Resampling(resamples=20), CLAIMS[:2])
    >>> rows[["id", "model", "result"]].values.tolist()  # no claim about BLIP's heads can be tested on this folder
    [['notice-blip-vision', 'blip-vqa-base', 'not run'], ['notice-blip-multimodal', 'blip-vqa-base', 'not run']]
    """
    results, resampling = Path(results), resampling or Resampling()
    resampling.comparing  # noqa: B018 (raises where a setting is wrong)
    effects_files(results)
    folder = Folder(results, resampling)
    rows = []
    for claim in claims:
        here = places(claim, folder)
        rows += [_row(claim, place, _setting(claim, place), *_found(claim, place)) for place in here]
        if not here:
            paper = Place(folder, claim.models[0], claim.data_to_run if claim.each_dataset else "")
            rows.append(_row(claim, paper, _setting(claim, paper), *_found(claim, paper)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _found(claim: Claim, place: Place) -> tuple[Finding, str]:
    """The finding, and the command where the claim was not run."""
    try:
        return claim.judge(place), ""
    except NotRun as reason:
        return Finding(NOT_RUN, note=reason.missing), reason.command
    except Undecidable as reason:
        return Finding(UNDECIDED, note=str(reason)), ""


def _setting(claim: Claim, place: Place) -> str:
    if place.model not in claim.models:
        return OTHER_MODEL
    return REPLICATION if set(_datasets(place)) <= set(claim.data) else OTHER_DATA


def _datasets(place: Place) -> list[str]:
    there = (place.folder.path / place.model).is_dir()
    return [place.dataset] if place.dataset else place.folder.datasets(place.model) if there else []


def _row(claim: Claim, place: Place, setting: str, finding: Finding, command: str) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(claim, name) for name in ("id", "paper", "source", "says", "test")}
    row |= {"papers_models": " ".join(claim.models), "papers_data": " ".join(claim.data)}
    row |= {"model": place.model, "dataset": place.dataset or ", ".join(_datasets(place)), "setting": setting, "result": finding.result}
    row |= {"figure": "; ".join(map(str, finding.estimates)), "note": finding.note, "command": command}
    first = finding.estimates[0] if finding.estimates else None
    row |= {name: getattr(first, name) if first else float("nan") for name in ("value", "low", "high")}
    return row | {"files": " ".join(str(path.relative_to(place.folder.path)) for path in finding.files)}


def markdown(rows: pd.DataFrame, confidence: float = 0.95) -> str:
    """The rows as a page: a table of what these results show, then how each claim is tested, and what to run for the rest.

    >>> rows = judge(Path("results"), Resampling(resamples=20), CLAIMS[:2])
    >>> markdown(rows).splitlines()[0]
    "# The papers' claims against these results"
    """
    judged = rows[rows["result"] != NOT_RUN]
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
    missing = rows[rows["result"] == NOT_RUN]
    if len(missing):
        lines += ["", "## Not run", "", "| claim | missing | run |", "| --- | --- | --- |"]
        lines += [f"| `{row.id}` {_cell(row.says)} | {_cell(row.note)} | `{_cell(row.command)}` |" for row in missing.itertuples()]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _words(row: Any) -> str:
    words = "; ".join(part for part in (row.figure, row.note) if part)
    return f"{words} ({row.files})" if row.files else words


def counts(rows: pd.DataFrame) -> str:
    """How many rows come out which way, in words.

    >>> rows = judge(Path("results"), Resampling(resamples=20), CLAIMS[:2])
    >>> counts(rows)
    '2 rows of 2 claims: 0 holds, 0 does not hold, 0 undecided, 2 not run'
    """
    number = rows["result"].value_counts()
    return f"{len(rows)} rows of {rows['id'].nunique()} claims: " + ", ".join(f"{number.get(name, 0)} {name}" for name in RESULTS)


def summary(rows: pd.DataFrame) -> str:
    """The rows in words, a line each, those that were not run in one line.

    >>> rows = judge(Path("results"), Resampling(resamples=20), CLAIMS[:2])
    >>> summary(rows).splitlines()[1]
    '  not run: notice-blip-vision, notice-blip-multimodal; paper_claims.md has the commands'
    """
    lines = [counts(rows)]
    for row in rows[rows["result"] != NOT_RUN].itertuples():
        lines.append(f"  {row.result:13} {row.id}, {row.model}, {row.dataset} ({row.setting}): {row.figure or row.note}")
    missing = rows.loc[rows["result"] == NOT_RUN, "id"].unique()
    return "\n".join(lines + ([f"  not run: {', '.join(missing)}; {FILE}.md has the commands"] if len(missing) else []))


def find_and_write(results: Path, resampling: Resampling | None = None) -> tuple[pd.DataFrame, str]:
    """`judge`, then write `paper_claims.csv` and `paper_claims.md` into the results folder.

    Returns
    -------
    The rows, and a summary in words.

    >>> rows, words = find_and_write(Path("results"), Resampling(resamples=20))
    >>> sorted(path.name for path in Path("results").glob("paper_claims*"))
    ['paper_claims.csv', 'paper_claims.md']
    >>> words.splitlines()[0] == counts(rows)
    True
    """
    results, resampling = Path(results), resampling or Resampling()
    rows = judge(results, resampling)
    write_whole(results / f"{FILE}.csv", lambda temporary: rows.to_csv(temporary, index=False, float_format="%.6g"))
    page = markdown(rows, resampling.confidence)
    write_whole(results / f"{FILE}.md", lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return rows, summary(rows)


def main() -> None:
    """Command line."""
    import tyro

    with reporting("paper_claims"):
        options = tyro.cli(PaperClaims)
        _, words = find_and_write(options.results, options)
        print(words)
        print(f"wrote {options.results / FILE}.csv and .md")


if __name__ == "__main__":
    main()
