"""What a head's page shows: effects of heads -> by model and component, the mean effect of each head in each task with intervals.

A study is all files of heads of one model and component. Heads are counted as layer x heads + head, in one list a study.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from analysis.functions.registry import NONE, OVERALL, UNDECIDABLE
from analysis.page.encoding import rounded
from analysis.stats.resampling import bootstrap_weights, percentile_interval, stream
from analysis.store.folder import EffectsFile, ResultsError, head_name

RESAMPLES = 2000
CONFIDENCE = 0.95
EXTREMES = 3  # strongest and weakest samples named for a head


@dataclass(frozen=True)
class HeadEffects:
    """The effects of all heads of one file, at its main token.

    Attributes
    ----------
    values : [sample, head], in the metric's unit; NaN where not measured
    """

    file: EffectsFile
    modality: str
    token: str
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    samples: tuple[str, ...]
    categories: np.ndarray
    values: np.ndarray

    @property
    def study(self) -> tuple[str, str]:
        return self.file.model, self.file.component


def head_effects(file: EffectsFile, effects: xr.Dataset, metric: str) -> HeadEffects:
    """The metric of every head at the file's main token, or its first where that was not patched."""
    main = str(effects.attrs["main_token"])
    token = main if main in effects.indexes["token"] else effects["token"].values[0]
    values = getattr(effects.sel(token=token).effects, metric)().transpose("sample", "layer", "head")
    return HeadEffects(
        file,
        str(effects.attrs["modality"]),
        str(token),
        tuple(values["layer"].values.tolist()),
        tuple(values["head"].values.tolist()),
        tuple(values["sample"].values.astype(str).tolist()),
        effects["category"].values.astype(str),
        values.values.reshape(values.sizes["sample"], -1).astype("float32"),
    )


def studies(files: Iterable[HeadEffects]) -> dict[tuple[str, str], list[HeadEffects]]:
    """The files of each model and component, image corruptions first.

    Raises
    ------
    ResultsError
        When files of one study have different layers or heads.
    """
    found: dict[tuple[str, str], list[HeadEffects]] = {}
    for effects in sorted(files, key=lambda effects: (*effects.study, effects.modality, effects.file.corruption, effects.file.dataset)):
        found.setdefault(effects.study, []).append(effects)
    for study, of_study in found.items():
        if len({(effects.layers, effects.heads) for effects in of_study}) > 1:
            paths = ", ".join(str(effects.file.path) for effects in of_study)
            raise ResultsError(f"files of {'/'.join(study)} have different layers or heads ({paths}): delete the stale ones")
    return found


def content(files: list[HeadEffects]) -> dict[str, Any]:
    """A study for the page: names of its heads, and under each corruption and task the mean effect, its interval and mean |effect|."""
    first = files[0]
    corruptions: dict[str, dict[str, Any]] = {}
    for effects in files:
        of = corruptions.setdefault(effects.file.corruption, {"name": effects.file.corruption, "modality": effects.modality, "tasks": {}})
        of["tasks"] |= dict(_tasks(effects))
    return {
        "id": "/".join(first.study),
        "model": first.file.model,
        "component": first.file.component,
        "token": ", ".join(sorted({effects.token for effects in files})),
        "layers": list(first.layers),
        "heads": list(first.heads),
        "names": [head_name(layer, head) for layer in first.layers for head in first.heads],
        "corruptions": list(corruptions.values()),
    }


def _tasks(effects: HeadEffects) -> Iterator[tuple[str, dict[str, Any]]]:
    for category in sorted(set(effects.categories)):
        task = f"{effects.file.dataset}/{category}"
        values = effects.values[effects.categories == category]
        values = values[np.isfinite(values).all(axis=1)]
        if not len(values):
            continue
        weights = bootstrap_weights(len(values), RESAMPLES, stream(0, "bootstrap", effects.file.corruption, task))
        low, high = percentile_interval(weights @ values, CONFIDENCE)
        numbers = {"mean": values.mean(axis=0), "low": low, "high": high, "absolute": np.abs(values).mean(axis=0)}
        yield task, {"samples": len(values)} | {name: rounded(of) for name, of in numbers.items()}


