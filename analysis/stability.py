"""How heads and their order hold up with fewer samples: effects of heads -> `stability.{nc,csv}`.

A subsample of n samples of a task is set beside the rest, many times, for growing n: by the rank correlation of the heads' scores, and by
the heads that both name over those that either names. Scores are mean |effect| for NOTICE's rule, mean effects for the robust rule.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.heads.options import Subsampling
from analysis.store.errors import NothingToAnalyse
from analysis.store.written import Written, run_command

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

FILE = "stability"


@dataclass(frozen=True)
class Stability(Subsampling):
    """Set subsamples of a study beside the rest of it: do the same heads come out, in the same order?

    python analysis/stability.py --results results
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""


def find(results: Path, options: Subsampling | None = None) -> dict[str, "xr.Dataset"]:
    """How subsamples of each task of every model agree with the rest: (rule, corruption, task, samples), see `heads.subsampling.stability`.

    Raises
    ------
    ResultsError
        As `universal_heads.find`.
    NothingToAnalyse
        When every task has one sample.

    >>> agreement = find(Path("results"), Stability(repeats=5))["blip-small"]
    >>> float(agreement["jaccard"].sel(rule="robust", corruption="sip", task="shapes/shape", samples=6))
    1.0
    """
    return _find(results, options or Subsampling())[0]


def _find(results: Path, options: Subsampling) -> tuple[dict[str, "xr.Dataset"], "pd.DataFrame"]:
    import pandas as pd

    from analysis.heads.head_effects import read_head_effects
    from analysis.heads.subsampling import by_coordinates, stability

    rows = {model: stability(effects, options) for model, effects in read_head_effects(results, options).items()}
    agreement = {
        model: by_coordinates(of_model).assign_attrs(options.attributes(Subsampling)) for model, of_model in rows.items() if len(of_model)
    }
    if not agreement:
        raise NothingToAnalyse(
            f"every task below {Path(results).absolute()} has one sample, which cannot be taken apart; run more with --samples"
        )
    return agreement, pd.concat(rows.values(), ignore_index=True)


def write(results: Path, options: Subsampling | None = None) -> Written[dict[str, "xr.Dataset"]]:
    """`find`, then write `stability.nc` (a group a model) and `stability.csv` into the results folder.

    >>> written = write(Path("results"), Stability(repeats=5))
    >>> written.words.splitlines()[0], [path.name for path in written.paths]
    ('blip-small, means over tasks', ['stability.nc', 'stability.csv'])
    """
    from analysis.heads.subsampling import summary
    from analysis.store.folder import write_tree
    from analysis.store.tables import write_table

    agreement, rows = _find(results, options or Subsampling())
    paths = Path(results) / f"{FILE}.nc", Path(results) / f"{FILE}.csv"
    write_tree(agreement, paths[0])
    write_table(rows, paths[1])
    return Written(agreement, paths, summary(rows))


def main() -> None:
    """Command line."""
    run_command(FILE, Stability, write)


if __name__ == "__main__":
    main()
