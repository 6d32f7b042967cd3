"""Heads that hold up: effects of heads -> `robust_heads.{nc,csv}`, `robust_universal.csv` and `robust_overlap.csv`.

What makes a head important and universal is in `robust_rule`; what the tables hold in `robust_tables`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
import xarray as xr

from analysis.heads import robust_tables as tables
from analysis.heads.measured import measured
from analysis.heads.power import power, power_text
from analysis.heads.robust_rule import RobustRule, judge
from analysis.store.command import reporting
from analysis.store.folder import ResultsError, write_tree, write_whole

FILE = "robust_heads"


def find(results: Path, rule: RobustRule | None = None) -> dict[str, xr.Dataset]:
    """Judge every head of every model in a results folder; one dataset a model, see `robust_rule.judge`.

    Raises
    ------
    ResultsError
        As `universal_heads.find`, and when no sample is complete.

    >>> found = find(Path("results"), RobustRule(resamples=0))["blip-small"]
    >>> [found["kind"].sel(layer=layer, head=head).item() for layer, head in ((1, 2), (0, 5), (3, 0), (2, 2))]
    ['vision', 'text', 'multimodal', 'none']
    """
    rule = rule or RobustRule()
    return {model: judge(effects, rule) for model, effects in measured(results, rule).items()}


def find_and_write(results: Path, rule: RobustRule | None = None, *, metric: str = "logit_difference") -> tuple[dict[str, xr.Dataset], str]:
    """`find`, then write what the head of this module names into the results folder.

    Parameters
    ----------
    metric : the metric to judge by where no rule is given: short for `RobustRule(metric=metric)`.

    Returns
    -------
    What `find` does, and a summary in words.

    >>> found, words = find_and_write(Path("results"), RobustRule(resamples=0, permutations=99))
    >>> words.splitlines()[0]
    'blip-small: vision: L1.H2; text: L0.H5; multimodal: L3.H0'
    >>> sorted(path.name for path in Path("results").glob("robust_*"))
    ['robust_heads.csv', 'robust_heads.nc', 'robust_overlap.csv', 'robust_universal.csv']
    """
    results = Path(results)
    found = find(results, rule or RobustRule(metric=metric))
    overlap = tables.overlap_table(found)
    write_tree(found, results / f"{FILE}.nc")
    write_table(tables.head_table(found), results / f"{FILE}.csv")
    write_table(tables.universal_table(found), results / "robust_universal.csv")
    write_table(overlap, results / "robust_overlap.csv")
    return found, tables.summary(found, overlap)


def power_and_write(results: Path, rule: RobustRule | None = None, runs: int = 100) -> pd.DataFrame:
    """`power.power` of every model in a results folder, written into it as `robust_power.csv`.

    Parameters
    ----------
    runs : simulated studies behind each number; 10 take some seconds for a model of 36 heads and three tasks, and time grows with them

    Raises
    ------
    ResultsError
        As `find`.

    >>> rows = power_and_write(Path("results"), runs=1)
    >>> rows["model"].unique().tolist(), Path("results/robust_power.csv").is_file()
    (['blip-small'], True)
    """
    rule = rule or RobustRule()
    rows = pd.concat([power(effects, rule, runs=runs) for effects in measured(Path(results), rule).values()])
    write_table(rows, Path(results) / "robust_power.csv")
    return rows


def write_table(rows: pd.DataFrame, path: Path) -> None:
    """Write a table with six digits, whole or not at all.

    >>> write_table(pd.DataFrame({"head": [0], "effect": [1 / 3]}), Path("rows.csv"))
    >>> Path("rows.csv").read_text().split()
    ['head,effect', '0,0.333333']
    """
    write_whole(path, lambda temporary: rows.to_csv(temporary, index=False, float_format="%.6g"))


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
        if self.runs < 1:
            raise ResultsError(f"runs is {self.runs}; at least one study is needed")


def main() -> None:
    """Command line."""
    import tyro

    with reporting("robust_heads"):
        options = tyro.cli(RobustHeads)
        _, words = find_and_write(options.results, options)
        print(words)
        print(f"wrote {options.results / FILE}.nc and .csv, robust_universal.csv and robust_overlap.csv")
        if options.power:
            print(power_text(power_and_write(options.results, options, options.runs)))


if __name__ == "__main__":
    main()
