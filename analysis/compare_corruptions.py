"""The same effects under every corruption: results folder -> `compare_corruptions.{nc,csv}`, `compare_corruptions_ranks.csv` and figures.

Which thirds of the network hold the effect, whether corruptions rank heads alike, and whether NOTICE's claim (its Figure 4) holds: that
noise's effect is confined to the last layers, and SIP's and STR's is not. Only files of the same model, data set, component, direction,
window and definition are compared.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.corruptions.options import Comparing
from analysis.store.written import Written, run_command

if TYPE_CHECKING:
    import xarray as xr

FILE = "compare_corruptions"


@dataclass(frozen=True)
class CompareCorruptions(Comparing):
    """Set the effects under all corruptions of a model side by side: maps, thirds of the network, rank correlations.

    python -m analysis.compare_corruptions --results results --component cross_attention
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""


def find(results: Path, options: Comparing | None = None) -> dict[str, "xr.Dataset"]:
    """Compare the corruptions of all that is alike in a results folder.

    Returns
    -------
    By <model>/<dataset>/<component>, see `corruptions.comparable.compare_folder`.

    Raises
    ------
    ResultsError
        When a file is damaged, or there is nothing of the model, data set or component that is asked for.
    NothingToAnalyse
        When nothing can be compared; says what there is, and what makes more.

    >>> compared = find(Path("results"), CompareCorruptions(component="mlp", resamples=20))
    >>> compared["blip-small/shapes/mlp"]["third_of_layer"].values
    array(['early', 'middle', 'middle', 'late'], dtype='<U6')
    """
    from analysis.corruptions.comparable import compare_folder

    return compare_folder(Path(results), options or Comparing())[0]


def write(results: Path, options: Comparing | None = None) -> Written[dict[str, "xr.Dataset"]]:
    """`find`, then write tables and figures into the results folder.

    `compare_corruptions.nc` has a group <model>/<dataset>/<component> for each comparison, the CSV files the rows of
    `corruptions.tables.share_table` and `rank_table`, `figures/<model>/<dataset>/` two figures a comparison. A later run replaces the
    tables. The words say what was left out, and why.

    >>> written = write(Path("results"), CompareCorruptions(component="mlp", resamples=20))
    >>> written.words.splitlines()[0]
    'blip-small/shapes/mlp, share of mean |effect| in layers 0 | 1-2 | 3:'
    >>> sorted(path.name for path in Path("results/figures/blip-small/shapes").glob("compare-*.png"))
    ['compare-mlp-by-layer.png', 'compare-mlp.png']
    """
    from analysis.corruptions import tables
    from analysis.corruptions.comparable import compare_folder
    from analysis.plots.corruptions import draw_layers, draw_maps
    from analysis.plots.style import save, styled
    from analysis.products import FIGURES_FOLDER
    from analysis.store.folder import write_tree
    from analysis.store.tables import write_table

    results = Path(results)
    comparisons, left_out = compare_folder(results, options or Comparing())
    paths = (results / f"{FILE}.nc", results / f"{FILE}.csv", results / f"{FILE}_ranks.csv")
    write_tree(comparisons, paths[0])
    write_table(tables.share_table(comparisons), paths[1])
    write_table(tables.rank_table(comparisons), paths[2])
    with styled():
        for group, compared in comparisons.items():
            folder, name = (results / FIGURES_FOLDER / group).parent, f"compare-{Path(group).name}"
            save(draw_maps(compared), folder / f"{name}.png")
            save(draw_layers(compared), folder / f"{name}-by-layer.png")
    return Written(comparisons, paths, "\n".join([tables.summary(comparisons), *(f"left out: {reason}" for reason in left_out)]))


def main() -> None:
    """Command line."""
    run_command(FILE, CompareCorruptions, write)


if __name__ == "__main__":
    main()
