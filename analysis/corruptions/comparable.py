"""A results folder -> comparisons of its corruptions. Effects are compared that have all but the corruption in common.

Files are alike that have the same model, data set, component, direction, window and definition.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analysis import products
from analysis.corruptions.options import Comparing
from analysis.corruptions.statistics import NOISE, SCORES, SEMANTIC, TEST, claim, compare
from analysis.plots.module_maps import mean_by_role
from analysis.stats.thirds import THIRDS
from analysis.store.errors import NothingToAnalyse, ResultsError
from analysis.store.folder import EffectsFile, effects_files, read_effects
from corruptions.base import CORRUPTIONS
from interventions.results.metrics import unit_of


@dataclass(frozen=True, order=True)
class Like:
    """What files must have in common to be compared.

    >>> like = Like("blip", "shapes", "mlp", False, "denoising", 3, "ours")
    >>> like.group
    'blip/shapes/mlp-window3'
    >>> like.command("str", Path("results"))
    'python -m interventions.module_patching --model blip --data shapes --out results --corruption str --components mlp --window 3'
    """

    model: str
    dataset: str
    component: str
    heads: bool
    direction: str
    window: int
    definition: str

    @property
    def name(self) -> str:
        """As the files are called, and more where it is not the usual."""
        parts = [self.component, "heads" if self.heads else "", "noising" if self.direction == "noising" else ""]
        parts += [f"window{self.window}" if self.window > 1 else "", self.definition if self.definition != "ours" else ""]
        return "-".join(part for part in parts if part)

    @property
    def group(self) -> str:
        """The group of NetCDF files that holds its comparison."""
        return f"{self.model}/{self.dataset}/{self.name}"

    def command(self, corruption: str, results: Path) -> str:
        """What makes the file of another corruption."""
        product = products.HEADS if self.heads else products.MODULES
        components = {"component": self.component} if self.heads else {"components": (self.component,), "window": self.window}
        options: dict[str, Any] = {"corruption": corruption, "direction": self.direction, "definition": self.definition} | components
        return products.command(results, product, self.model, self.dataset, **options)


def like_of(file: EffectsFile, attributes: Mapping[str, Any]) -> Like:
    """What a file of effects, which has these attributes, must have in common with others.

    >>> like_of(EffectsFile("blip", "shapes", "sip", "mlp", False, Path("mlp.nc")), {"component": "mlp", "direction": "noising"}).name
    'mlp-noising'
    """
    of: dict[str, Any] = {"direction": "denoising", "window": 1, "definition": "ours"} | dict(attributes)
    return Like(file.model, file.dataset, of["component"], file.heads, of["direction"], int(of["window"]), of["definition"])


def corruption_of(file: EffectsFile) -> str:
    """The corruption of a file; its folder may be named after the direction, too.

    >>> corruption_of(EffectsFile("blip", "shapes", "sip-noising", "mlp", False, Path("mlp.nc")))
    'sip'
    """
    return file.corruption.removesuffix("-noising")


def is_noise(corruption: str) -> bool:
    """Whether a corruption adds noise to embeddings.

    >>> is_noise("gaussian_noise_text"), is_noise("sip"), is_noise("of another program")
    (True, False, False)
    """
    return corruption in CORRUPTIONS and CORRUPTIONS[corruption].draws


def compare_folder(results: Path, options: Comparing) -> tuple[dict[str, xr.Dataset], list[str]]:
    """Compare the corruptions of all effects that are alike, the files of one model, data set and component at a time.

    Returns
    -------
    By <model>/<dataset>/<component>, what `statistics.compare` gives, with claim [corruption] (see `statistics.claim`; "" where it is not
    of that corruption) and the options as attributes; and in words what could not be compared and why.

    Raises
    ------
    ResultsError
        When a file is damaged.
    NothingToAnalyse
        When nothing can be compared; says what there is, and what makes more.

    >>> compared, left_out = compare_folder(Path("results"), Comparing(component="mlp", resamples=20))
    >>> list(compared), left_out
    (['blip-small/shapes/mlp'], [])
    """
    comparisons, left_out = {}, []
    files = _chosen(results, options)
    for one in sorted({(file.model, file.dataset, file.component, file.heads) for file in files}):
        of_one = [file for file in files if (file.model, file.dataset, file.component, file.heads) == one]
        for like, effects in alike_effects(of_one).items():
            values, reasons = side_by_side(effects, like, results, options)
            left_out += [f"{like.group}: {reason}" for reason in reasons]
            if values is not None:
                comparisons[like.group] = _judged(compare(values, options), values, like, options)
    if not comparisons:
        raise NothingToAnalyse(f"nothing to compare below {results.absolute()}:\n  " + "\n  ".join(left_out))
    return comparisons, left_out


def _chosen(results: Path, options: Comparing) -> list[EffectsFile]:
    """The files of the model, data set and component that options name."""
    files = effects_files(results)
    if not files:
        run = products.whole_study(results, corruptions=("sip", "str", "gaussian_noise"))
        raise NothingToAnalyse(f"no effects below {results.absolute()}: run `{run}` first")
    names = {file: {"model": file.model, "dataset": file.dataset, "component": file.component.split("-window")[0]} for file in files}
    for option in ("model", "dataset", "component"):
        wanted = getattr(options, option)
        chosen = [file for file in files if wanted in (None, names[file][option])]
        if not chosen:
            others = ", ".join(sorted({names[file][option] for file in files}))
            raise ResultsError(f"no effects of {option} {wanted!r} below {results.absolute()}; there are {others}")
        files = chosen
    return files


def alike_effects(files: Iterable[EffectsFile]) -> dict[Like, dict[str, xr.Dataset]]:
    """The effects by what they have in common, and by corruption: SIP first, noise last.

    >>> files = [file for file in effects_files(Path("results")) if file.component == "mlp"]
    >>> {like.group: list(effects) for like, effects in alike_effects(files).items()}
    {'blip-small/shapes/mlp': ['sip', 'str']}
    """
    alike: dict[Like, dict[str, xr.Dataset]] = {}
    for file in sorted(files, key=lambda file: (is_noise(corruption_of(file)), corruption_of(file) != "sip", file)):
        effects = read_effects(file)
        alike.setdefault(like_of(file, effects.attrs), {})[corruption_of(file)] = effects
    return alike


def _judged(compared: xr.Dataset, effects: xr.DataArray, like: Like, options: Comparing) -> xr.Dataset:
    """With the claim for each corruption by noise, and the options."""
    names = [str(name) for name in compared["corruption"].values]
    noises, semantic = [name for name in names if is_noise(name)], [name for name in names if name in SEMANTIC]
    judged = [claim(compared, name, semantic, options.confined) if name in noises and semantic else "" for name in names]
    compared = compared.assign_coords(modality=effects["modality"]).assign(claim=("corruption", judged))
    for name in SCORES:
        compared[name].attrs["units"] = unit_of(options.metric)
    missing = "" if noises and semantic else f"no {' or '.join(SEMANTIC) if noises else NOISE}"
    compared.attrs = vars(like) | {name: getattr(options, name) for name in ("metric", "confined", "resamples", "confidence", "seed")}
    compared.attrs |= {"heads": int(like.heads), "token": str(effects["token"].item()) if like.heads else ""}
    return compared.assign_attrs(test=TEST.format(options.confined), against=", ".join(semantic), not_judged=missing)


def side_by_side(of_like: dict[str, xr.Dataset], like: Like, results: Path, options: Comparing) -> tuple[xr.DataArray | None, list[str]]:
    """The metric [corruption, sample, layer, head or role] of the samples that have an effect under every corruption, or None where it
    cannot be compared; and what is left out, with reasons.

    >>> files = [file for file in effects_files(Path("results")) if file.component == "mlp"]
    >>> (like, of_like), *_ = alike_effects(files).items()
    >>> effects, left_out = side_by_side(of_like, like, Path("results"), Comparing())
    >>> effects.dims, left_out
    (('corruption', 'sample', 'layer', 'role'), [])
    """
    try:
        _check_origin(of_like)
        values, reasons = {}, []
        token = _token(of_like, options.token) if like.heads else None
        for corruption, effects in of_like.items():
            at = effects.sel(token=token).effects if like.heads else effects.effects
            of = (getattr(at, options.metric)() if like.heads else at.by_role(options.metric)).dropna("sample", how="all")
            if of.sizes["sample"] > 1:
                values[corruption] = of.drop_vars([str(name) for name in of.coords if name not in (*of.dims, "token")])
            else:
                reasons.append(f"{corruption} is left out: {of.sizes['sample']} sample(s) with an effect, and an interval needs two")
        if len(values) < 2:
            missing = next((name for name in (*SEMANTIC, NOISE) if name not in values), "...")
            only = f"only {next(iter(values))} to compare" if values else "nothing to compare"
            return None, [*reasons, f"{only}; make another corruption with `{like.command(missing, results)}`"]
        _check_layers(values)
    except ResultsError as error:
        return None, [str(error)]
    shared = set.intersection(*(set(of["sample"].values) for of in values.values()))
    if len(shared) < 2:
        sizes = ", ".join(f"{corruption} {of.sizes['sample']}" for corruption, of in values.items())
        return None, [
            *reasons,
            f"{len(shared)} sample(s) have an effect under every corruption ({sizes}); run them again with more --samples",
        ]
    for corruption, of in values.items():
        if without := of.sizes["sample"] - len(shared):
            reasons.append(f"{without} of the {of.sizes['sample']} samples under {corruption}: not all of the other corruptions have them")
        values[corruption] = of.isel(sample=np.isin(of["sample"].values.astype(str), sorted(map(str, shared))))
    joined = xr.concat(values.values(), pd.Index(values, name="corruption"), join="outer", coords="minimal", compat="override")
    modality = [str(of_like[c].attrs["modality"]) for c in values]
    joined = joined.assign_coords(modality=("corruption", modality))
    if not like.heads:
        joined = joined.sel(
            role=list(dict.fromkeys(role for c in values for role in mean_by_role(of_like[c], options.metric)["role"].values))
        )
    return joined, reasons


def _check_origin(of_like: dict[str, xr.Dataset]) -> None:
    for name, what in {"model_revision": "another model", "dataset_fingerprint": "other data", "dtype": "another number format"}.items():
        by = {corruption: str(effects.attrs[name]) for corruption, effects in of_like.items() if name in effects.attrs}
        if len(set(by.values())) > 1:
            said = ", ".join(f"{corruption} {value[:12]}" for corruption, value in by.items())
            raise ResultsError(f"corruptions were run with {what} under the same name ({name}: {said}); run the stale ones again")


def _token(of_like: dict[str, xr.Dataset], wanted: str | None) -> str:
    """The token role at which all corruptions' heads were patched."""
    by = {corruption: [str(token) for token in effects["token"].values] for corruption, effects in of_like.items()}
    shared = [token for token in next(iter(by.values())) if all(token in tokens for tokens in by.values())]
    main = str(next(iter(of_like.values())).attrs["main_token"])
    if (wanted is not None and wanted not in shared) or not shared:
        there = "; ".join(f"{corruption}: {', '.join(tokens)}" for corruption, tokens in by.items())
        which = f"not every corruption has heads at token {wanted!r}" if wanted else "no token at which heads were patched is shared"
        raise ResultsError(f"{which} ({there}); choose one with --token, or run head patching again with --tokens")
    return wanted or (main if main in shared else shared[0])


def _check_layers(values: dict[str, xr.DataArray]) -> None:
    sizes = {corruption: (of.sizes["layer"], of.sizes.get("head")) for corruption, of in values.items()}
    if len(set(sizes.values())) > 1:
        raise ResultsError(f"different numbers of (layers, heads): {sizes}; delete the stale ones")
    layers = next(iter(sizes.values()))[0]
    if layers < len(THIRDS):
        raise ResultsError(f"it has {layers} layers, which cannot be cut into thirds")
