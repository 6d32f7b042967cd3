"""Figures: a results folder -> `figures/`: everything in it that can be drawn, as PNG and PDF, one or two columns wide.

`figures/<model>/<dataset>/` has what one data set shows, `figures/<model>/` what is judged over all of a model's tasks. What has no file
is not drawn; `figures/not_drawn.txt` says so, with the command that would make it.
"""

import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from analysis.corruptions import views as corruption_views
from analysis.heads.power import COLUMNS as POWER_COLUMNS
from analysis.heads.robust_tables import OVERLAP
from analysis.plots import ablation as figure_ablation
from analysis.plots import attention as figure_attention
from analysis.plots import curves as figure_curves
from analysis.plots import functions as figure_functions
from analysis.plots import gradients as figure_gradients
from analysis.plots import head_maps, module_maps, overlays
from analysis.plots import overlap as figure_overlap
from analysis.plots import tasks as figure_tasks
from analysis.plots.style import UNITS, save, styled
from analysis.products import not_drawn
from analysis.store.command import reporting
from analysis.store.folder import (
    COMPONENTS,
    DAMAGED,
    EffectsFile,
    ResultsError,
    attention_files,
    damaged,
    effects_files,
    is_older,
    read_effects,
    read_groups,
    read_tree,
    stale,
    write_whole,
)
from analysis.store.tables import read_written

FOLDER = "figures"
NOT_DRAWN = "not_drawn.txt"
METRICS = tuple(UNITS)
Drawn = Iterator[tuple[str, Figure]]  # the name below figures/, without suffix


def draw_all(results: Path, metric: str = "logit_difference", samples: int = 4, heads: int = 6) -> list[Path]:
    """Draw every figure that the results allow; returns the PNGs, each with a PDF of the same name beside it.

    Module maps need effects of modules, head maps effects of heads, overlays an attention file and `universal_heads.nc`; `not_drawn` names
    the commands that make the rest, also where a file is older than the effects that it is made of (`results.stale`), which is not drawn.
    What `modules` and `compare_corruptions` drew themselves is kept where their files are older.

    Parameters
    ----------
    metric : the effect drawn of files of effects: logit_difference, restoration_probability, log_odds or normalized_effect.
    samples, heads : rows and most head columns of an overlay.

    Raises
    ------
    ResultsError
        When there is no results folder, nothing in it to draw, no such metric, or a damaged file.

    >>> drawn = draw_all(Path("results"))
    >>> sorted(path.relative_to("results/figures").as_posix() for path in drawn)[:2]
    ['blip-small/shapes/sip-cross_attention-heads.png', 'blip-small/shapes/sip-modules.png']
    >>> Path("results/figures/not_drawn.txt").read_text().splitlines()[-1]
    'comparison of corruptions: python -m analysis.compare_corruptions --results results'
    """
    results = Path(results)
    if metric not in METRICS:
        raise ResultsError(f"there is no metric {metric!r}; choose one of {', '.join(METRICS)}")
    files, attention = effects_files(results), attention_files(results)
    if not files and not attention:
        raise ResultsError(
            f"nothing to draw below {results.absolute()}: it has no <model>/<dataset>/<corruption>/*.nc; run `python run_all.py` first"
        )
    universal = _tree(results, "universal_heads")
    with styled():
        drawn = [
            save(figure, results / FOLDER / f"{name}.png") if figure is not None else results / FOLDER / f"{name}.png"
            for source in (
                _module_maps(files, metric),
                _head_maps(files, universal, metric),
                _attention(results, attention, universal, samples, heads),
                _over_tasks(results, universal),
                _side_by_side(results),
                _other_interventions(results),
            )
            for name, figure in source
        ]
    missing = "".join(f"{figure}: {command}\n" for figure, command in not_drawn(results))
    write_whole(results / FOLDER / NOT_DRAWN, lambda temporary: temporary.write_text(missing or "everything was drawn\n", encoding="utf-8"))
    return drawn


