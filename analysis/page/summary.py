"""The first screen of the report: of each model its accuracy, heads found and what heads look at; which analyses are missing or stale."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from analysis.head_functions import FUNCTIONS, OVERALL
from analysis.heads.rules import KINDS
from analysis.page.data import Gathering
from analysis.page.tables import number
from analysis.store.folder import head_name, stale

MADE_BY = {
    "universal_heads.nc": ("Universal heads", "python -m analysis.universal_heads"),
    "robust_heads.nc": ("Heads that hold up", "python -m analysis.robust_heads"),
    "head_functions.nc": ("Head functions", "python -m analysis.head_functions"),
    "stability.csv": ("Stability as samples grow", "python -m analysis.stability"),
    "robust_power.csv": ("Power of the rules", "python -m analysis.robust_heads --power"),
    "compare_corruptions.csv": ("Corruptions side by side", "python -m analysis.compare_corruptions"),
    "modules.csv": ("Modules by depth and role", "python -m analysis.modules"),
    "paper_claims.csv": ("The paper’s claims", "python -m analysis.paper_claims"),
}
TABLES = (
    *("robust_universal", "stability", "robust_power", "compare_corruptions", "compare_corruptions_ranks", "modules", "modules_text_image"),
    *("head_functions_by_task", "head_functions_agreement", "head_functions_validation"),
)


def not_made(results: Path) -> list[dict[str, str]]:
    """The analyses that have no file in the folder, with the command that makes each."""
    return _made_by(results, lambda path: not path.is_file())


def made_before(results: Path) -> list[dict[str, str]]:
    """The analyses whose file is older than what it is made of (`results.stale`), with the command that makes each again."""
    return _made_by(results, lambda path: stale(path, results))


def _made_by(results: Path, which: Callable[[Path], bool]) -> list[dict[str, str]]:
    return [
        {"what": what, "file": name, "command": f"{command} --results {Path(results).name or results}"}
        for name, (what, command) in MADE_BY.items()
        if which(Path(results) / name)
    ]


def content(gathering: Gathering) -> list[dict[str, Any]]:
    """Of each model: its heads by kind by either rule (None where not looked for), accuracy in percent, and heads of each function."""
    models = sorted({file.model for file in gathering.files} | {model for model, _ in gathering.attention})
    return [
        {
            "model": model,
            "accuracy": _accuracy(model, gathering.manifest),
            "universal": _kinds(gathering.universal.get(model)),
            "robust": _kinds(gathering.robust.get(model)),
            "functions": _functions(gathering.functions.get(model)),
        }
        for model in models
    ]


def _kinds(dataset: xr.Dataset | None) -> dict[str, Any] | None:
    if dataset is None:
        return None
    layers, heads = dataset["layer"].values, dataset["head"].values
    kind = dataset["kind"].values
    named = {of.name: [head_name(int(layers[at]), int(heads[to])) for at, to in np.argwhere(kind == of.name)] for of in KINDS}
    found = {"component": str(dataset.attrs["component"]), "named": named, "count": int((kind != "none").sum()), "heads": int(kind.size)}
    return found | {"nearest": [] if found["count"] else _nearest(dataset)}


def _nearest(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Under each corruption the heads that are important in the most tasks, where that is any task, at most three of them."""
    layers, heads = dataset["layer"].values, dataset["head"].values
    rows = []
    for corruption in dataset["corruption"].values:
        under = dataset.sel(corruption=corruption)
        tasks = under["important"].sum("task").transpose("layer", "head").values
        at = np.argwhere(tasks == tasks.max()).tolist() if tasks.max() else []
        names = [head_name(int(layers[layer]), int(heads[head])) for layer, head in at]
        if names:
            of = f"{tasks.max()} of {int((under['samples'] > 0).sum())} tasks"
            rows.append({"corruption": str(corruption), "names": names[:3], "more": len(names) > 3, "of": of})
    return rows


def _functions(dataset: xr.Dataset | None) -> list[tuple[str, int]] | None:
    if dataset is None or OVERALL not in dataset["task"].values:
        return None
    overall = dataset["function"].sel(task=OVERALL)
    return [(name.replace("_", " "), int((overall == name).sum())) for name in FUNCTIONS[:3]]


def _accuracy(model: str, manifest: dict[str, Any]) -> str | None:
    """Percent of the questions of all data sets together that the model answers correctly."""
    answers = manifest.get("answers")
    counts = [
        of
        for place, of_place in (answers if isinstance(answers, dict) else {}).items()
        if place.split("/")[0] == model
        for of in of_place.values()
    ]
    asked, correct = (sum(of.get(name) or 0 for of in counts) for name in ("asked", "correct"))
    return number(100 * correct / asked, ".1f") if asked else None
