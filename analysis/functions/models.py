"""Attention files of a model -> the functions of its heads, over all its data sets, and how many object heads exchanged masks give."""

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import xarray as xr

from analysis.functions.registry import OVERALL, Thresholds, of_object
from analysis.functions.rule import judge
from analysis.functions.samples import exchanged, score_samples
from analysis.store.folder import DAMAGED, ResultsError, again, damaged


def of_model(model: str, files: dict[str, Path], thresholds: Thresholds) -> xr.Dataset:
    """The functions of the heads of a model: what `rule.judge` gives, with `permuted_object_heads` where there are masks.

    Parameters
    ----------
    files : the attention file of each data set
    """
    scored, attrs = {}, {}
    for dataset, path in files.items():
        scores, attrs[dataset] = _score_file(path, thresholds)
        stratum = np.array([f"{dataset}/{category}" for category in scores["category"].values], dtype=object)
        scored[dataset] = scores.assign_coords(stratum=("sample", stratum))
    _check_shapes(model, scored.values())
    together = xr.concat(scored.values(), "sample") if len(scored) > 1 else next(iter(scored.values()))
    judged = judge(_tasks(together), thresholds)
    if thresholds.permutations and int(judged["samples_with_object"].max()):
        without = replace(thresholds, resamples=0)
        by_chance = [judge(_tasks(exchanged(together, k)), without) for k in range(thresholds.permutations)]
        named = [(one["verdict"].sel(rule=of_object()) == "yes").sum(("layer", "head")) for one in by_chance]
        judged["permuted_object_heads"] = xr.concat(named, "permutation").rename(rule="object_rule").transpose("permutation", "task", ...)
    limits = {field.name: getattr(thresholds, field.name) for field in fields(Thresholds)}
    judged.attrs |= {"model": model} | next(iter(attrs.values())) | limits
    return judged


def _tasks(scores: xr.Dataset) -> dict[str, xr.Dataset]:
    """The samples of all tasks, then those of each."""
    stratum = scores["stratum"].values
    return {OVERALL: scores} | {task: scores.isel(sample=np.flatnonzero(stratum == task)) for task in sorted(set(stratum))}


def _score_file(path: Path, t: Thresholds) -> tuple[xr.Dataset, dict[str, str]]:
    try:
        with xr.open_dataset(path, engine="netcdf4") as attention:
            missing = [name for name in ("attention", "object_share", "category") if name not in attention.variables]
            problem = f"lacks {', '.join(missing)}: it is not an attention file" if missing else ""
            if not problem and not attention.sizes["sample"]:
                problem = "has no samples"
            if not problem:
                scored = score_samples(attention, t.outlier_deviations, t.most, t.permutations, t.seed)
                return scored, {name: str(attention.attrs[name]) for name in ("component", "query") if name in attention.attrs}
    except DAMAGED as error:
        raise damaged(path) from error
    raise ResultsError(f"{path} {problem}. {again(path)}")


def _check_shapes(model: str, scored: Iterable[xr.Dataset]) -> None:
    shapes = {(data.sizes["layer"], data.sizes["head"]) for data in scored}
    if len(shapes) > 1:
        raise ResultsError(
            f"the attention files of {model} have different numbers of (layers, heads): {sorted(shapes)}; delete the stale ones"
        )
