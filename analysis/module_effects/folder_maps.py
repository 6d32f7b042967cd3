"""Effects of whole modules of a results folder -> the maps of each module under every corruption, and text beside image corruption."""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from analysis.corruptions.comparable import Like, corruption_of, is_noise, like_of
from analysis.corruptions.options import Comparing
from analysis.corruptions.statistics import compare
from analysis.module_effects.maps import by_order, describe
from analysis.module_effects.options import MapRule
from analysis.stats.multiple_tests import holm
from analysis.store.errors import NothingToAnalyse, ResultsError
from analysis.store.folder import MODALITIES, EffectsFile, effects_files, read_effects


def files_of_modules(results: Path) -> dict[Like, dict[str, EffectsFile]]:
    """The files of effects of whole modules, by what they have in common, then by corruption.

    Raises
    ------
    NothingToAnalyse
        When there are none.

    >>> {like.group: list(files) for like, files in files_of_modules(Path("results")).items() if like.component == "mlp"}
    {'blip-small/shapes/mlp': ['sip', 'str']}
    """
    files = [file for file in effects_files(results) if not file.heads]
    if not files:
        raise NothingToAnalyse(f"no effects of whole modules below {results.absolute()}: run interventions/module_patching.py first")
    alike: dict[Like, dict[str, EffectsFile]] = {}
    for file in sorted(files, key=lambda file: (file.model, file.dataset)):
        alike.setdefault(like_of(file, read_effects(file).attrs), {})[corruption_of(file)] = file
    return alike


def maps_of_folder(files: Mapping[Like, Mapping[str, EffectsFile]], rule: MapRule) -> dict[str, xr.Dataset]:
    """By <model>/<dataset>/<component> what `maps.describe` gives with a leading dim `corruption`, image first, and p_holm (order, pair):
    p corrected over all tests of the model (Holm).

    >>> maps = maps_of_folder(files_of_modules(Path("results")), MapRule(resamples=20))
    >>> list(maps)[:2], maps["blip-small/shapes/mlp"]["corruption"].values.tolist()
    (['blip-small/shapes/block', 'blip-small/shapes/cross_attention'], ['sip', 'str'])
    """
    maps = {
        like.group: _joined({name: _described(file, rule) for name, file in of_like.items()}, like, rule) for like, of_like in files.items()
    }
    for model in {of_place.attrs["model"] for of_place in maps.values()}:
        _correct([of_place for of_place in maps.values() if of_place.attrs["model"] == model])
    return maps


def text_beside_image(
    files: Mapping[Like, Mapping[str, EffectsFile]], maps: Mapping[str, xr.Dataset], rule: MapRule
) -> Iterator[tuple[xr.Dataset, xr.Dataset, str, str]]:
    """Each image and text corruption of the same module: its maps, what `corruptions.statistics.compare` gives of the two, their names.

    >>> files, rule = files_of_modules(Path("results")), MapRule(resamples=20)
    >>> pairs = text_beside_image(files, maps_of_folder(files, rule), rule)
    >>> [(maps.attrs["component"], image, text) for maps, _, image, text in pairs][0]
    ('block', 'sip', 'str')
    """
    comparing = Comparing(metric=rule.metric, resamples=rule.resamples, confidence=rule.confidence, seed=rule.seed)
    for like, of_like in files.items():
        joined = maps[like.group]
        image, text = ([str(c) for c in joined["corruption"].values if joined["modality"].sel(corruption=c) == m] for m in MODALITIES)
        for one, other in product(image, text):
            pair = {name: by_order(read_effects(of_like[name]), rule.metric)["all"] for name in (one, other)}
            if joined.sizes["layer"] >= 3 and min(values.sizes["sample"] for values in pair.values()) > 1:
                both = xr.concat(pair.values(), pd.Index(pair, name="corruption"), join="outer")
                yield joined, compare(both, comparing), one, other


def _described(file: EffectsFile, rule: MapRule) -> xr.Dataset:
    effects = read_effects(file)
    try:
        described = describe(effects, rule)
    except ResultsError as error:
        raise ResultsError(f"{file.path}: {error}") from error
    modality = str(effects.attrs["modality"])
    return described.assign_coords(modality=str(modality))


def _joined(described: dict[str, xr.Dataset], like: Like, rule: MapRule) -> xr.Dataset:
    order = sorted(described, key=lambda name: (str(described[name]["modality"].item()) != MODALITIES[0], is_noise(name), name))
    layers = {name: of.sizes["layer"] for name, of in described.items()}
    if len(set(layers.values())) > 1:
        raise ResultsError(f"{like.group} has different numbers of layers: {layers}; delete the stale ones")
    roles = list(dict.fromkeys(str(role) for name in order for role in described[name]["role"].values))
    of_roles = [described[name].reindex(role=np.array(roles, dtype=object)) for name in order]
    joined = xr.concat(of_roles, pd.Index(order, name="corruption"), coords="different", compat="equals")
    if "corruption" not in joined["modality"].dims:
        joined = joined.assign_coords(modality=("corruption", [str(joined["modality"].item())] * len(order)))
    joined.attrs = {name: value for name, value in vars(like).items() if name != "heads"}
    joined.attrs |= {name: getattr(rule, name) for name in MapRule.__dataclass_fields__}
    return joined


def _correct(of_model: list[xr.Dataset]) -> None:
    p = [dataset["p"].values for dataset in of_model]
    adjusted = np.split(holm(np.concatenate([values.ravel() for values in p])), np.cumsum([values.size for values in p])[:-1])
    for dataset, values in zip(of_model, adjusted, strict=True):
        dataset["p_holm"] = dataset["p"].copy(data=values.reshape(dataset["p"].shape))
