"""The first screen of the report: of each model its accuracy, heads found and what heads look at; which analyses are missing or stale."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from analysis import products
from analysis.functions.registry import NONE, OVERALL, UNDECIDABLE, labels, words
from analysis.heads.rules import KINDS
from analysis.page.data import Gathering
from analysis.page.tables import number
from analysis.store.folder import head_name


def not_made(results: Path) -> list[products.Missing]:
    """The analyses that have no file in the folder, with the command that makes each."""
    return [_missing(results, one) for one in products.JUDGED if not (results / one.files[0]).is_file()]


def stale(results: Path) -> list[products.Missing]:
    """The analyses whose file is older than what it is made of, with the command that makes each again."""
    return [_missing(results, one) for one in products.JUDGED if products.is_stale(results / one.files[0], results)]


def not_measured(results: Path) -> dict[str, list[products.Missing]]:
    """What was not measured of each model and data set, by product, with the command that measures it."""
    found: dict[str, list[products.Missing]] = {}
    for product in (products.HEADS, products.MODULES, products.ATTENTION):
        for model, dataset in products.places(results):
            if not products.files(results, product, model=model, dataset=dataset):
                command = products.command(results, product, model, dataset)
                found.setdefault(product, []).append(products.Missing(f"{model}, {dataset}", command))
    return found


def _missing(results: Path, product: products.Product) -> products.Missing:
    return products.Missing(product.title, products.command(results, product.name))


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
    named = [name for name in labels(overall.values.ravel()) if name not in (NONE, UNDECIDABLE)]
    return [(words(name), int((overall == name).sum())) for name in named]


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
