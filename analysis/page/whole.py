"""The page: a results folder -> what it shows, and its HTML in one piece.

Text and tables are rendered here, from the templates in `assets/`; the plots, the heads' pages and the sample browser are drawn in the page
by plotly.js, from the data of `page.data`. Nothing is fetched: the page opens from a file.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import xarray as xr
from plotly.offline import get_plotlyjs

from analysis import products
from analysis.functions.registry import FUNCTIONS, Thresholds, labels, words
from analysis.heads.options import NoticeRule
from analysis.page import robust as report_robust
from analysis.page import summary as report_summary
from analysis.page import tables
from analysis.page.csv import noise_claims, paper_claims, shown
from analysis.page.data import Gathering
from analysis.page.limits import Limits
from analysis.store.folder import ResultsError, unfinished_runs
from corruptions.base import CORRUPTIONS
from interventions.results.metrics import METRICS, unit_of

ASSETS = Path(__file__).with_name("assets")
SCRIPTS = ("basics.js", "theme.js", "tables.js", "plots.js", "maps.js", "curves.js", "heads.js", "samples.js", "routes.js")
TABLES = (
    *("robust_universal", "stability", "robust_power", "compare_corruptions", "compare_corruptions_ranks", "modules", "modules_text_image"),
    *("head_functions_by_task", "head_functions_agreement", "head_functions_validation"),
)


def content(results: Path, limits: Limits) -> dict[str, Any]:
    """What the page shows: `data` for its scripts, and the rest for its text.

    Files are read one at a time; memory is that of the largest one, and of the samples in the page.

    Raises
    ------
    ResultsError
        When there is no results folder, nothing in it, or a damaged file.
    """
    results = Path(results)
    gathering = Gathering(results, limits)
    if not gathering.files and not gathering.attention:
        run = products.whole_study(results)
        raise ResultsError(
            f"nothing to report below {results.absolute()}: it has no <model>/<dataset>/<corruption>/*.nc; run `{run}` first"
        )
    data = gathering.run()
    return _content(gathering) | {"data": data, "units": data["metric"]["units"]}


def html(results: Path, content: dict[str, Any]) -> str:
    """The page that shows `content`."""
    return _render(results, content | {"data": _json(content["data"])})


def _content(gathering: Gathering) -> dict[str, Any]:
    results, manifest = gathering.results, gathering.manifest
    universal, functions = gathering.universal, gathering.functions
    places = sorted({(file.model, file.dataset) for file in gathering.files} | set(gathering.attention))
    thresholds = next(iter(functions.values())).attrs if functions else vars(Thresholds())
    return {
        "models": sorted({model for model, _ in places}),
        "datasets": sorted({dataset for _, dataset in places}),
        "noising": any(file.corruption.endswith("-noising") for file in gathering.files),
        "program": manifest.get("program", ""),
        "summary": report_summary.content(gathering),
        "runs": tables.runs(gathering.counts, manifest),
        "not_run": tables.not_run(gathering.files, universal, gathering.attention, manifest)
        + [f"{name}: started, not finished." for name in unfinished_runs(results)],
        "not_made": report_summary.not_made(results),
        "stale": report_summary.stale(results),
        "not_measured": report_summary.not_measured(results),
        "capped": gathering.capped,
        "metrics": list(METRICS.values()),
        "judged_by": _metric(gathering.judged_by),
        "corruptions": _corruptions(gathering),
        "answers": tables.answers(manifest),
        "left_out": tables.left_out(manifest),
        "universal": [_universal(model, universal[model], functions.get(model)) for model in universal],
        "robust": report_robust.content(results, gathering.robust),
        "functions": [_functions(model, functions[model], universal.get(model)) for model in functions],
        "function_list": [(words(name), entry.sentence, entry.rule(thresholds)) for name, entry in FUNCTIONS.items()],
        "tables": {name: shown(results / f"{name}.csv", without=("row", "claim")) for name in TABLES},
        "claims": paper_claims(results / "paper_claims.csv"),
        "noise_claims": noise_claims(results / "compare_corruptions.csv"),
        "has_heads": any(file.heads for file in gathering.files),
        "has_modules": any(not file.heads for file in gathering.files),
        "rule": next(iter(universal.values())).attrs if universal else vars(NoticeRule()),
        "thresholds": thresholds,
    }


def _metric(name: str) -> tuple[str, str]:
    """The metric that heads are judged by, and what it is."""
    return words(name), METRICS[name].sentence if name in METRICS else "a metric that is not known"


def _corruptions(gathering: Gathering) -> list[tuple[str, str]]:
    """The corruptions that were run, and what each does."""
    kinds = (products.HEADS, products.MODULES)
    paths = [(kind, path) for kind in kinds for path in products.files(gathering.results, kind)]
    run = sorted({(products.names_in(kind, path, gathering.results) or {})["corruption"] for kind, path in paths})
    return [(name, CORRUPTIONS[name].sentence if name in CORRUPTIONS else "is of a kind that is not known") for name in run]


def _universal(model: str, universal: xr.Dataset, functions: xr.Dataset | None) -> dict[str, Any]:
    same = functions is not None and functions.attrs.get("component", universal.attrs["component"]) == universal.attrs["component"]
    rows = tables.universal_rows(universal, functions if same else None)
    return {
        "model": model,
        "component": universal.attrs["component"],
        "token": universal.attrs["token"],
        "metric": universal.attrs["metric"].replace("_", " "),
        "units": unit_of(universal.attrs["metric"]),
        "corruptions": [f"{c} ({m})" for c, m in zip(universal["corruption"].values, universal["modality"].values, strict=True)],
        "heads": universal.sizes["layer"] * universal.sizes["head"],
        "rows": [row for row in rows if row["kind"] != "none"],
        "others": [row for row in rows if row["kind"] == "none"],
        "thresholds": tables.thresholds(universal),
    }


def _functions(model: str, functions: xr.Dataset, universal: xr.Dataset | None) -> dict[str, Any]:
    same = universal is not None and universal.attrs["component"] == functions.attrs.get("component", universal.attrs["component"])
    return {
        "model": model,
        "component": str(functions.attrs.get("component", "")),
        "query": functions.attrs.get("query", tables.MISSING),
        "names": [words(name) for name in labels(functions["function"].values.ravel())],
        "counts": tables.function_counts(functions),
        "rows": tables.function_rows(functions, universal if same else None),
        "tasks": tables.short_tasks([str(task) for task in functions["task"].values[1:]]),
    }


def _json(data: dict[str, Any]) -> str:
    """As it may stand in a script element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _head_link(model: str, component: str, name: str) -> str:
    """The address of a head's page within the report."""
    return "#" + "/".join(quote(part, safe="") for part in (model, component, name))


def _render(results: Path, content: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals |= {"head_link": _head_link, "products": products.PRODUCTS}
    environment.globals["command"] = partial(products.command, results)
    scripts = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = (ASSETS / "style.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(**content, style=style, scripts=scripts, plotly=get_plotlyjs())
