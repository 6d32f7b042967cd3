"""NOTICE's claims about what heads do, against `head_functions.nc`."""

from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from analysis.claims.claim import (
    BLIP,
    DECODER,
    ENCODER,
    FAILS,
    HOLDS,
    LLAVA,
    UNDECIDED,
    Claim,
    Estimate,
    Finding,
    NotRun,
    Undecidable,
    every,
)
from analysis.claims.place import Place
from analysis.store.folder import head_name

OVERALL = "overall"
UNIVERSAL = ("vision", "text", "multimodal")
GROUNDING = ("object_detection", "object_suppression")
WORDS = {"object_detection": "object detection", "object_suppression": "object suppression", "outlier_suppression": "outlier suppression"}
NORMAL = 1.96  # standard errors of a 95 % interval
CLASSES = "by the tests and floors of head_functions"


def functions_of(place: Place) -> tuple[xr.Dataset, tuple[Path, ...]]:
    """The functions of all heads, and the file they are in."""
    functions, path = place.tree(place.folder.functions, "head_functions")
    if "verdict" not in functions:
        raise NotRun("head_functions.nc is of an earlier version", f"python -m analysis.head_functions --results {place.folder.path}")
    return functions, (path,)


def does(functions: xr.Dataset, head: tuple[int, int], function: str, task: str = OVERALL) -> str:
    """Whether a head has a function in a task: holds when all tests and floors say so; undecided where it cannot be judged, or where its
    means pass the floors but the tests do not; else does not hold."""
    judged = functions.sel(task=task, rule=function).isel(layer=head[0], head=head[1])
    verdict = str(judged["verdict"].item())
    return HOLDS if verdict == "yes" else UNDECIDED if verdict == "undecidable" or bool(judged["large"]) else FAILS


def described(functions: xr.Dataset, heads: list[tuple[int, int]], most: int = 12) -> str:
    """The function that names each head, over all tasks."""
    names = functions["function"].sel(task=OVERALL).values
    return "; ".join(f"{head_name(*head)}: {str(names[head]).replace('_', ' ')}" for head in heads[:most])


def score(functions: xr.Dataset, task: str, head: tuple[int, int], function: str) -> Estimate:
    """The score that a function rests on: the object gain, or the outlier ratio; with its interval, or a normal one from its z."""
    name, null = ("outlier_ratio", 1.0) if function == "outlier_suppression" else ("object_gain", 0.0)
    of_head = functions.sel(task=task).isel(layer=head[0], head=head[1])
    value, z = float(of_head[name]), float(of_head[f"{name}_z"])
    if f"{name}_low" in of_head:
        low, high = float(of_head[f"{name}_low"]), float(of_head[f"{name}_high"])
    else:
        error = abs(value - null) / abs(z) if z else np.nan
        low, high = value - NORMAL * error, value + NORMAL * error
    return Estimate(f"{head_name(*head)} {name.replace('_', ' ')} ({task})", value, low, high)


def named(place: Place, head: tuple[int, int], wanted: dict[str, str]) -> Finding:
    """Whether a named head has the function that is wanted in every task of each data set."""
    functions, files = functions_of(place)
    if head[0] >= functions.sizes["layer"] or head[1] >= functions.sizes["head"]:
        raise Undecidable(f"it has {functions.sizes['layer']} x {functions.sizes['head']} heads")
    tasks = {str(t): wanted[d] for t in functions["task"].values for d in wanted if str(t).startswith(f"{d}/")}
    if not tasks:
        raise NotRun(f"head_functions.nc has no task of {', '.join(wanted)}", place.whole_study())
    results = {task: does(functions, head, function, task) for task, function in tasks.items()}
    note = "; ".join(f"{task}, {tasks[task].replace('_', ' ')}: {result}" for task, result in results.items())
    return Finding(every(results.values()), tuple(score(functions, task, head, function) for task, function in tasks.items()), note, files)


def universal_heads(place: Place, functions: xr.Dataset, kinds: tuple[str, ...]) -> tuple[list[tuple[int, int]], tuple[Path, ...]]:
    """The universal heads of some kinds, and the file they are in.

    Raises
    ------
    Undecidable
        When there is none, or they are heads of another component than that whose attention is known.
    """
    universal, path = place.by_notices_rule(place.folder.universal, "universal_heads")
    component = functions.attrs.get("component", universal.attrs["component"])
    if universal.attrs["component"] != component:
        raise Undecidable(f"universal heads are of {universal.attrs['component']}, attention of {component}")
    heads = [(int(layer), int(head)) for layer, head in np.argwhere(np.isin(universal["kind"].values.astype(str), kinds))]
    if not heads:
        raise Undecidable(f"no head is universal here ({' or '.join(kinds)})")
    return heads, (path,)