def _module_maps(files: list[EffectsFile], metric: str) -> Drawn:
    modules = [file for file in files if not file.heads]
    for model, dataset, corruption in sorted({(f.model, f.dataset, f.corruption) for f in modules}):
        here = [f for f in modules if (f.model, f.dataset, f.corruption) == (model, dataset, corruption)]
        here.sort(key=lambda f: (COMPONENTS.index(f.component) if f.component in COMPONENTS else len(COMPONENTS), f.component))
        yield f"{model}/{dataset}/{corruption}-modules", module_maps.draw({f.component: read_effects(f) for f in here}, metric)


def _head_maps(files: list[EffectsFile], universal: dict[str, xr.Dataset], metric: str) -> Drawn:
    for file in (f for f in files if f.heads):
        figure = head_maps.draw(read_effects(file), universal.get(file.model), metric)
        yield f"{file.model}/{file.dataset}/{file.corruption}-{file.component}-heads", figure


def _attention(results: Path, files: dict[tuple[str, str], Path], universal: dict[str, xr.Dataset], samples: int, heads: int) -> Drawn:
    functions = _tree(results, "head_functions")
    for (model, dataset), path in files.items():
        with xr.open_dataset(path, engine="netcdf4") as attention:
            of_model = universal.get(model)
            same = of_model is not None and of_model.attrs["component"] == attention.attrs.get("component", of_model.attrs["component"])
            if of_model is None or not same or not attention.sizes["sample"]:
                continue
            chosen = telling_heads(of_model, heads)
            notes = {at: _note(at, of_model, functions.get(model)) for at in chosen}
            if "image" in attention:
                shown = one_of_each(attention["category"].values, samples)
                yield f"{model}/{dataset}/attention-overlays", overlays.draw(attention, shown, chosen, notes)
            yield f"{model}/{dataset}/attention-means", figure_attention.draw(attention, chosen, notes)


def _over_tasks(results: Path, universal: dict[str, xr.Dataset]) -> Drawn:
    """What is judged over all tasks of a model."""
    for model, of_model in universal.items():
        yield f"{model}/heads-by-task", figure_tasks.draw_thresholds(of_model)
    for model, functions in _tree(results, "head_functions").items():
        yield f"{model}/head-functions", figure_functions.draw(functions, universal.get(model))
    overlap = _table(results, "robust_overlap", OVERLAP)
    for model, robust in _tree(results, "robust_heads").items():
        yield f"{model}/head-intervals", figure_tasks.draw_intervals(robust)
        if overlap is not None and (of_model := overlap[overlap["model"] == model]).size:
            yield f"{model}/overlap-heads", figure_overlap.draw_heads(robust, of_model)
            yield f"{model}/overlap-matrix", figure_overlap.draw_matrix(robust, of_model)
    for model, stability in _tree(results, "stability").items():
        yield f"{model}/stability", figure_curves.draw_stability(stability, model)
    power = _table(results, "robust_power", POWER_COLUMNS)
    for model, rows in power.groupby("model") if power is not None else []:
        yield f"{model}/power", figure_curves.draw_power(rows)


def _tree(results: Path, name: str) -> dict[str, xr.Dataset]:
    path = results / f"{name}.nc"
    return {} if stale(path, results) else read_tree(path)


def _table(results: Path, name: str, columns: Collection[str]) -> pd.DataFrame | None:
    path = results / f"{name}.csv"
    return read_written(path, columns) if path.is_file() and not stale(path, results) else None


def _side_by_side(results: Path) -> Iterator[tuple[str, Figure | None]]:
    """Corruptions beside each other, under the names that the analyses give these figures themselves; None where they have just done so."""
    draws: dict[str, dict[str, Callable[[xr.Dataset], Figure]]] = {
        "modules": {"": module_maps.draw_side_by_side},
        "compare_corruptions": {"": corruption_views.draw_maps, "-by-layer": corruption_views.draw_layers},
    }
    for file, of_file in draws.items():
        path = results / f"{file}.nc"
        for place, found in ({} if stale(path, results) else read_groups(path)).items():
            for what, draw in of_file.items():
                name = f"{Path(place).parent}/{file.split('_')[0]}-{Path(place).name}{what}"
                pictures = [results / FOLDER / f"{name}{suffix}" for suffix in (".png", ".pdf")]
                kept = all(picture.is_file() and not is_older(picture, [path]) for picture in pictures)
                yield name, None if kept else draw(found)


