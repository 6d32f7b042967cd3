"""The effects by which heads are judged: results folder -> one array [sample, layer, head] for each model, corruption and task.

A task is "<dataset>/<category>". `HeadEffectsOptions` chooses metric, token, component and corruptions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from analysis.heads.options import HeadEffectsOptions
from analysis.heads.rules import Means
from analysis.store.errors import ResultsError
from analysis.store.folder import EffectsFile, effects_files, read_effects

Key = tuple[str, str]  # corruption, task
OF_TASK = ("corruption", "task")


@dataclass(frozen=True)
class HeadEffects:
    """The effects of all heads of one model, in the metric's unit.

    Attributes
    ----------
    effects : [sample, layer, head] of each (corruption, task) that has any
    left_out : how many samples of each (corruption, task) have no value in any head, and are not in `effects`
    modality : the modality of each corruption that ran, image first
    tokens : the token roles at which heads are judged, as text
    """

    model: str
    component: str
    tokens: str
    modality: dict[str, str]
    effects: dict[Key, xr.DataArray]
    left_out: dict[Key, int]

    @property
    def corruptions(self) -> list[str]:
        return list(self.modality)

    @property
    def tasks(self) -> list[str]:
        return sorted({task for _, task in self.left_out})

    @property
    def ran(self) -> np.ndarray:
        """Whether each task ran under each corruption: bool [corruption, task]."""
        return np.array([[(corruption, task) in self.effects for task in self.tasks] for corruption in self.corruptions])

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of layers and of heads in a layer."""
        first = next(iter(self.effects.values()))
        return first.sizes["layer"], first.sizes["head"]

    def index(self, key: Key) -> tuple[int, int]:
        """The index of a (corruption, task) in arrays [corruption, task, ...]."""
        return self.corruptions.index(key[0]), self.tasks.index(key[1])

    def of(self, corruption: str) -> dict[str, xr.DataArray]:
        """The effects of the tasks that ran under a corruption, in the order of `tasks`."""
        return {task: self.effects[corruption, task] for task in self.tasks if (corruption, task) in self.effects}

    def check_tasks(self, at_least: int) -> None:
        """Raise `ResultsError` where fewer tasks ran under a corruption than a head must be important in."""
        for corruption in self.corruptions:
            if (ran := len(self.of(corruption))) < at_least:
                raise ResultsError(f"{self.model} has {ran} tasks under {corruption}, fewer than --at-least {at_least}")

    def complete(self) -> "HeadEffects":
        """Without the samples in which any head lacks a finite value, which are counted in `left_out`; and without the layers that have
        no such heads: in some models layers are of two kinds.

        Raises
        ------
        ResultsError
            When no sample is left.

        >>> effects = read_head_effects(Path("results"), HeadEffectsOptions())["blip-small"]
        >>> effects.effects["sip", "shapes/colour"][0, 1, 2] = np.nan  # one head of one sample
        >>> complete = effects.complete()
        >>> complete.effects["sip", "shapes/colour"].sizes["sample"], complete.left_out["sip", "shapes/colour"]
        (11, 1)
        """
        kept, left_out = {}, dict(self.left_out)
        arrays = [values.transpose("sample", "layer", "head").values for values in self.effects.values()]
        layers = np.logical_or.reduce([np.isfinite(array).any(axis=(0, 2)) for array in arrays])
        for key, every in self.effects.items():
            values = every if layers.all() else every.isel(layer=layers)
            finite = np.isfinite(flat(values)).all(axis=1)
            left_out[key] += int((~finite).sum())
            if finite.any():
                kept[key] = values if finite.all() else values[finite]
        if not kept:
            raise ResultsError(
                f"{self.model}: no sample has a finite effect of every head; run head patching again, or judge by another metric"
            )
        modality = {c: m for c, m in self.modality.items() if c in {corruption for corruption, _ in kept}}
        return replace(self, effects=kept, left_out=left_out, modality=modality)

    def means(self) -> xr.Dataset:
        """Means over samples: mean_effect, mean_absolute_effect (corruption, task, layer, head); samples and left_out (corruption, task).

        NaN and 0 samples where a task did not run. The coordinate `modality` (corruption) is "image" or "text".

        >>> means = read_head_effects(Path("results"), HeadEffectsOptions())["blip-small"].means()
        >>> head = means["mean_effect"].sel(corruption="sip", task="shapes/colour", layer=1, head=2)
        >>> float(head.round(1)), means["samples"].values.tolist()
        (1.0, [[12, 12], [12, 12]])
        """
        mean = np.full((*self.ran.shape, *self.shape), np.nan)
        absolute, samples = mean.copy(), np.zeros(self.ran.shape, dtype="int64")
        left_out = samples.copy()
        for key, number in self.left_out.items():
            if key[0] in self.corruptions:
                left_out[self.index(key)] = number
        for key, values in self.effects.items():
            at = self.index(key)
            mean[at], absolute[at], samples[at] = values.mean("sample"), abs(values).mean("sample"), values.sizes["sample"]
        first = next(iter(self.effects.values()))
        variables: dict[str, Any] = {
            "mean_effect": ((*OF_TASK, "layer", "head"), mean),
            "mean_absolute_effect": ((*OF_TASK, "layer", "head"), absolute),
        }
        variables |= {"samples": (OF_TASK, samples), "left_out": (OF_TASK, left_out)}
        coords = {"layer": first["layer"].values, "head": first["head"].values, "task": self.tasks, "corruption": self.corruptions}
        return xr.Dataset(variables, coords | {"modality": ("corruption", list(self.modality.values()))})