def occurs(place: Place, function: str) -> Finding:
    """Whether a function is that of some universal head."""
    functions, files = functions_of(place)
    heads, more = universal_heads(place, functions, UNIVERSAL)
    results = {head: does(functions, head, function) for head in heads}
    have = [head for head, result in results.items() if result == HOLDS]
    result = HOLDS if have else UNDECIDED if UNDECIDED in results.values() else FAILS
    scores = tuple(score(functions, OVERALL, head, function) for head in (have or heads)[:3])
    return Finding(result, scores, described(functions, heads), (*files, *more))


def all_are(place: Place, kinds: tuple[str, ...], function: str) -> Finding:
    """Whether all universal heads of some kinds have a function."""
    functions, files = functions_of(place)
    heads, more = universal_heads(place, functions, kinds)
    result = every(does(functions, head, function) for head in heads)
    scores = tuple(score(functions, OVERALL, head, function) for head in heads[:3])
    return Finding(result, scores, described(functions, heads), (*files, *more))


def none_grounds(place: Place) -> Finding:
    """Whether no universal head detects or suppresses objects."""
    functions, files = functions_of(place)
    heads, more = universal_heads(place, functions, UNIVERSAL)
    results = {head: [does(functions, head, function) for function in GROUNDING] for head in heads}
    ground = [head for head, of_head in results.items() if HOLDS in of_head]
    result = FAILS if ground else UNDECIDED if any(UNDECIDED in of_head for of_head in results.values()) else HOLDS
    scores = tuple(score(functions, OVERALL, head, GROUNDING[0]) for head in (ground or heads)[:3])
    return Finding(result, scores, described(functions, heads), (*files, *more))


def _named(head: tuple[int, int], what: str, wanted: dict[str, str]) -> Claim:
    return Claim(
        id=f"notice-blip-{head_name(*head)}-function",
        paper="NOTICE",
        source="head functions of BLIP",
        says=f"{head_name(*head)} does {what}",
        test=f"whether it does that in every task, {CLASSES}: holds when in all, does not hold when not in one; undecided where that "
        "cannot be judged (objects without masks) or the floors are passed and the tests are not",
        kind=ENCODER,
        models=BLIP,
        judge=partial(named, head=head, wanted=wanted),
        papers_model_only=True,
    )


DATA = ("svo_probes", "mit_states", "fer2013")
CLAIMS = [
    _named((3, 0), "object detection in all tasks", dict.fromkeys(DATA, "object_detection")),
    _named(
        (5, 3),
        "object suppression (SVO-Probes, MIT-States) and outlier suppression (faces)",
        dict.fromkeys(DATA[:2], "object_suppression") | {DATA[2]: "outlier_suppression"},
    ),
    _named((0, 11), "outlier suppression in all tasks", dict.fromkeys(DATA, "outlier_suppression")),
    *(
        Claim(
            id=f"notice-blip-{name.replace(' ', '-')}",
            paper="NOTICE",
            source="abstract",
            says=f"among BLIP's universal cross-attention heads, some do {name}",
            test=f"functions of the universal heads over all tasks, {CLASSES}: holds when one has it, does not hold when none has it; "
            "undecided where it cannot be judged, or the floors are passed and the tests are not",
            kind=ENCODER,
            models=BLIP,
            judge=partial(occurs, function=function),
        )
        for function, name in WORDS.items()
    ),
    Claim(
        id="notice-llava-outlier-suppression",
        paper="NOTICE",
        source="abstract; head functions of LLaVA",
        says="LLaVA's universal multimodal heads do outlier suppression",
        test=f"functions of the universal multimodal heads over all tasks, {CLASSES}: holds when all have it, does not hold when one "
        "has not",
        kind=DECODER,
        models=LLAVA,
        judge=partial(all_are, kinds=("multimodal",), function="outlier_suppression"),
    ),
    Claim(
        id="notice-llava-no-grounding",
        paper="NOTICE",
        source="abstract",
        says="LLaVA's important self-attention heads do not ground the image",
        test=f"functions of the universal heads over all tasks, {CLASSES}: holds when none detects or suppresses objects, "
        "does not hold when one does",
        kind=DECODER,
        models=LLAVA,
        judge=none_grounds,
    ),
]
