"""Figures: a results folder -> `figures/<model>/<dataset>/`: module maps, head maps and attention overlays, as PNG and PDF."""

import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import xarray as xr

from analysis import head_maps, module_maps, overlays
from analysis.drawing import UNITS, save, styled
from analysis.results import COMPONENTS, EffectsFile, ResultsError, attention_files, effects_files, read_effects, read_tree

FOLDER = "figures"
METRICS = tuple(UNITS)


def draw_all(results: Path, metric: str = "logit_difference", samples: int = 4, heads: int = 6) -> list[Path]:
    """Draw every figure that the results allow; returns the PNGs, each with a PDF of the same name beside it.

    Module maps need effects of modules, head maps effects of heads, overlays an attention file and `universal_heads.nc`.

    Parameters
    ----------
    metric : the effect drawn: logit_difference, restoration_probability, log_odds or normalized_effect.
    samples, heads : rows and most head columns of an overlay.

    Raises
    ------
    ResultsError
        When there is no results folder, nothing in it to draw, no such metric, or a damaged file.
    """
    results = Path(results)
    if metric not in METRICS:
        raise ResultsError(f"there is no metric {metric!r}; choose one of {', '.join(METRICS)}")
    files, attention = effects_files(results), attention_files(results)
    if not files and not attention:
        raise ResultsError(
            f"nothing to draw below {results.absolute()}: it has no <model>/<dataset>/<corruption>/*.nc; run `python run_all.py` first"
        )
    universal, functions = read_tree(results / "universal_heads.nc"), read_tree(results / "head_functions.nc")
    with styled():
        drawn = _module_maps(results, files, metric) + _head_maps(results, files, universal, metric)
        for (model, dataset), path in attention.items():
            drawn += _overlay(results / FOLDER / model / dataset, path, universal.get(model), functions.get(model), samples, heads)
    return drawn


def _module_maps(results: Path, files: list[EffectsFile], metric: str) -> list[Path]:
    drawn = []
    modules = [file for file in files if not file.heads]
    for model, dataset, corruption in sorted({(f.model, f.dataset, f.corruption) for f in modules}):
        here = [f for f in modules if (f.model, f.dataset, f.corruption) == (model, dataset, corruption)]
        here.sort(key=lambda f: (COMPONENTS.index(f.component) if f.component in COMPONENTS else len(COMPONENTS), f.component))
        figure = module_maps.draw({f.component: read_effects(f) for f in here}, metric)
        drawn.append(save(figure, results / FOLDER / model / dataset / f"{corruption}-modules.png"))
    return drawn


def _head_maps(results: Path, files: list[EffectsFile], universal: dict[str, xr.Dataset], metric: str) -> list[Path]:
    drawn = []
    for file in (f for f in files if f.heads):
        figure = head_maps.draw(read_effects(file), universal.get(file.model), metric)
        drawn.append(save(figure, results / FOLDER / file.model / file.dataset / f"{file.corruption}-{file.component}-heads.png"))
    return drawn


def _overlay(folder: Path, path: Path, universal: xr.Dataset | None, functions: xr.Dataset | None, samples: int, heads: int) -> list[Path]:
    with xr.open_dataset(path, engine="netcdf4") as attention:
        same = universal is not None and universal.attrs["component"] == attention.attrs.get("component", universal.attrs["component"])
        if universal is None or not same or "image" not in attention or not attention.sizes["sample"]:
            return []
        chosen = telling_heads(universal, heads)
        notes = {at: _note(at, universal, functions) for at in chosen}
        return [
            save(
                overlays.draw(attention, one_of_each(attention["category"].values, samples), chosen, notes),
                folder / "attention-overlays.png",
            )
        ]


def telling_heads(universal: xr.Dataset, most: int) -> list[tuple[int, int]]:
    """The universal heads, strongest first, then the strongest others: (layer, head), at least two of them others where there is room."""
    strength = universal["mean_absolute_effect"].mean("task").max("corruption").values
    order = [
        (int(layer), int(head))
        for layer, head in zip(*np.unravel_index(np.argsort(-strength, axis=None, kind="stable"), strength.shape), strict=True)
    ]
    named = [at for at in order if universal["kind"].values[at] != "none"]
    others = [at for at in order if at not in named][:2]
    return (named[: max(most - len(others), 1)] + others)[:most]


def one_of_each(categories: np.ndarray, most: int) -> list[int]:
    """Positions of samples to show: the first of each category, then the second of each, until there are `most`."""
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
    """Draw module maps, head maps and attention overlays of a results folder.

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

    try:
        options = tyro.cli(Figures)
        drawn = draw_all(options.results, options.metric, options.samples, options.heads)
    except (ResultsError, OSError) as error:
        raise SystemExit(f"figures: {error}") from None
    print(f"drew {len(drawn)} figures into {options.results / FOLDER}")


if __name__ == "__main__":
    main()
