"""Every figure of a results folder: files of interventions and analyses -> (name below `figures/`, figure), one after the other."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from analysis import products
from analysis.heads.power import COLUMNS as POWER_COLUMNS
from analysis.heads.robust_tables import OVERLAP
from analysis.plots import ablation, attention, curves, functions, gradients, head_maps, module_maps, overlap, overlays, tasks
from analysis.plots import corruptions as corruption_plots
from analysis.store.folder import (
    DAMAGED,
    ResultsError,
    attention_files,
    damaged,
    effects_files,
    is_older,
    read_effects,
    read_groups,
    read_tree,
)
from analysis.store.tables import read_table
from interventions.models.sites import SITES
from interventions.results.metrics import METRICS

Drawn = Iterator[tuple[str, Figure | None]]  # the name below figures/, without suffix; None where the figure that is there is kept
OF_INTERVENTIONS: dict[str, Callable[[xr.Dataset], Figure | None]] = {  # by product
    "ablation": ablation.draw_ablation,
    "knockout": ablation.draw_knockout,
    "attribution": gradients.draw_attribution,
    "direct effects": gradients.draw_direct,
}
SIDE_BY_SIDE: dict[str, dict[str, Callable[[xr.Dataset], Figure]]] = {  # by product: what follows the figure's name
    "modules": {"": module_maps.draw_side_by_side},
    "corruptions side by side": {"": corruption_plots.draw_maps, "-by-layer": corruption_plots.draw_layers},
}


def every_figure(results: Path, metric: str = "logit_difference", samples: int = 4, heads: int = 6) -> Drawn:
    """Every figure that the results allow, under its name below `figures/`.

    Module maps need effects of modules, head maps effects of heads, overlays an attention file and `universal_heads.nc`. What is older
    than what it is made of (`products.is_stale`) is not drawn. What `modules` and `compare_corruptions` drew is kept where their files are
    older.

    Parameters
    ----------
    metric : the effect drawn of files of effects: one of `METRICS`
    samples, heads : rows and most head columns of an overlay

    Raises
    ------
    ResultsError
        When there is no results folder, nothing in it to draw, no such metric, or a damaged file.

    >>> name, figure = next(every_figure(Path("results")))
    >>> name, len(figure.axes)
    ('blip-small/shapes/sip-modules', 8)
    """
    results = Path(results)
    if metric not in METRICS:
        raise ResultsError(f"there is no metric {metric!r}; choose one of {', '.join(METRICS)}")
    if not effects_files(results) and not attention_files(results):
        run = products.whole_study(results)
        raise ResultsError(f"nothing to draw below {results.absolute()}: it has no <model>/<dataset>/<corruption>/*.nc; run `{run}` first")
    universal = _tree(results, "universal heads")
    yield from _module_maps(results, metric)
    yield from _head_maps(results, universal, metric)
    yield from _attention(results, universal, samples, heads)
    yield from _over_tasks(results, universal)
    yield from _side_by_side(results)
    yield from _other_interventions(results)


def _module_maps(results: Path, metric: str) -> Drawn:
    modules = [file for file in effects_files(results) if not file.heads]
    for model, dataset, corruption in sorted({(f.model, f.dataset, f.corruption) for f in modules}):
        together = [f for f in modules if (f.model, f.dataset, f.corruption) == (model, dataset, corruption)]
        together.sort(key=lambda file: rank_of(file.component))
        yield f"{model}/{dataset}/{corruption}-modules", module_maps.draw({f.component: read_effects(f) for f in together}, metric)


def rank_of(component: str) -> tuple[int, str]:
    """The place of a component among others: the sites in their order, then those of other names and windows.

    >>> sorted(["neurons", "mlp-window3", "block", "mlp"], key=rank_of)
    ['mlp', 'block', 'mlp-window3', 'neurons']
    """
    names = list(SITES)
    return names.index(component) if component in SITES else len(names), component


def _head_maps(results: Path, universal: dict[str, xr.Dataset], metric: str) -> Drawn:
    for file in (f for f in effects_files(results) if f.heads):
        figure = head_maps.draw(read_effects(file), universal.get(file.model), metric)
        yield f"{file.model}/{file.dataset}/{file.corruption}-{file.component}-heads", figure


def _attention(results: Path, universal: dict[str, xr.Dataset], samples: int, heads: int) -> Drawn:
    named = _tree(results, "head functions")
    for (model, dataset), path in attention_files(results).items():
        with xr.open_dataset(path, engine="netcdf4") as maps:
            of_model = universal.get(model)
            same = of_model is not None and of_model.attrs["component"] == maps.attrs.get("component", of_model.attrs["component"])
            if of_model is None or not same or not maps.sizes["sample"]:
                continue
            chosen = telling_heads(of_model, heads)
            notes = {at: _note(at, of_model, named.get(model)) for at in chosen}
            if "image" in maps:
                shown = one_of_each(maps["category"].values, samples)
                yield f"{model}/{dataset}/attention-overlays", overlays.draw(maps, shown, chosen, notes)
            yield f"{model}/{dataset}/attention-means", attention.draw(maps, chosen, notes)


def _over_tasks(results: Path, universal: dict[str, xr.Dataset]) -> Drawn:
    """What is judged over all tasks of a model."""
    for model, of_model in universal.items():
        yield f"{model}/heads-by-task", tasks.draw_thresholds(of_model)
    for model, named in _tree(results, "head functions").items():
        yield f"{model}/head-functions", functions.draw(named, universal.get(model))
    robust = _tree(results, "robust heads")
    shared = read_table(results / "robust_overlap.csv", OVERLAP) if robust else None
    for model, of_model in robust.items():
        yield f"{model}/head-intervals", tasks.draw_intervals(of_model)
        if shared is not None and (rows := shared[shared["model"] == model]).size:
            yield f"{model}/overlap-heads", overlap.draw_heads(of_model, rows)
            yield f"{model}/overlap-matrix", overlap.draw_matrix(of_model, rows)
    for model, stability in _tree(results, "stability").items():
        yield f"{model}/stability", curves.draw_stability(stability, model)
    power = _fresh(results, "power")
    for model, rows in read_table(power, POWER_COLUMNS).groupby("model") if power else []:
        yield f"{model}/power", curves.draw_power(rows)


def _fresh(results: Path, product: str) -> Path | None:
    """The first file of a product; None where it is not there, or is older than what it is made of."""
    path = results / products.PRODUCTS[product].files[0]
    return path if path.is_file() and not products.is_stale(path, results) else None


def _tree(results: Path, product: str) -> dict[str, xr.Dataset]:
    path = _fresh(results, product)
    return read_tree(path) if path else {}


def _side_by_side(results: Path) -> Drawn:
    """Corruptions beside each other, under the names that the analyses give these figures; None where they have just drawn them."""
    for product, draws in SIDE_BY_SIDE.items():
        path = _fresh(results, product)
        if path is None:
            continue
        for place, of_place in read_groups(path).items():
            for what, draw in draws.items():
                name = f"{Path(place).parent}/{path.stem.split('_')[0]}-{Path(place).name}{what}"
                pictures = [results / products.FIGURES_FOLDER / f"{name}{suffix}" for suffix in (".png", ".pdf")]
                kept = all(picture.is_file() and not is_older(picture, [path]) for picture in pictures)
                yield name, None if kept else draw(of_place)


def _other_interventions(results: Path) -> Drawn:
    for product, draw in OF_INTERVENTIONS.items():
        for path in products.files(results, product):
            model, dataset, *more = path.relative_to(results).with_suffix("").parts
            try:
                with xr.open_dataset(path, engine="netcdf4") as measured:
                    figure = draw(measured.load())
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
