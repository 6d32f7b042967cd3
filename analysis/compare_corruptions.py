"""The same effects under every corruption: results folder -> `compare_corruptions.{nc,csv}`, `compare_corruptions_ranks.csv` and figures.

Which thirds of the network hold the effect, whether corruptions rank heads alike, and whether NOTICE's claim (its Figure 4) holds here:
that noise's effect is confined to the last layers, and SIP's and STR's is not. Only files of the same model, data set, component,
direction, window and definition are compared.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xarray as xr

from analysis.corruptions import views
from analysis.corruptions.comparable import Like, alike_effects, places, side_by_side
from analysis.corruptions.statistics import NOISE, SCORES, SEMANTIC, TEST, Comparing, claim, compare
from analysis.figures import FOLDER
from analysis.plots.style import save, styled
from analysis.stats.thirds import thirds
from analysis.store.command import reporting
from analysis.store.folder import ResultsError, write_tree, write_whole
from interventions.results.metrics import unit_of

__all__ = ["Comparing", "NothingToCompare", "claim", "compare", "find", "find_and_write", "thirds"]
FILE = "compare_corruptions"


class NothingToCompare(ResultsError):
    """No component of any model was patched under two corruptions that can be compared."""


def find(results: Path, options: Comparing | None = None) -> tuple[dict[str, xr.Dataset], list[str]]:
    """Compare the corruptions of all that is alike in a results folder.

    Returns
    -------
    By <model>/<dataset>/<component>, what `compare` gives, with claim [corruption] (see `claim`; "" where it is not of that corruption) and
    the settings as attributes; and in words what could not be compared and why.

    Raises
    ------
    ResultsError
        When there is nothing to compare; says what there is, and what makes more.

    >>> found, left_out = find(Path("results"), Comparing(component="mlp", resamples=20))
    >>> list(found), left_out
    (['blip-small/shapes/mlp'], [])
    >>> found["blip-small/shapes/mlp"]["third_of_layer"].values
    array(['early', 'middle', 'middle', 'late'], dtype='<U6')
    """
    options, results = options or Comparing(), Path(results)
    found, left_out = {}, []
    for files in places(results, options):
        for like, of_like in alike_effects(files).items():
            kept, reasons = side_by_side(of_like, like, results, options)
            left_out += [f"{like.place}: {reason}" for reason in reasons]
            if kept is None:
                continue
            found[like.place] = _described(compare(kept, options).assign_coords(modality=kept["modality"]), kept, like, options)
    if not found:
        raise NothingToCompare(f"nothing to compare below {results.absolute()}:\n  " + "\n  ".join(left_out))
    return found, left_out


def _described(compared: xr.Dataset, effects: xr.DataArray, like: Like, options: Comparing) -> xr.Dataset:
    """With the claim for each corruption by noise, and the settings."""
    names = [str(name) for name in compared["corruption"].values]
    noises, others = [name for name in names if name.startswith(NOISE)], [name for name in names if name in SEMANTIC]
    judged = [claim(compared, name, others, options.confined) if name in noises and others else "" for name in names]
    compared["claim"] = ("corruption", judged)
    for name in SCORES:
        compared[name].attrs["units"] = unit_of(options.metric)
    missing = "" if noises and others else f"no {' or '.join(SEMANTIC) if noises else NOISE}"
    compared.attrs = vars(like) | {name: getattr(options, name) for name in ("metric", "confined", "resamples", "confidence", "seed")}
    compared.attrs |= {"heads": int(like.heads), "token": str(effects["token"].item()) if like.heads else ""}
    return compared.assign_attrs(test=TEST.format(options.confined), against=", ".join(others), not_judged=missing)


def find_and_write(results: Path, options: Comparing | None = None) -> tuple[dict[str, xr.Dataset], str]:
    """`find`, then write tables and figures into the results folder.

    `compare_corruptions.nc` has a group <model>/<dataset>/<component> for each comparison, the CSV files the rows of `share_table` and
    `rank_table`, `figures/<model>/<dataset>/` two figures a comparison. A later run replaces the tables.

    Returns
    -------
    What `find` does, and all in words.

    >>> found, words = find_and_write(Path("results"), Comparing(component="mlp", resamples=20))
    >>> words.splitlines()[0]
    'blip-small/shapes/mlp, share of mean |effect| in layers 0 | 1-2 | 3:'
    >>> sorted(path.name for path in Path("results/figures/blip-small/shapes").glob("compare-*.png"))
    ['compare-mlp-by-layer.png', 'compare-mlp.png']
    """
    results = Path(results)
    found, left_out = find(results, options)
    shares, ranks = views.share_table(found), views.rank_table(found)
    write_tree(found, results / f"{FILE}.nc")
    for name, table in {f"{FILE}.csv": shares, f"{FILE}_ranks.csv": ranks}.items():
        write_whole(results / name, lambda temporary, table=table: table.to_csv(temporary, index=False, float_format="%.6g"))  # type: ignore[misc]
    with styled():
        for place, compared in found.items():
            folder, name = (results / FOLDER / place).parent, f"compare-{Path(place).name}"
            save(views.draw_maps(compared), folder / f"{name}.png")
            save(views.draw_layers(compared), folder / f"{name}-by-layer.png")
    return found, "\n".join([views.summary(found), *(f"left out: {reason}" for reason in left_out)])


@dataclass(frozen=True)
class CompareCorruptions(Comparing):
    """Set the effects under all corruptions of a model side by side: maps, thirds of the network, rank correlations.

    python -m analysis.compare_corruptions --results results --component cross_attention
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""


def main() -> None:
    """Command line."""
    import tyro

    with reporting("compare_corruptions"):
        options = tyro.cli(CompareCorruptions)
        _, words = find_and_write(options.results, options)
        print(words)
        print(f"wrote {options.results / FILE}.nc and .csv, {FILE}_ranks.csv and figures into {options.results / FOLDER}")


if __name__ == "__main__":
    main()
