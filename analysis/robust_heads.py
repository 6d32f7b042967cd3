"""Heads that hold up: effects of heads -> `robust_heads.{nc,csv}`, `robust_universal.csv` and `robust_overlap.csv`.

What makes a head important and universal is in `heads.rules`; what the tables hold in `heads.robust_tables`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.heads.options import RobustRule
from analysis.store.errors import check_positive
from analysis.store.written import Written, run_command

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

FILE = "robust_heads"


@dataclass(frozen=True)
class RobustHeads(RobustRule):
    """Find the heads of every model whose effects hold up: signed, beyond chance, in every task.

    python analysis/robust_heads.py --results results
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""
    power: bool = False
    """Also print how large an effect the rule finds at these heads and samples, and write it to robust_power.csv."""
    runs: int = 100
    """Simulated studies behind each number of --power."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "runs")


def find(results: Path, options: RobustRule | None = None) -> dict[str, "xr.Dataset"]:
    """Judge every head of every model in a results folder; one dataset a model, see `heads.robust.judge`.

    Raises
    ------
    ResultsError
        As `universal_heads.find`, and when no sample is complete.

    >>> kind = find(Path("results"), RobustHeads(resamples=0))["blip-small"]["kind"]
    >>> [kind.sel(layer=layer, head=head).item() for layer, head in ((1, 2), (0, 5), (3, 0), (2, 2))]
    ['vision', 'text', 'multimodal', 'none']
    """
    from analysis.heads.head_effects import read_head_effects
    from analysis.heads.robust import judge

    options = options or RobustRule()
    return {model: judge(effects, options) for model, effects in read_head_effects(results, options).items()}


def write(results: Path, options: RobustRule | None = None) -> Written[dict[str, "xr.Dataset"]]:
    """`find`, then write what the head of this module names into the results folder.

    >>> written = write(Path("results"), RobustHeads(resamples=0, permutations=99))
    >>> written.words.splitlines()[0]
    'blip-small: vision: L1.H2; text: L0.H5; multimodal: L3.H0'
    >>> [path.name for path in written.paths]
    ['robust_heads.nc', 'robust_heads.csv', 'robust_universal.csv', 'robust_overlap.csv']
    """
    from analysis.heads import robust_tables as tables
    from analysis.store.folder import write_tree
    from analysis.store.tables import write_table

    heads = find(results, options)
    overlap, file = tables.overlap_table(heads), Path(results) / f"{FILE}.nc"
    write_tree(heads, file)
    rows = {FILE: tables.head_table(heads), "robust_universal": tables.universal_table(heads), "robust_overlap": overlap}
    paths = {Path(results) / f"{name}.csv": table for name, table in rows.items()}
    for path, table in paths.items():
        write_table(table, path)
    return Written(heads, (file, *paths), tables.summary(heads, overlap))


def write_power(results: Path, options: RobustHeads | None = None) -> Written["pd.DataFrame"]:
    """How large an effect each rule finds, by simulation (`heads.power.power`) of every model, as `robust_power.csv`.

    10 `runs` take some seconds for a model of 36 heads and three tasks, and time grows with them.

    Raises
    ------
    ResultsError
        As `find`.

    >>> written = write_power(Path("results"), RobustHeads(runs=1))
    >>> written.data["model"].unique().tolist(), written.paths
    (['blip-small'], (PosixPath('results/robust_power.csv'),))
    """
    import pandas as pd

    from analysis.heads.head_effects import read_head_effects
    from analysis.heads.power import power, power_text
    from analysis.store.tables import write_table

    options = options or RobustHeads()
    rows = pd.concat([power(effects, options, runs=options.runs) for effects in read_head_effects(results, options).values()])
    path = Path(results) / "robust_power.csv"
    write_table(rows, path)
    return Written(rows, (path,), power_text(rows))


def _write_all(results: Path, options: RobustHeads) -> Written[dict[str, "xr.Dataset"]]:
    written = write(results, options)
    if not options.power:
        return written
    power = write_power(results, options)
    return Written(written.data, written.paths + power.paths, f"{written.words}\n\n{power.words}")


def main() -> None:
    """Command line."""
    run_command(FILE, RobustHeads, _write_all)


if __name__ == "__main__":
    main()
