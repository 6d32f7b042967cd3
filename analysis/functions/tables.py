"""What is found of head functions, as tables and in words."""

import numpy as np
import pandas as pd
import xarray as xr

from analysis.functions.registry import FUNCTIONS, OVERALL, UNDECIDABLE, labels, of_object, words
from analysis.store.folder import head_name

SHOWN = 12  # heads named in words
MEASURED = (
    *("object_gain", "object_gain_z", "object_selectivity", "object_ratio", "object_lift", "even_gain", "auroc", "auroc_elsewhere"),
    *("pointing", "pointing_elsewhere", "inside", "outside", "outlier_ratio", "outlier_ratio_z", "outlier_ratio_off_object", "evenness"),
)
KEYS = ("model", "task", "layer", "head", "name", "kind")


def table(found: dict[str, xr.Dataset], universal: dict[str, xr.Dataset] | None = None) -> pd.DataFrame:
    """One row a model, task and head.

    Columns: model, task, layer, head, name, kind (of universal head; empty where universal heads were judged on another component than the
    attention's), function, polysemantic; each of `MEASURED` with <name>_low and <name>_high; samples_with_object,
    samples_with_outliers; <function>_p, <function>_q and <function>_verdict of each function. See `functions.rule.judge`.

    >>> from pathlib import Path
    >>> from analysis.head_functions import Thresholds, find
    >>> rows = table(find(Path("results"), Thresholds(resamples=100, permutations=0)))
    >>> rows[(rows["task"] == "overall") & rows["function"].isin(list(FUNCTIONS))][["name", "function"]].values.tolist()
    [['L0.H5', 'outlier_suppression'], ['L1.H2', 'object_suppression'], ['L3.H0', 'object_detection']]
    """
    frames = []
    for model, dataset in found.items():
        intervals = {name: [f"{name}_low", f"{name}_high"] if f"{name}_low" in dataset else [] for name in MEASURED}
        measured = [column for name in MEASURED for column in (name, *intervals[name])]
        wanted = dataset[["function", "polysemantic", *measured, "samples_with_object", "samples_with_outliers"]]
        for rule in dataset["rule"].values:
            of_rule = dataset[["p", "q", "verdict"]].sel(rule=rule, drop=True)
            wanted = wanted.assign({f"{rule}_{name}": values for name, values in of_rule.data_vars.items()})
        frame = wanted.to_dataframe(dim_order=["task", "layer", "head"]).reset_index()
        frame.insert(0, "model", model)
        frames.append(_named(frame, dataset, (universal or {}).get(model), 4))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*KEYS, "function"])


def by_task(found: dict[str, xr.Dataset], universal: dict[str, xr.Dataset] | None = None) -> pd.DataFrame:
    """One row a model and head: which functions it has in which tasks.

    Columns: model, layer, head, name, kind, overall (its function over all samples), polysemantic, <function>_tasks (in how many tasks it
    has each function), undecidable_tasks, then a column for each task; overall_undecidable (see `which_undecidable`).

    >>> from pathlib import Path
    >>> from analysis.head_functions import Thresholds, find
    >>> rows = by_task(find(Path("results"), Thresholds(resamples=0, permutations=0))).set_index("name")
    >>> rows.loc["L3.H0", ["overall", "shapes/colour", "shapes/shape"]].tolist(), int(rows.loc["L3.H0", "object_detection_tasks"])
    (['object_detection', 'object_detection', 'object_detection'], 2)
    """
    frames = []
    for model, dataset in found.items():
        of_tasks = dataset["function"].sel(task=dataset["task"] != OVERALL)
        columns = {"overall": dataset["function"].sel(task=OVERALL, drop=True), "polysemantic": dataset["polysemantic"]}
        columns |= {f"{name}_tasks": (of_tasks == name).sum("task") for name in (*dataset["rule"].values, UNDECIDABLE)}
        columns |= {str(task): of_tasks.sel(task=task, drop=True) for task in of_tasks["task"].values}
        columns["overall_undecidable"] = which_undecidable(dataset.sel(task=OVERALL, drop=True))
        frame = xr.Dataset(columns).to_dataframe(dim_order=["layer", "head"]).reset_index()
        frame.insert(0, "model", model)
        frames.append(_named(frame, dataset, (universal or {}).get(model), 3))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["model", "layer", "head", "name", "kind", "overall"])