def _other_interventions(results: Path) -> Drawn:
    kinds = {
        "*/*/*/*-ablation.nc": figure_ablation.draw_ablation,
        "*/*/attention_knockout*.nc": figure_ablation.draw_knockout,
        "*/*/*/*-attribution.nc": figure_gradients.draw_attribution,
        "*/*/direct_effect.nc": figure_gradients.draw_direct,
    }
    for pattern, draw in kinds.items():
        for path in sorted(results.glob(pattern)):
            model, dataset, *more = path.relative_to(results).with_suffix("").parts
            try:
                with xr.open_dataset(path, engine="netcdf4") as dataset_of_file:
                    figure = draw(dataset_of_file.load())
            except DAMAGED as error:
                raise damaged(path) from error
            if figure is not None:
                yield f"{model}/{dataset}/{'-'.join(more)}", figure


def telling_heads(universal: xr.Dataset, most: int) -> list[tuple[int, int]]:
    """The universal heads, strongest first, then the strongest others: (layer, head), at least two of them others.

    >>> from analysis import universal_heads
    >>> found = universal_heads.find(Path("results"), universal_heads.UniversalHeads(permutations=0))["blip-small"]
    >>> telling_heads(found, most=4)
    [(0, 5), (3, 0), (1, 0), (0, 3)]
    """
    strength = universal["mean_absolute_effect"].mean("task").max("corruption").values
    order = [
        (int(layer), int(head))
        for layer, head in zip(*np.unravel_index(np.argsort(-strength, axis=None, kind="stable"), strength.shape), strict=True)
    ]
    named = [at for at in order if universal["kind"].values[at] != "none"]
    others = [at for at in order if at not in named]
    return (named[: max(most - 2, 1)] + others)[:most]


def one_of_each(categories: np.ndarray, most: int) -> list[int]:
    """Positions of samples to show: the first of each category, then the second of each, until there are `most`.

    >>> one_of_each(np.array(["a", "a", "b", "a", "b"]), most=3)
    [0, 2, 1]
    """
    turns: dict[str, int] = {}
    keyed = []
    for position, category in enumerate(categories):
        turns[category] = turns.get(category, 0) + 1
        keyed.append((turns[category], position))
    return [position for _, position in sorted(keyed)[:most]]


def _note(at: tuple[int, int], universal: xr.Dataset, functions: xr.Dataset | None) -> str:
    kind = str(universal["kind"].values[at])
    function = str(functions["function"].sel(task="overall").values[at]) if functions is not None else "none"
    return "\n".join(["not universal" if kind == "none" else kind, "" if function == "none" else function.replace("_", "\n")])


@dataclass(frozen=True)
class Figures:
    """Draw everything in a results folder that can be drawn.

    python analysis/figures.py --results results --metric logit_difference
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""
    metric: str = "logit_difference"
    """Effect to draw: logit_difference, restoration_probability, log_odds or normalized_effect."""
    samples: int = 4
    """Samples (rows) of each attention overlay."""
    heads: int = 6
    """Most heads (columns) of each attention overlay."""


def main() -> None:
    """Command line."""
    import tyro

    with reporting("figures"):
        options = tyro.cli(Figures)
        drawn = draw_all(options.results, options.metric, options.samples, options.heads)
        print(f"drew {len(drawn)} figures into {options.results / FOLDER}")
        for figure, command in not_drawn(options.results):
            print(f"not drawn: {figure}; make them with `{command}`")


if __name__ == "__main__":
    main()
