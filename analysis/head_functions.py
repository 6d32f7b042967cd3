"""Head functions: attention to image patches -> `head_functions.nc` and `head_functions.csv`: what each head does, computed.

NOTICE judges three functions by eye against the mean of all heads: object detection, object suppression and outlier suppression.
Here each is a stated rule over the scores of `analysis/head_scores.py`; see `functions`.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import xarray as xr

from analysis.head_scores import INSIDE, SCORES, mean_map, normalized, outlier_patches, scores
from analysis.results import DAMAGED, ResultsError, attention_files, damaged, effects_files, head_name, read_tree, write_tree, write_whole

FUNCTIONS = ("object_detection", "object_suppression", "outlier_suppression", "none", "undecidable")
OVERALL = "overall"
FILE = "head_functions"


@dataclass(frozen=True)
class Thresholds:
    """How large and how consistent a difference from the mean head must be to name a function."""

    standard_errors: float = 3.0
    """Consistency: how many standard errors over samples a mean must lie from the mean head's."""
    gain: float = 0.05
    """Object detection: least share of the head's attention that is on the object beyond the mean head's, and beyond an even map's."""
    auroc: float = 0.5
    """Object detection: least mean AUROC of attention against the patches of the object."""
    away: float = 0.5
    """Object suppression: at most this part of the mean head's attention is on the object."""
    strong: float = 1.5
    """Object suppression: at least so many times the mean head's attention is on the outlier patches."""
    taken: float = 0.5
    """Outlier suppression: at most this part of the mean head's attention is on the outlier patches."""
    evenness: float = 0.9
    """Outlier suppression: least evenness of the attention on the other patches (entropy over its maximum)."""
    outlier_deviations: float = 2.0
    """Outlier patches: standard deviations of the mean head's map above its mean."""
    min_samples: int = 10
    """Fewest samples on which a function is named."""


def functions(of_samples: xr.Dataset, thresholds: Thresholds | None = None) -> xr.Dataset:
    """The function of each head, by the first of these rules that holds.

    1. `object_detection`: mean object gain >= 0.05 and >= 3 standard errors above 0, the head's mass on the object >= 0.05 above that of an
       even map (a head that merely spreads evenly detects nothing), mean AUROC >= 0.5.
    2. `object_suppression`: mass on the object <= half of the mean head's and the gain >= 3 standard errors below 0; mean outlier
       ratio >= 1.5 and >= 3 standard errors above 1.
    3. `outlier_suppression`: mean outlier ratio <= 0.5 and >= 3 standard errors below 1; mean evenness on the other patches >= 0.9.
    4. `undecidable`: fewer than 10 samples with a mask (1 and 2 cannot be judged), or with outlier patches (2 and 3).
    5. `none`.

    Object gain is the head's mass on the object minus the mean head's.

    Parameters
    ----------
    of_samples : the scores of `head_scores.scores`, each (sample, layer, head).

    Returns
    -------
    `function` (layer, head) and what it rests on, means over samples: object_mass, object_gain, object_gain_z (standard errors from 0),
    object_ratio, even_gain, auroc, outlier_ratio, outlier_ratio_z (from 1), evenness, samples_with_object, samples_with_outliers.
    """
    t = thresholds or Thresholds()
    gain = of_samples["object_mass"] - of_samples["mean_object_mass"]
    found = of_samples[["object_mass", "auroc", "outlier_ratio", "evenness"]].mean("sample")
    found["object_gain"], found["object_gain_z"] = gain.mean("sample"), _standard_errors(gain)
    average = of_samples["mean_object_mass"].mean("sample")
    found["object_ratio"] = found["object_mass"] / average.where(average > 0)
    found["even_gain"] = (of_samples["object_mass"] - of_samples["even_object_mass"]).mean("sample")
    found["outlier_ratio_z"] = _standard_errors(of_samples["outlier_ratio"] - 1)
    found["samples_with_object"] = gain.notnull().sum("sample")
    found["samples_with_outliers"] = of_samples["outlier_ratio"].notnull().sum("sample")

    has_object = found["samples_with_object"] >= t.min_samples
    has_outliers = found["samples_with_outliers"] >= t.min_samples
    detects = (found["object_gain"] >= t.gain) & (found["object_gain_z"] >= t.standard_errors) & (found["even_gain"] >= t.gain)
    detects &= has_object & ~(found["auroc"] < t.auroc)
    away = has_object & (found["object_ratio"] <= t.away) & (found["object_gain_z"] <= -t.standard_errors)
    suppresses = away & has_outliers & (found["outlier_ratio"] >= t.strong) & (found["outlier_ratio_z"] >= t.standard_errors)
    spreads = has_outliers & (found["outlier_ratio"] <= t.taken) & (found["outlier_ratio_z"] <= -t.standard_errors)
    spreads &= found["evenness"] >= t.evenness
    chosen = np.select(
        [c.values for c in (detects, suppresses, spreads, ~(has_object & has_outliers))], [*FUNCTIONS[:3], "undecidable"], "none"
    )
    found["function"] = (("layer", "head"), chosen.astype(object))
    return found