def means_of_tasks(effects: HeadEffects, weights: Mapping[Key, np.ndarray] | None = None) -> Means:
    """Means over the samples of each task [corruption, task, layer, head]; 0 of 0 samples where a task did not run.

    Parameters
    ----------
    effects : complete ones
    weights : [resample, sample] of each task, rows sum to 1: means are then [corruption, task, resample, layer, head]

    >>> effects = read_head_effects(Path("results"), HeadEffectsOptions())["blip-small"]
    >>> means = means_of_tasks(effects)
    >>> means.effect.shape, float(means.effect[0, 0, 1, 2].round(1)), means.samples.ravel().tolist()
    ((2, 2, 4, 6), 1.0, [12, 12, 12, 12])
    """
    resamples = () if weights is None else (len(next(iter(weights.values()))),)
    shape, ran = (*resamples, *effects.shape), effects.ran
    effect, absolute, square = (np.zeros((*ran.shape, *shape)) for _ in range(3))
    samples = np.zeros((*ran.shape, *(1 for _ in shape)), dtype="int64")
    for key, values in effects.effects.items():
        at, x = effects.index(key), flat(values)
        for means, of_samples in ((effect, x), (absolute, np.abs(x)), (square, x**2)):
            means[at] = (of_samples.mean(axis=0) if weights is None else weights[key] @ of_samples).reshape(shape)
        samples[at] = len(x)
    return Means(effect, absolute, square, samples)


def flat(values: xr.DataArray) -> np.ndarray:
    """[sample, layer, head] as [sample, head].

    >>> flat(xr.DataArray(np.zeros((5, 2, 3)), dims=("sample", "layer", "head"))).shape
    (5, 6)
    """
    return values.transpose("sample", "layer", "head").values.reshape(values.sizes["sample"], -1)


