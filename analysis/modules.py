"""Effects of whole modules -> `modules.{nc,csv}`, `modules_text_image.csv` and figures: restoration maps (layer x token role), their peaks,
how much of the effect early, middle and late layers hold, and text beside image corruption.

Maps are averaged by role, of all samples, and of those with the correct option first and second apart, as in NOTICE's figures.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import xarray as xr

from analysis.corruptions.comparable import Like
from analysis.corruptions.statistics import compare
from analysis.figures import FOLDER
from analysis.module_effects import tables
from analysis.module_effects.of_file import MapRule, by_order, describe
from analysis.module_effects.statistics import holm
from analysis.plots.module_maps import draw_side_by_side
from analysis.plots.style import save, styled
from analysis.store.command import reporting
from analysis.store.folder import MODALITIES, EffectsFile, ResultsError, effects_files, read_effects, write_tree, write_whole

FILE = "modules"


@dataclass(frozen=True)
class Modules(MapRule):
    """Map the effects of whole modules: where they peak, which layers hold them, under image and under text corruption.

    python -m analysis.modules --results results --metric restoration_probability
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""


def find(results: Path, rule: MapRule | None = None) -> tuple[dict[str, xr.Dataset], pd.DataFrame]:
    """The maps of all whole modules in a results folder, one file at a time.

    Returns
    -------
    By <model>/<dataset>/<component>, what `module_effects.describe` gives with a leading dim `corruption`, image first, and p_holm (order,
    pair): p corrected over all tests of the model (Holm); and a row for each image and text corruption of the same module (see
    `module_tables.text_beside_image`).

    Raises
    ------
    ResultsError
        When there are no effects of whole modules, or a file is damaged; names the file.

    >>> found, beside = find(Path("results"), MapRule(resamples=20))
    >>> list(found)[:2], found["blip-small/shapes/mlp"]["corruption"].values.tolist()
    (['blip-small/shapes/block', 'blip-small/shapes/cross_attention'], ['sip', 'str'])
    >>> beside[["component", "image", "text"]].values.tolist()[0]
    ['block', 'sip', 'str']
    """
    rule, results = rule or MapRule(), Path(results)
    files = [file for file in effects_files(results) if not file.heads]
    if not files:
        raise ResultsError(f"no effects of whole modules below {results.absolute()}: run interventions/module_patching.py first")
    found, rows = {}, []
    for here in _alike(files):
        for like, of_like in here.items():
            described = {name: _described(file, rule) for name, file in of_like.items()}
            found[like.place] = _joined(described, like, rule)
            rows += list(_pairs(found[like.place], of_like, rule))
    for model in {dataset.attrs["model"] for dataset in found.values()}:
        _correct([dataset for dataset in found.values() if dataset.attrs["model"] == model])
    return found, tables.text_image_table(rows)


def _alike(files: list[EffectsFile]) -> Iterator[dict[Like, dict[str, EffectsFile]]]:
    """The files of each model and data set: by what they have in common, then by corruption."""
    for place in sorted({(file.model, file.dataset) for file in files}):
        alike: dict[Like, dict[str, EffectsFile]] = {}
        for file in (file for file in files if (file.model, file.dataset) == place):
            of = {"direction": "denoising", "window": 1, "definition": "ours"} | read_effects(file).attrs
            like = Like(file.model, file.dataset, of["component"], False, of["direction"], int(of["window"]), of["definition"])
            alike.setdefault(like, {})[file.corruption.removesuffix("-noising")] = file
        yield alike


def _described(file: EffectsFile, rule: MapRule) -> xr.Dataset:
    effects = read_effects(file)
    try:
        described = describe(effects, rule)
    except ResultsError as error:
        raise ResultsError(f"{file.path}: {error}") from error
    return described.assign_coords(modality=str(effects.attrs["modality"]))