def which_undecidable(dataset: xr.Dataset) -> xr.DataArray:
    """Of heads whose function is "undecidable", which functions are so, as text (the others are decided: no); else "".

    Parameters
    ----------
    dataset : function [...] and verdict [rule, ...], as `functions.rule.judge` gives them

    >>> verdict = xr.DataArray([["no", "no"], ["no", "no"], ["undecidable", "no"]], dims=("rule", "head"), coords={"rule": list(FUNCTIONS)})
    >>> which_undecidable(xr.Dataset({"function": ("head", ["undecidable", "none"]), "verdict": verdict})).values.tolist()
    ['outlier suppression', '']
    """
    text = xr.full_like(dataset["function"], "", dtype=object)
    for rule in map(str, dataset["rule"].values):
        so = (dataset["function"] == UNDECIDABLE) & (dataset["verdict"].sel(rule=rule, drop=True) == UNDECIDABLE)
        text = text.where(~so, text.where(text == "", text + ", ") + words(rule))
    return text


def validation(found: dict[str, xr.Dataset]) -> pd.DataFrame:
    """One row a model, task and exchange of masks: how many object heads chance gives, beside those with the samples' own masks.

    Columns: model, task, permutation (0, 1, ...), then of each function that is judged by masks <function> (heads named with exchanged
    masks) and <function>_own (with their own). A model without masks has no rows.

    >>> from pathlib import Path
    >>> from analysis.head_functions import Thresholds, find
    >>> rows = validation(find(Path("results"), Thresholds(resamples=0, permutations=2)))
    >>> rows[rows["task"] == "overall"][["permutation", "object_detection", "object_detection_own"]].values.tolist()
    [[0, 0, 1], [1, 0, 1]]
    """
    by_masks = of_object()
    columns = ["model", "task", "permutation", *(f"{rule}{end}" for rule in by_masks for end in ("", "_own"))]
    rows = [
        {"model": model, "task": str(task), "permutation": int(k)}
        | {rule: int(dataset["permuted_object_heads"].sel(task=task, permutation=k, object_rule=rule)) for rule in by_masks}
        | {f"{rule}_own": int((dataset["verdict"].sel(task=task, rule=rule) == "yes").sum()) for rule in by_masks}
        for model, dataset in found.items()
        if "permuted_object_heads" in dataset
        for task in dataset["task"].values
        for k in dataset["permutation"].values
    ]
    return pd.DataFrame(rows, columns=columns)


def _named(frame: pd.DataFrame, dataset: xr.Dataset, universal: xr.Dataset | None, at: int) -> pd.DataFrame:
    """With the columns name and kind."""
    same = universal is not None and universal.attrs.get("component") == dataset.attrs.get("component", universal.attrs.get("component"))
    kind = (
        {(int(k["layer"]), int(k["head"])): str(k.item()) for row in universal["kind"] for k in row}
        if same and universal is not None
        else {}
    )
    places = list(zip(frame["layer"], frame["head"], strict=True))
    frame.insert(at, "name", [head_name(*place) for place in places])
    frame.insert(at + 1, "kind", [kind.get(place, "") for place in places])
    return frame