def read_head_effects(results: Path, options: HeadEffectsOptions) -> dict[str, HeadEffects]:
    """The effects of all heads of every model in a results folder.

    Raises
    ------
    ResultsError
        When the folder has no effects of heads under the corruptions, lacks the token or component, or holds damaged files.

    >>> effects = read_head_effects(Path("results"), HeadEffectsOptions())["blip-small"]
    >>> effects.component, effects.tokens, effects.tasks
    ('cross_attention', 'correct', ['shapes/colour', 'shapes/shape'])
    >>> dict(effects.effects["sip", "shapes/colour"].sizes)
    {'sample': 12, 'layer': 4, 'head': 6}
    >>> float(effects.of("sip")["shapes/colour"].mean("sample").sel(layer=1, head=2).round(1))
    1.0
    """
    files = [file for file in effects_files(results) if file.heads]
    if not files:
        raise ResultsError(
            f"no effects of heads (<component>-heads.nc) below {Path(results).absolute()}: run interventions/head_patching.py first"
        )
    chosen = {model: _chosen([file for file in files if file.model == model], options) for model in sorted({file.model for file in files})}
    effects = {model: _of_model(of_model, options) for model, of_model in chosen.items() if of_model}
    if not effects:
        names = ", ".join(sorted({f"{file.corruption}/{file.component}" for file in files}))
        component = f", component {options.component}" if options.component else ""
        wanted = f"{options.image_corruption} or {options.text_corruption}{component}"
        raise ResultsError(f"no effects of heads for {wanted} below {Path(results).absolute()}: there are {names}; choose with options")
    return effects


def _chosen(files: list[EffectsFile], options: HeadEffectsOptions) -> list[EffectsFile]:
    files = [file for file in files if file.corruption in options.corruptions()]
    components = {file.component for file in files}
    component = options.component or next((name for name in ("cross_attention", "self_attention") if name in components), None)
    return [file for file in files if file.component == component]


def _of_model(files: list[EffectsFile], options: HeadEffectsOptions) -> HeadEffects:
    effects: dict[Key, xr.DataArray] = {}
    left_out: dict[Key, int] = {}
    tokens = set()
    for file in files:
        values = _effect(file, options)
        tokens.add(str(values["token"].item()))
        for category, of_task in values.groupby("category"):
            key = (file.corruption, f"{file.dataset}/{category}")
            with_values = of_task.drop_vars(["token", "category"], errors="ignore").dropna("sample", how="all")
            left_out[key] = of_task.sizes["sample"] - with_values.sizes["sample"]
            if with_values.sizes["sample"]:
                effects[key] = with_values
    _check_shapes(files, effects)
    modality = {c: m for c, m in options.corruptions().items() if c in {corruption for corruption, _ in effects}}
    return HeadEffects(files[0].model, files[0].component, ", ".join(sorted(tokens)), modality, effects, left_out)


def _effect(file: EffectsFile, options: HeadEffectsOptions) -> xr.DataArray:
    """The metric [sample, layer, head] at the token where heads are judged."""
    effects = read_effects(file)
    modality, asked = effects.attrs["modality"], options.corruptions()[file.corruption]
    if modality != asked:
        raise ResultsError(f"{file.path} corrupts the {modality}, but is named as the {asked} corruption")
    token = options.token or effects.attrs["main_token"]
    if token not in effects.indexes["token"]:
        tokens = ", ".join(map(str, effects.indexes["token"]))
        raise ResultsError(f"{file.path} has no effects of heads at token {token!r}; it has {tokens}: choose one with --token")
    keep = ["sample", "layer", "head", "token", "category"]
    values = getattr(effects.sel(token=token).effects, options.metric)()
    values = values.where(np.isfinite(values)).drop_vars([str(name) for name in values.coords if name not in keep], errors="ignore")
    return values.assign_coords(category=("sample", effects["category"].values.astype(str)))


def _check_shapes(files: list[EffectsFile], effects: dict[Key, xr.DataArray]) -> None:
    if not effects:
        raise ResultsError(
            f"{', '.join(str(file.path) for file in files)}: no sample has an effect; run head patching again, with more samples"
        )
    shapes = {(values.sizes["layer"], values.sizes["head"]) for values in effects.values()}
    if len(shapes) > 1:
        raise ResultsError(
            f"the files of {files[0].model} have different numbers of (layers, heads): {sorted(shapes)}; delete the stale ones"
        )