def _standard_errors(values: xr.DataArray) -> xr.DataArray:
    """Mean over samples in standard errors; infinite where all samples agree on another value than 0, NaN with fewer than 2 samples."""
    mean, count = values.mean("sample"), values.notnull().sum("sample")
    error = (values.std("sample", ddof=1) / np.sqrt(count.where(count > 1))).where(count > 1)
    certain = xr.where(mean > 0, np.inf, -np.inf)
    return (mean / error.where(error > 0)).where(error != 0, certain.where(abs(mean) > 1e-12, 0.0))


def score_samples(attention: xr.Dataset, outlier_deviations: float = 2.0) -> xr.Dataset:
    """The scores of every sample, read one sample at a time: each (sample, layer, head), with `category`, and `outlier_on_object` (sample).

    `outlier_on_object` is the share of the outlier patches that are patches of the object; NaN without either.

    Parameters
    ----------
    attention : an attention file: attention (sample, layer, head, patch), object_share (sample, patch), category (sample).
    """
    rows, overlaps = [], []
    for maps, share in _samples(attention):
        rows.append(scores(maps, share, outlier_deviations))
        outliers = outlier_patches(mean_map(normalized(maps)), outlier_deviations)
        known = bool(np.isfinite(share).all() and share.sum() > 0 and outliers.any())
        overlaps.append(float((share[outliers] >= INSIDE).mean()) if known else np.nan)
    layers, heads = attention.sizes["layer"], attention.sizes["head"]
    stacked = {name: np.array([row[name] for row in rows]).reshape(-1, layers, heads) for name in SCORES}
    return xr.Dataset(
        {name: (("sample", "layer", "head"), values) for name, values in stacked.items()}
        | {"outlier_on_object": ("sample", np.array(overlaps, dtype="float64"))},
        coords={
            "layer": np.arange(layers),
            "head": np.arange(heads),
            "category": ("sample", attention["category"].values.astype(str).astype(object)),
        },
    )


