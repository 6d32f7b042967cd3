"""The papers' claims, each held against a results folder: `paper_claims.csv`, `paper_claims.md` and a summary.

Of the papers' own checkpoints this is a report of replication; rows of other models say so. The claims are in `analysis/claims/table.py`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.store.written import Written, run_command

if TYPE_CHECKING:
    import pandas as pd

    from analysis.claims.claim import Claim
    from analysis.claims.subject import Subject

FILE = "paper_claims"
REPLICATION, OTHER_DATA, OTHER_MODEL = "the paper's model and data", "the paper's model, other data", "this model, not the paper's"


@dataclass(frozen=True)
class PaperClaims:
    """Hold the claims of NOTICE, Palit et al., Basu et al. and Zhang et al. against results.

    python -m analysis.paper_claims --results results
    """

    resamples: int = 1000
    """Bootstrap resamples of the samples."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = 0
    """Seed of the resamples."""
    results: Path = Path("results")
    """Results folder, as written by run_all.py."""


def find(results: Path, options: PaperClaims | None = None, claims: "Sequence[Claim] | None" = None) -> "pd.DataFrame":
    """Judge each claim on each model (and data set, where it is tested on each apart) of the kind that it is about.

    A claim that no model in the folder can test has one row, for the paper's model, with what would have to be run.

    Parameters
    ----------
    claims : entries of `analysis.claims.table.CLAIMS`; without them, all

    Returns
    -------
    A data frame with a row for each claim and subject. Columns: id, paper, source, says; papers_models, papers_data (those of the paper);
    model, dataset (those in the folder), setting (the paper's model and data; its model, other data; not its model); test (the statistic
    and the rule); result (holds, does not hold, undecided, not run); figure (in words), value, low, high (of the first estimate, NaN where
    there is none); note; files (what it was read from, relative to the folder); command (what to run where it was not; RESULTS stands for
    the folder)

    Raises
    ------
    ResultsError
        When there is no results folder, a file in it is damaged (names the file), or an option is wrong.

    >>> from analysis.claims.table import CLAIMS
    >>> rows = find(Path("results"), PaperClaims(resamples=20), CLAIMS[:2])
    >>> rows[["id", "model", "result"]].values.tolist()  # no claim about BLIP's heads can be tested on this folder
    [['notice-blip-vision', 'blip-vqa-base', 'not run'], ['notice-blip-multimodal', 'blip-vqa-base', 'not run']]
    """
    import pandas as pd

    from analysis.claims.folder import Folder
    from analysis.claims.table import CLAIMS
    from analysis.corruptions.options import Comparing
    from analysis.store.folder import effects_files

    options = options or PaperClaims()
    comparing = Comparing(resamples=options.resamples, confidence=options.confidence, seed=options.seed)
    effects_files(results)
    folder = Folder(Path(results), comparing)
    subjects = ((claim, claim.subjects(folder) or [claim.papers_subject(folder)]) for claim in claims or CLAIMS)
    return pd.DataFrame([_row(claim, subject) for claim, of_claim in subjects for subject in of_claim])


def _row(claim: "Claim", subject: "Subject") -> dict[str, Any]:
    finding, command = claim.test_on(subject)
    first = finding.estimates[0] if finding.estimates else None
    setting = REPLICATION if set(subject.datasets) <= set(claim.data) else OTHER_DATA
    return {
        "id": claim.id,
        "paper": claim.paper.name,
        "source": claim.source,
        "says": claim.says,
        "papers_models": " ".join(claim.models.papers),
        "papers_data": " ".join(claim.data),
        "model": subject.model,
        "dataset": ", ".join(subject.datasets),
        "setting": setting if subject.model in claim.models.papers else OTHER_MODEL,
        "test": claim.test,
        "result": finding.result,
        "figure": "; ".join(map(str, finding.estimates)),
        **{name: getattr(first, name, float("nan")) for name in ("value", "low", "high")},
        "note": finding.note,
        "files": " ".join(str(path.relative_to(subject.folder.path)) for path in finding.files),
        "command": command,
    }


def write(results: Path, options: PaperClaims | None = None) -> "Written[pd.DataFrame]":
    """`find`, then write `paper_claims.csv` and `paper_claims.md` into the results folder.

    >>> written = write(Path("results"), PaperClaims(resamples=20))
    >>> [path.name for path in written.paths]
    ['paper_claims.csv', 'paper_claims.md']
    >>> written.words.splitlines()[0].startswith(f"{len(written.data)} rows of 51 claims: ")
    True
    """
    from analysis.claims.page import markdown, summary
    from analysis.store.folder import write_whole
    from analysis.store.tables import write_table

    options = options or PaperClaims()
    rows, paths = find(results, options), (Path(results) / f"{FILE}.csv", Path(results) / f"{FILE}.md")
    write_table(rows, paths[0])
    page = markdown(rows, options.confidence)
    write_whole(paths[1], lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return Written(rows, paths, summary(rows))


def main() -> None:
    """Command line."""
    run_command(FILE, PaperClaims, write)


if __name__ == "__main__":
    main()
