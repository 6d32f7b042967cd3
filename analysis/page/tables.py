"""What the report says, as rows of text: results folder -> what ran, what did not, answers, samples left out, heads, functions.

Every number is already text; a missing one is a dash.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from analysis import products
from analysis.functions.registry import NONE, OVERALL, UNDECIDABLE, labels, words
from analysis.functions.tables import which_undecidable
from analysis.heads.rules import kind_rank
from analysis.store.folder import EffectsFile, head_name

MISSING = "–"
EXAMPLES = 5
QUOTED = re.compile(r"'[^']*'")


def number(value: Any, form: str = ".3f") -> str:
    """A number as text; a dash where it is missing or not a number."""
    if value is None or not isinstance(value, (int, float, np.number)) or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = format(value, form)
    return (text.lstrip("+-") if not text.strip("+-0.") else text).replace("-", "−")


def runs(samples: dict[str, int], manifest: dict[str, Any]) -> list[dict[str, str]]:
    """One row for each run that has a file or stands in the manifest.

    Parameters
    ----------
    samples : the number of samples of each file of effects or attention, by its name below the results folder.
    """
    said = {name: run for name, run in _dictionary(manifest, "runs").items() if name.count("/") >= 2}
    there = set(samples)
    rows = []
    for name in sorted(there | set(said)):
        entry = said.get(name)
        run: dict[str, Any] = entry if isinstance(entry, dict) else {}
        model, dataset, *corruption, component = name.removesuffix(".nc").split("/")
        kinds = {products.HEADS: "heads", products.MODULES: "whole modules"}
        patched = next((kind for product, kind in kinds.items() if products.names_in(product, Path(name), Path())), MISSING)
        rows.append(
            {
                "model": model,
                "dataset": dataset,
                "corruption": corruption[0] if corruption else "clean run",
                "component": component.removesuffix("-heads").replace("_", "-"),
                "patched": patched,
                "samples": number(run.get("samples", samples.get(name)), "d"),
                "seconds": number(run.get("seconds"), ".1f"),
                "status": str(run.get("status", "finished" if name in there else MISSING)) + ("" if name in there else " (no file)"),
            }
        )
    return rows


def not_run(
    files: list[EffectsFile], universal: dict[str, xr.Dataset], attention: Iterable[tuple[str, str]], manifest: dict[str, Any]
) -> list[str]:
    """A sentence for each thing that a reader might expect and that is not in the results."""
    missing = []
    for model, dataset in sorted({(file.model, file.dataset) for file in files}):
        here = [file for file in files if (file.model, file.dataset) == (model, dataset)]
        for corruption in sorted({file.corruption for file in here}):
            patched = {file.heads for file in here if file.corruption == corruption}
            left = [what for heads, what in ((True, "heads"), (False, "whole modules")) if heads not in patched]
            missing += [f"{model}, {dataset}: {what} were not patched under the {corruption} corruption." for what in left]
        if (model, dataset) not in set(attention):
            missing.append(f"{model}, {dataset}: attention maps were not collected, so head functions are unknown.")
    for model in sorted({file.model for file in files if file.heads}):
        if model not in universal:
            missing.append(f"{model}: universal heads were not looked for.")
            continue
        ran = {str(m) for m in universal[model]["modality"].values}
        for modality, kind in (("image", "text"), ("text", "vision")):
            if modality not in ran:
                wanted = f"no {modality} corruption was run, so a head named {kind} may be multimodal"
                missing.append(f"{model}: {wanted}.")
        counts = universal[model]["samples"]
        missing += [
            f"{model}: the task {task} was not run under the {corruption} corruption."
            for corruption in counts["corruption"].values
            for task in counts["task"].values
            if not int(counts.sel(corruption=corruption, task=task))
        ]
    said = _dictionary(manifest, "runs")
    unfinished = sorted(
        (name, run.get("status")) for name, run in said.items() if isinstance(run, dict) and run.get("status", "finished") != "finished"
    )
    return missing + [f"{name}: {status}." for name, status in unfinished]


def answers(manifest: dict[str, Any]) -> list[dict[str, str]]:
    """How many questions each model answered correctly, a row a task."""
    rows = []
    for place, categories in sorted(_dictionary(manifest, "answers").items()):
        for category, counts in sorted(categories.items() if isinstance(categories, dict) else ()):
            asked, correct = counts.get("asked"), counts.get("correct")
            accuracy = 100 * correct / asked if asked and correct is not None else None
            model, _, dataset = place.partition("/")
            row = {"model": model, "dataset": dataset, "category": category}
            rows.append(row | {"asked": number(asked, "d"), "correct": number(correct, "d"), "accuracy": number(accuracy, ".1f")})
    return rows


def left_out(manifest: dict[str, Any]) -> list[dict[str, str]]:
    """How many samples were left out of each data set and of each model's runs, a row a reason, with the first few ids.

    A sample that several runs leave out for one reason is counted once. Reasons that differ only in what they quote are one.
    """
    found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for part in ("data", "runs"):
        for name, entry in _dictionary(manifest, part).items():
            model, _, place = name.partition("/")
            place = f"data set {name}" if part == "data" else f"{model}, {place.split('/')[0]}"
            for sample in (entry.get("left_out") or ()) if isinstance(entry, dict) else ():
                reason = str(sample.get("reason", "no reason given"))
                found[place, QUOTED.sub("…", reason)].setdefault(str(sample.get("sample", "?")), reason)
    rows = []
    for (place, pattern), reasons in sorted(found.items()):
        samples, more = list(reasons), ", …" if len(reasons) > EXAMPLES else ""
        reason = pattern if len(set(reasons.values())) > 1 else reasons[samples[0]]
        rows.append({"place": place, "reason": reason, "count": str(len(samples)), "samples": ", ".join(samples[:EXAMPLES]) + more})
    return rows


def short_tasks(tasks: list[str]) -> list[str]:
    """ "dataset/category", without the data set where there is one only."""
    single = len({task.split("/", 1)[0] for task in tasks}) == 1
    return [task.split("/", 1)[-1] if single else task for task in tasks]


def universal_rows(universal: xr.Dataset, functions: xr.Dataset | None) -> list[dict[str, Any]]:
    """The heads that are important in any task, universal ones first, then the strongest: kind, effects per corruption, function."""
    rows = []
    for layer, head in np.argwhere(universal["important"].any(("corruption", "task")).values):
        one = universal.isel(layer=layer, head=head)
        row: dict[str, Any] = {"name": head_name(int(layer), int(head)), "kind": str(one["kind"].item())}
        row["function"] = _function(functions, int(layer), int(head))
        row["strength"] = float(one["mean_absolute_effect"].mean("task").max())
        row["under"] = [_under(one.sel(corruption=corruption)) for corruption in universal["corruption"].values]
        rows.append(row)
    return sorted(rows, key=lambda row: (kind_rank(row["kind"]), -row["strength"]))


def _under(one: xr.Dataset) -> dict[str, str]:
    tasks = f"{int(one['important'].sum())} of {int((one['samples'] > 0).sum())}"
    return {
        "effect": number(float(one["mean_effect"].mean()), "+#.3g"),
        "tasks": tasks,
        "p": number(float(one["p"]), ".2g") if "p" in one else MISSING,
    }


def _function(functions: xr.Dataset | None, layer: int, head: int) -> str:
    if functions is None:
        return MISSING
    one = functions.sel(task=OVERALL).isel(layer=layer, head=head)
    name = str(one["function"].item())
    return f"{name} ({which_undecidable(one).item()})" if name == UNDECIDABLE and "verdict" in one else words(name)


def thresholds(universal: xr.Dataset) -> list[dict[str, str]]:
    """The samples and the threshold of each task and corruption."""
    return [
        {
            "task": str(task),
            "corruption": str(corruption),
            "samples": number(int(universal["samples"].sel(corruption=corruption, task=task)), "d"),
            "threshold": number(float(universal["threshold"].sel(corruption=corruption, task=task)), ".3g"),
        }
        for task in universal["task"].values
        for corruption in universal["corruption"].values
    ]


def function_counts(functions: xr.Dataset) -> list[dict[str, Any]]:
    """How many heads have each function, a row a task."""
    rows, names = [], labels(functions["function"].values.ravel())
    for task in functions["task"].values:
        of_task = functions["function"].sel(task=task)
        row: dict[str, Any] = {
            "task": str(task),
            "counts": [int((of_task == name).sum()) for name in names],
        }
        row["overlap"] = number(100 * float(functions["outlier_on_object"].sel(task=task)), ".0f")
        rows.append(row)
    return rows


def function_rows(functions: xr.Dataset, universal: xr.Dataset | None) -> list[dict[str, Any]]:
    """The universal heads, and all heads with a function overall: scores, and the function in each task."""
    overall = functions.sel(task=OVERALL)
    kind = universal["kind"].values if universal is not None else np.full(overall["function"].shape, MISSING, dtype=object)
    named = ~np.isin(overall["function"].values.astype(str), (NONE, UNDECIDABLE)) | ~np.isin(kind, ("none", MISSING))
    rows = []
    for layer, head in np.argwhere(named):
        one = overall.isel(layer=layer, head=head)
        row: dict[str, Any] = {
            "name": head_name(int(layer), int(head)),
            "kind": kind[layer, head],
            "function": _function(functions, layer, head),
        }
        forms = {"object_gain": "+.3f", "auroc": ".2f", "outlier_ratio": ".2f", "evenness": ".2f"}
        row["scores"] = [_with_interval(one, name, form) for name, form in forms.items()]
        tasks = [task for task in functions["task"].values if task != OVERALL]
        row["tasks"] = [words(str(functions["function"].sel(task=task).values[layer, head])) for task in tasks]
        rows.append(row)
    order = {words(name): i for i, name in enumerate(labels(overall["function"].values.ravel()))}
    return sorted(rows, key=lambda row: (row["kind"] in ("none", MISSING), order[row["function"].split(" (")[0]]))


def _with_interval(one: xr.Dataset, name: str, form: str) -> str:
    ends = [number(float(one[end]), form) for end in (f"{name}_low", f"{name}_high") if end in one]
    return number(float(one[name]), form) + (f" [{', '.join(ends)}]" if len(ends) == 2 else "")


def _dictionary(manifest: dict[str, Any], key: str) -> dict[str, Any]:
    value = manifest.get(key)
    return value if isinstance(value, dict) else {}
