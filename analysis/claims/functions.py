"""Judges of what heads do, by `head_functions.nc`: a named head in every task, or the universal heads over all tasks."""

from pathlib import Path

import numpy as np
import xarray as xr

from analysis.claims.outcome import FAILS, HOLDS, OPPOSITE, UNDECIDED, Estimate, Finding, NotRun, Undecidable, every, some
from analysis.claims.subject import Subject
from analysis.store.folder import head_name

OVERALL = "overall"
NORMAL = 1.96  # standard errors of a 95 % interval
SCORES = {  # of each function: the score that it rests on, and that of heads that do nothing
    "object_detection": ("object_gain", 0.0),
    "object_suppression": ("object_gain", 0.0),
    "outlier_suppression": ("outlier_ratio", 1.0),
}
SOME, ALL, NONE = "some", "all", "none"
Head = tuple[int, int]


def functions_of(subject: Subject) -> tuple[xr.Dataset, Path]:
    """The functions of all heads, and the file they are in."""
    functions, path = subject.analysed("head functions")
    if "verdict" not in functions:
        raise NotRun("head_functions.nc is of an earlier version", subject.command("head functions"))
    return functions, path


def has(functions: xr.Dataset, head: Head, function: str, task: str = OVERALL) -> str:
    """Whether a head has a function in a task: holds when all tests and floors say so; undecided where it cannot be judged, or where its
    means pass the floors but the tests do not; else does not hold."""
    judged = functions.sel(task=task, rule=function).isel(layer=head[0], head=head[1])
    verdict = str(judged["verdict"].item())
    return HOLDS if verdict == "yes" else UNDECIDED if verdict == "undecidable" or bool(judged["large"]) else FAILS


def score(functions: xr.Dataset, head: Head, function: str, task: str = OVERALL) -> Estimate:
    """The score that a function rests on, with its interval, or a normal one from its z."""
    name, null = SCORES[function]
    of_head = functions.sel(task=task).isel(layer=head[0], head=head[1])
    value, z = float(of_head[name]), float(of_head[f"{name}_z"])
    if f"{name}_low" in of_head:
        low, high = float(of_head[f"{name}_low"]), float(of_head[f"{name}_high"])
    else:
        error = abs(value - null) / abs(z) if z else np.nan
        low, high = value - NORMAL * error, value + NORMAL * error
    return Estimate(f"{head_name(*head)} {name.replace('_', ' ')} ({task})", value, low, high)


def named_head_has(subject: Subject, head: Head, functions: dict[str, str]) -> Finding:
    """Whether a head has, in every task of each data set, the function that `functions` names for the data set."""
    judged, path = functions_of(subject)
    layers, width = judged.sizes["layer"], judged.sizes["head"]
    if head[0] >= layers or head[1] >= width:
        raise Undecidable(f"it has {layers} x {width} heads")
    datasets = {str(task): str(task).split("/")[0] for task in judged["task"].values if "/" in str(task)}
    wanted = {task: functions[dataset] for task, dataset in datasets.items() if dataset in functions}
    if not wanted:
        raise NotRun(f"head_functions.nc has no task of {', '.join(functions)}", subject.whole_study())
    results = {task: has(judged, head, function, task) for task, function in wanted.items()}
    note = "; ".join(f"{task}, {wanted[task].replace('_', ' ')}: {result}" for task, result in results.items())
    return Finding(every(results.values()), tuple(score(judged, head, of, task) for task, of in wanted.items()), note, (path,))


def universal_heads_have(
    subject: Subject, quantity: str, functions: tuple[str, ...], kinds: tuple[str, ...] = ("vision", "text", "multimodal")
) -> Finding:
    """Whether some, all or none of the universal heads of some kinds have one of some functions, over all tasks."""
    judged, path = functions_of(subject)
    heads, universal_path = _universal_heads(subject, judged, kinds)
    results = {head: some(has(judged, head, function) for function in functions) for head in heads}
    having = [head for head, result in results.items() if result == HOLDS]
    if quantity == ALL:
        result, shown = every(results.values()), heads
    else:
        result, shown = some(results.values()), having or heads
    scores = tuple(score(judged, head, functions[0]) for head in shown[:3])
    names = judged["function"].sel(task=OVERALL).values
    note = "; ".join(f"{head_name(*head)}: {str(names[head]).replace('_', ' ')}" for head in heads[:12])
    return Finding(OPPOSITE[result] if quantity == NONE else result, scores, note, (path, universal_path))


def _universal_heads(subject: Subject, functions: xr.Dataset, kinds: tuple[str, ...]) -> tuple[list[Head], Path]:
    """The universal heads of some kinds, and the file they are in.

    Raises
    ------
    Undecidable
        When there is none, or they are heads of another component than that whose attention is known.
    """
    universal, path = subject.analysed("universal heads", notices_rule=True)
    component = functions.attrs.get("component", universal.attrs["component"])
    if universal.attrs["component"] != component:
        raise Undecidable(f"universal heads are of {universal.attrs['component']}, attention of {component}")
    heads = [(int(layer), int(head)) for layer, head in np.argwhere(np.isin(universal["kind"].values.astype(str), kinds))]
    if not heads:
        raise Undecidable(f"no head is universal here ({' or '.join(kinds)})")
    return heads, path
