"""Which files of effects can be compared: a results folder -> effects that have all but the corruption in common, as one array.

Files are alike that have the same model, data set, component, direction, window and definition.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from analysis.corruptions.statistics import NOISE, SEMANTIC, THIRDS, Comparing
from analysis.plots.module_maps import mean_by_role
from analysis.store.folder import EffectsFile, ResultsError, effects_files, read_effects


@dataclass(frozen=True, order=True)
class Like:
    """What files must have in common to be compared.

    >>> like = Like("blip", "shapes", "mlp", False, "denoising", 3, "ours")
    >>> like.place
    'blip/shapes/mlp-window3'
    >>> like.command("str", Path("results"))
    'python -m interventions.module_patching --model blip --data shapes --corruption str --components mlp --out results --window 3'
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
    def place(self) -> str:
        return f"{self.model}/{self.dataset}/{self.name}"

    def command(self, corruption: str, results: Path) -> str:
        """What makes the file of another corruption."""
        data = self.dataset if self.dataset == "shapes" else f"data/{self.dataset}"
        words = f"python -m interventions.{'head' if self.heads else 'module'}_patching --model {self.model} --data {data}"
        words += f" --corruption {corruption} {'--component' if self.heads else '--components'} {self.component} --out {results}"
        words += " --direction noising" if self.direction == "noising" else ""
        words += f" --window {self.window}" if self.window > 1 else ""
        return words + (f" --definition {self.definition}" if self.definition != "ours" else "")


def places(results: Path, options: Comparing) -> Iterator[list[EffectsFile]]:
    """The files of each model, data set and component, of heads and of modules.

    >>> files = next(places(Path("results"), Comparing(component="mlp")))
    >>> [file.corruption for file in files]
    ['sip', 'str']
    """
    files = effects_files(results)
    if not files:
        raise ResultsError(f"no effects below {results.absolute()}: run `python run_all.py --corruptions sip str gaussian_noise` first")
    there = [(file, {"model": file.model, "dataset": file.dataset, "component": file.component.split("-window")[0]}) for file in files]
    for name in ("model", "dataset", "component"):
        wanted = getattr(options, name)
        if wanted is not None:
            others = ", ".join(sorted({place[name] for _, place in there}))
            there = [(file, place) for file, place in there if place[name] == wanted]
            if not there:
                raise ResultsError(f"no effects of {name} {wanted!r} below {results.absolute()}; there are {others}")
    for place in sorted({(file.model, file.dataset, file.component, file.heads) for file, _ in there}):
        yield [file for file, _ in there if (file.model, file.dataset, file.component, file.heads) == place]


def alike_effects(files: list[EffectsFile]) -> dict[Like, dict[str, xr.Dataset]]:
    """The effects by what they have in common, and by corruption: image corruptions first, noise last.

    >>> files = next(places(Path("results"), Comparing(component="mlp")))
    >>> {like.place: list(of_like) for like, of_like in alike_effects(files).items()}
    {'blip-small/shapes/mlp': ['sip', 'str']}
    """
    alike: dict[Like, dict[str, xr.Dataset]] = {}
    for file in sorted(files, key=lambda file: (file.corruption.startswith(NOISE), not file.corruption.startswith("sip"), file)):
        effects = read_effects(file)
        of = {"direction": "denoising", "window": 1, "definition": "ours"} | effects.attrs
        like = Like(file.model, file.dataset, of["component"], file.heads, of["direction"], int(of["window"]), of["definition"])
        alike.setdefault(like, {})[file.corruption.removesuffix("-noising")] = effects
    return alike


def side_by_side(of_like: dict[str, xr.Dataset], like: Like, results: Path, options: Comparing) -> tuple[xr.DataArray | None, list[str]]:
    """The metric [corruption, sample, layer, head or role] of the samples that have an effect under every corruption, or None where it
    cannot be compared; and what is left out, with reasons.

    >>> files = next(places(Path("results"), Comparing(component="mlp")))
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