def summary(found: dict[str, xr.Dataset], agreement: pd.DataFrame) -> str:
    """Each model's functions in words: heads by function, heads with several, what permuted masks give, whether effects agree.

    Parameters
    ----------
    agreement : as `functions.agreement.agreement` gives it.

    >>> from pathlib import Path
    >>> from analysis.head_functions import Thresholds, find
    >>> found = find(Path("results"), Thresholds(resamples=0, permutations=0))
    >>> print("\\n".join(summary(found, pd.DataFrame(columns=["model", "task", "function"])).split("\\n")[:3]))
    blip-small: object detection: 1; object suppression: 1; outlier suppression: 1; none: 21; undecidable: 0 heads
      object detection: L3.H0
      object suppression: L1.H2
    """
    lines = []
    for model, dataset in found.items():
        overall = dataset["function"].sel(task=OVERALL).values
        counts = [
            *((words(name), int((overall == name).sum())) for name in labels(overall.ravel()) if name != UNDECIDABLE),
            *_undecidable(dataset, OVERALL),
        ]
        lines.append(f"{model}: " + "; ".join(f"{name}: {count}" for name, count in counts) + " heads")
        lines += [f"  {words(rule)}: {_heads(overall == rule)}" for rule in dataset["rule"].values if (overall == rule).any()]
        lines += [f"  {line}" for line in (*_by_task(dataset), *_doubts(dataset), *_chance(dataset))]
        of_model = agreement[(agreement["model"] == model) & (agreement["task"] == OVERALL) & agreement["function"].isin(list(FUNCTIONS))]
        for row in of_model.itertuples():
            says = {"yes": "as expected", "no": "against what is expected", "undecided": "undecided"}.get(str(row.agrees), "")
            interval = f"{row.mean_effect:+.3g} [{row.low:+.3g}, {row.high:+.3g}]"
            beside = f"random heads of these layers {row.expected_in_layers:+.3g} (q = {row.q_in_layers:.2g})"
            lines.append(
                f"  {row.corruption}, {words(str(row.function))} ({row.heads}): mean effect {interval}, {beside}"
                + (f": {says}" if says else "")
            )
    return "\n".join(lines)


def _by_task(dataset: xr.Dataset) -> list[str]:
    tasks = [task for task in dataset["task"].values if task != OVERALL]
    lines = []
    for task in tasks:
        function = dataset["function"].sel(task=task).values
        parts = [f"{words(name)} {int((function == name).sum())}" for name in dataset["rule"].values if (function == name).any()]
        parts += [f"{name} {count}" for name, count in _undecidable(dataset, task) if count]
        lines.append(f"{task}: {', '.join(parts) or 'no head has a function'}")
    several = dataset["polysemantic"].values
    if several.any() and len(tasks) > 1:
        lines.append(f"different functions in different tasks: {_heads(several)}")
    return lines


def _undecidable(dataset: xr.Dataset, task: str) -> list[tuple[str, int]]:
    """How many heads are undecidable, by the functions that are so: "undecidable (outlier suppression)"."""
    text = which_undecidable(dataset.sel(task=task)).values
    names, counts = np.unique(text[text != ""].astype(str), return_counts=True)
    return [(f"undecidable ({name})", int(count)) for name, count in zip(names, counts, strict=True)] or [("undecidable", 0)]


def _doubts(dataset: xr.Dataset) -> list[str]:
    lines = []
    verdict = dataset["verdict"].sel(task=OVERALL)
    if (verdict.sel(rule=of_object()) == UNDECIDABLE).all():
        lines.append("object detection and suppression are undecidable: too few samples have a mask of the object")
    on_object = float(dataset["outlier_on_object"].sel(task=OVERALL))
    if on_object > 0.5:
        share = f"{100 * on_object:.0f} % of the outlier patches"
        lines.append(f"{share} are of the object: outlier suppression here is mostly not looking where most heads see the object")
    few = [str(task) for task in dataset["task"].values if dataset["smallest_q"].sel(task=task) > dataset.attrs["alpha"]]
    return lines + ([f"too few samples or flips for one head alone to be named: {', '.join(few)}"] if few else [])


def _chance(dataset: xr.Dataset) -> list[str]:
    if "permuted_object_heads" not in dataset:
        return []
    by_chance = dataset["permuted_object_heads"].sum(("task", "object_rule"))
    own = int((dataset["verdict"].sel(rule=of_object()) == "yes").sum())
    runs = f"{int((by_chance > 0).sum())} of {by_chance.size} exchanges of masks name any"
    return [f"object heads, summed over tasks: {own}; with masks of other samples {float(by_chance.mean()):.2g} on average, {runs}"]


def _heads(chosen: np.ndarray) -> str:
    names = [head_name(*map(int, at)) for at in np.argwhere(chosen)]
    return " ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