def judged(dataset: xr.Dataset | None, study: dict[str, Any], names: Iterable[str]) -> dict[str, Any] | None:
    """What `universal_heads.nc` or `robust_heads.nc` says of the heads of a study: kind, tasks in which each is important, and p or q.

    None where it was not computed, or for another component.
    """
    if dataset is None or dataset.attrs.get("component") != study["component"] or not _same_heads(dataset, study):
        return None
    found: dict[str, Any] = {"kind": [str(kind) for kind in dataset["kind"].values.ravel()]}
    of = dataset["important"].transpose("corruption", "task", "layer", "head")
    found["important"] = {
        str(corruption): {str(task): np.flatnonzero(of.sel(corruption=corruption, task=task).values).tolist() for task in of["task"].values}
        for corruption in of["corruption"].values
    }
    for name in (name for name in names if name in dataset):
        values = dataset[name].transpose("corruption", "layer", "head")
        found[name] = {str(c): rounded(values.sel(corruption=c).values, 3) for c in values["corruption"].values}
    return found


def functions(dataset: xr.Dataset | None, study: dict[str, Any], heads: list[int]) -> dict[str, Any] | None:
    """What `head_functions.nc` says of the heads of a study: every variable of (task, layer, head), whatever it is called.

    Parameters
    ----------
    heads : the heads whose scores are given; classes are given of all.
    """
    if dataset is None or dataset.attrs.get("component", study["component"]) != study["component"] or not _same_heads(dataset, study):
        return None
    classes, scores = {}, {}
    for name, variable in _by_task(dataset):
        rows = variable.transpose("task", "layer", "head").values.reshape(variable.sizes["task"], -1)
        if rows.dtype.kind in "OUS":
            classes[name] = [[str(value) for value in row] for row in rows]
        else:
            scores[name] = [rounded(row[heads], 3) for row in rows]
    mixed = np.flatnonzero(dataset["polysemantic"].transpose("layer", "head").values).tolist() if "polysemantic" in dataset else []
    tasks = [str(task) for task in dataset["task"].values]
    return {"tasks": tasks, "classes": classes, "scores": scores, "heads": heads, "polysemantic": mixed}


def _by_task(dataset: xr.Dataset) -> Iterator[tuple[str, xr.DataArray]]:
    """The variables of (task, layer, head), and of those that also have a rule, one for each: "<rule> <name>"."""
    for name, variable in dataset.data_vars.items():
        if set(variable.dims) == {"task", "layer", "head"}:
            yield str(name), variable
        elif set(variable.dims) == {"rule", "task", "layer", "head"}:
            yield from ((f"{rule} {name}", variable.sel(rule=rule)) for rule in dataset["rule"].values)


def _same_heads(dataset: xr.Dataset, study: dict[str, Any]) -> bool:
    return (dataset.sizes["layer"], dataset.sizes["head"]) == (len(study["layers"]), len(study["heads"]))


def telling(study: dict[str, Any], universal: xr.Dataset | None, robust: xr.Dataset | None, functions_of: xr.Dataset | None) -> list[int]:
    """Every head of a study, those worth a look first: universal, holding up, with a function; then by mean |effect|."""
    count = len(study["names"])
    named = np.zeros(count)
    for worth, dataset in ((8, universal), (4, robust)):
        if found := judged(dataset, study, ()):
            named += worth * (np.array(found["kind"]) != "none")
    if (found := functions(functions_of, study, [])) and "function" in found["classes"] and OVERALL in found["tasks"]:
        named += ~np.isin(found["classes"]["function"][found["tasks"].index(OVERALL)], (NONE, UNDECIDABLE))
    strength = np.zeros(count)
    for corruption in study["corruptions"]:
        of = np.array([task["absolute"] for task in corruption["tasks"].values()], dtype="float64")
        strength = np.maximum(strength, of.mean(axis=0) if len(of) else 0)
    return np.lexsort((-strength, -named)).tolist()


def extremes(files: list[HeadEffects], head: int, count: int = EXTREMES) -> dict[str, dict[str, list[tuple[str, str, float]]]]:
    """By corruption, the samples with the largest and the smallest effects of a head: (dataset, sample, effect), most extreme first."""
    found = {}
    for corruption in dict.fromkeys(effects.file.corruption for effects in files):
        of = [effects for effects in files if effects.file.corruption == corruption]
        where = [(effects.file.dataset, sample) for effects in of for sample in effects.samples]
        values = np.concatenate([effects.values[:, head] for effects in of])
        order = [i for i in np.argsort(values, kind="stable").tolist() if np.isfinite(values[i])]
        many = min(count, len(order) // 2)
        chosen = {"strongest": order[::-1][:many], "weakest": order[:many]}
        found[corruption] = {name: [(*where[i], float(values[i])) for i in rows] for name, rows in chosen.items()}
    return found