def _joined(described: dict[str, xr.Dataset], like: Like, rule: MapRule) -> xr.Dataset:
    order = sorted(described, key=lambda name: (str(described[name]["modality"].item()) != MODALITIES[0], name.startswith("gauss"), name))
    shapes = {name: of.sizes["layer"] for name, of in described.items()}
    if len(set(shapes.values())) > 1:
        raise ResultsError(f"{like.place} has different numbers of layers: {shapes}; delete the stale ones")
    roles = list(dict.fromkeys(str(role) for name in order for role in described[name]["role"].values))
    of_roles = [described[name].reindex(role=np.array(roles, dtype=object)) for name in order]
    joined = xr.concat(of_roles, pd.Index(order, name="corruption"), coords="different", compat="equals")
    if "corruption" not in joined["modality"].dims:
        joined = joined.assign_coords(modality=("corruption", [str(joined["modality"].item())] * len(order)))
    joined.attrs = {name: value for name, value in vars(like).items() if name != "heads"}
    joined.attrs |= {name: getattr(rule, name) for name in MapRule.__dataclass_fields__}
    return joined


def _pairs(joined: xr.Dataset, files: dict[str, EffectsFile], rule: MapRule) -> Iterator[dict[str, object]]:
    """A row for each image and text corruption of the same module."""
    image, text = ([str(c) for c in joined["corruption"].values if joined["modality"].sel(corruption=c) == m] for m in MODALITIES)
    for one, other in product(image, text):
        pair = {name: by_order(read_effects(files[name]), rule.metric)["all"] for name in (one, other)}
        if joined.sizes["layer"] >= 3 and min(values.sizes["sample"] for values in pair.values()) > 1:
            both = xr.concat(pair.values(), pd.Index(pair, name="corruption"), join="outer")
            yield tables.text_beside_image(joined, compare(both, rule.comparing), one, other)


def _correct(of_model: list[xr.Dataset]) -> None:
    p = [dataset["p"].values for dataset in of_model]
    adjusted = np.split(holm(np.concatenate([values.ravel() for values in p])), np.cumsum([values.size for values in p])[:-1])
    for dataset, values in zip(of_model, adjusted, strict=True):
        dataset["p_holm"] = dataset["p"].copy(data=values.reshape(dataset["p"].shape))


def find_and_write(results: Path, metric: str = "logit_difference", rule: MapRule | None = None) -> tuple[dict[str, xr.Dataset], str]:
    """`find`, then write `modules.nc` (a group for each model, data set and component), `modules.csv` (see `module_tables.table`),
    `modules_text_image.csv` and `figures/<model>/<dataset>/modules-<component>.png` and .pdf into the results folder.

    Without effects of whole modules nothing is written, and stale files of an earlier run are removed.

    Parameters
    ----------
    metric : the metric where no rule is given: short for `MapRule(metric=metric)`.

    Returns
    -------
    The maps, and a summary in words.

    >>> found, words = find_and_write(Path("results"), rule=MapRule(resamples=20))
    >>> sorted(path.name for path in Path("results").glob("modules*"))
    ['modules.csv', 'modules.nc', 'modules_text_image.csv']
    """
    results = Path(results)
    if not any(not file.heads for file in effects_files(results)):
        for name in (f"{FILE}.nc", f"{FILE}.csv", f"{FILE}_text_image.csv"):
            (results / name).unlink(missing_ok=True)
        return {}, ""
    found, beside = find(results, rule or MapRule(metric=metric))
    write_tree(found, results / f"{FILE}.nc")
    for name, rows in {f"{FILE}.csv": tables.table(found), f"{FILE}_text_image.csv": beside}.items():
        write_whole(results / name, lambda temporary, rows=rows: rows.to_csv(temporary, index=False, float_format="%.6g"))  # type: ignore[misc]
    with styled():
        for place, maps in found.items():
            save(draw_side_by_side(maps), (results / FOLDER / place).parent / f"{FILE}-{Path(place).name}.png")
    return found, tables.summary(found, beside)


def main() -> None:
    """Command line."""
    import tyro

    with reporting("modules"):
        options = tyro.cli(Modules)
        found, words = find_and_write(options.results, rule=options)
        if not found:
            raise ResultsError(
                f"no effects of whole modules below {options.results.absolute()}: run interventions/module_patching.py first"
            )
        print(words)
        print(f"wrote {options.results / FILE}.nc and .csv, {FILE}_text_image.csv and figures into {options.results / FOLDER}")


if __name__ == "__main__":
    main()