def _samples(attention: xr.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i in range(attention.sizes["sample"]):
        one = attention[["attention", "object_share"]].isel(sample=i)
        yield (
            one["attention"].transpose("layer", "head", "patch").values.astype("float64"),
            one["object_share"].values.astype("float64"),
        )


def find(results: Path, thresholds: Thresholds | None = None) -> dict[str, xr.Dataset]:
    """The function of every head of every model that has attention files.

    Returns
    -------
    One dataset a model: what `functions` returns, with a leading dim `task`: "overall", then "<dataset>/<category>"; and
    `outlier_on_object` (task). Empty when there are no attention files.

    Raises
    ------
    ResultsError
        When there is no results folder, or an attention file is damaged or lacks a variable.
    """
    effects_files(results)
    thresholds = thresholds or Thresholds()
    files = attention_files(results)
    found = {}
    for model in sorted({model for model, _ in files}):
        scored, attrs = {}, {}
        for (_, dataset), path in ((key, path) for key, path in files.items() if key[0] == model):
            scored[dataset], attrs[dataset] = _score_file(path, thresholds)
        _check_shapes(model, scored.values())
        tasks = {OVERALL: xr.concat(scored.values(), "sample")}
        tasks |= {
            f"{name}/{c}": data.isel(sample=data["category"] == c)
            for name, data in scored.items()
            for c in sorted(set(data["category"].values))
        }
        judged = [functions(data, thresholds).assign(outlier_on_object=data["outlier_on_object"].mean()) for data in tasks.values()]
        found[model] = xr.concat(judged, xr.Variable("task", list(tasks)))
        limits = {field.name: getattr(thresholds, field.name) for field in fields(Thresholds)}
        found[model].attrs = {"model": model} | next(iter(attrs.values())) | limits
    return found


def _score_file(path: Path, thresholds: Thresholds) -> tuple[xr.Dataset, dict[str, str]]:
    try:
        with xr.open_dataset(path, engine="netcdf4") as attention:
            missing = [name for name in ("attention", "object_share", "category") if name not in attention.variables]
            if not missing:
                scored = score_samples(attention, thresholds.outlier_deviations)
                return scored, {name: str(attention.attrs[name]) for name in ("component", "query") if name in attention.attrs}
    except DAMAGED as error:
        raise damaged(path) from error
    raise ResultsError(f"{path} lacks {', '.join(missing)}: it is not an attention file; delete it and make it again")


def _check_shapes(model: str, scored: Iterable[xr.Dataset]) -> None:
    shapes = {(data.sizes["layer"], data.sizes["head"]) for data in scored}
    if len(shapes) > 1:
        raise ResultsError(
            f"the attention files of {model} have different numbers of (layers, heads): {sorted(shapes)}; delete the stale ones"
        )


def table(found: dict[str, xr.Dataset], universal: dict[str, xr.Dataset] | None = None) -> pd.DataFrame:
    """One row a model, task and head: its function, the scores behind it, and its kind where universal heads were found.

    The kind is left empty where universal heads were judged on another component than the attention's.
    """
    frames = []
    for model, dataset in found.items():
        measured = [
            "function",
            "object_gain",
            "object_gain_z",
            "object_ratio",
            "even_gain",
            "auroc",
            "outlier_ratio",
            "outlier_ratio_z",
            "evenness",
        ]
        frame = (
            dataset[[*measured, "samples_with_object", "samples_with_outliers"]]
            .to_dataframe(dim_order=["task", "layer", "head"])
            .reset_index()
        )
        frame.insert(0, "model", model)
        frame.insert(4, "name", [head_name(*at) for at in zip(frame["layer"], frame["head"], strict=True)])
        kind = _kinds(dataset, (universal or {}).get(model))
        frame.insert(5, "kind", [kind.get(at, "") for at in zip(frame["layer"], frame["head"], strict=True)])
        frames.append(frame)
    return (
        pd.concat(frames, ignore_index=True)
        if frames
        else pd.DataFrame(columns=["model", "task", "layer", "head", "name", "kind", "function"])
    )


def _kinds(functions_of: xr.Dataset, universal: xr.Dataset | None) -> dict[tuple[int, int], str]:
    if universal is None or universal.attrs.get("component") != functions_of.attrs.get("component", universal.attrs.get("component")):
        return {}
    return {(int(k["layer"]), int(k["head"])): str(k.item()) for row in universal["kind"] for k in row}


def find_and_write(results: Path, thresholds: Thresholds | None = None) -> dict[str, xr.Dataset]:
    """`find`, then write `head_functions.nc` (one group a model) and `head_functions.csv` (see `table`) into the results folder.

    Without attention files nothing is written, and stale files of an earlier run are removed.
    """
    results = Path(results)
    found = find(results, thresholds)
    if not found:
        for suffix in (".nc", ".csv"):
            (results / f"{FILE}{suffix}").unlink(missing_ok=True)
        return found
    write_tree(found, results / f"{FILE}.nc")
    frame = table(found, read_tree(results / "universal_heads.nc"))
    write_whole(results / f"{FILE}.csv", lambda temporary: frame.to_csv(temporary, index=False, float_format="%.6g"))
    return found


@dataclass(frozen=True)
class HeadFunctions(Thresholds):
    """Compute what each head does from its attention to the image, against the mean of all heads.

    python analysis/head_functions.py --results results --gain 0.05
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""


def main() -> None:
    """Command line."""
    import tyro

    try:
        options = tyro.cli(HeadFunctions)
        found = find_and_write(options.results, options)
    except (ResultsError, OSError) as error:
        raise SystemExit(f"head_functions: {error}") from None
    if not found:
        raise SystemExit(
            f"head_functions: no <model>/<dataset>/attention.nc below {options.results.absolute()}: collect attention maps first"
        )
    for model, dataset in found.items():
        overall = dataset["function"].sel(task=OVERALL)
        print(f"{model}: " + "; ".join(f"{name}: {int((overall == name).sum())}" for name in FUNCTIONS) + " heads")
    print(f"wrote {options.results / FILE}.nc and .csv")


if __name__ == "__main__":
    main()
