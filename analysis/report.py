"""The report: a results folder with what the other analyses made of it -> one self-contained `report.html`.

The text and its tables are made here, from `report_page/`; the plots, the heads' pages and the sample browser are drawn in the page by
plotly.js, from the data of `report_page.data`. Nothing is fetched: the page opens from a file.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jinja2
import xarray as xr
from plotly.offline import get_plotlyjs

from analysis.head_functions import FUNCTIONS, Thresholds
from analysis.heads.options import METRICS, NoticeRule
from analysis.page import robust as report_robust
from analysis.page import summary as report_summary
from analysis.page import tables
from analysis.page.csv import noise_claims, paper_claims, read_table
from analysis.page.data import Gathering, Limits
from analysis.store.command import reporting
from analysis.store.folder import ResultsError, unfinished_runs, write_whole

PAGE = Path(__file__).with_name("page")
SCRIPTS = ("basics.js", "theme.js", "tables.js", "plots.js", "maps.js", "curves.js", "heads.js", "samples.js", "routes.js")
FILE = "report.html"


def write_report(results: Path, limits: Limits | None = None) -> Path:
    """Write `report.html` into the results folder; returns its path. What has not been made yet is said to be missing.

    Files are read one at a time; memory is that of the largest one, and of the samples in the page.

    Raises
    ------
    ResultsError
        When there is no results folder, nothing in it, or a damaged file.

    >>> path = write_report(Path("results"))
    >>> path, path.stat().st_size > 1e6  # with plotly.js in it
    (PosixPath('results/report.html'), True)
    """
    results = Path(results)
    gathering = Gathering(results, limits or Limits())
    if not gathering.files and not gathering.attention:
        raise ResultsError(
            f"nothing to report below {results.absolute()}: it has no <model>/<dataset>/<corruption>/*.nc; run `python run_all.py` first"
        )
    data = gathering.run()
    page = _render(_content(gathering) | {"data": _json(data), "units": data["metric"]["units"]})
    write_whole(results / FILE, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return results / FILE


def _content(gathering: Gathering) -> dict[str, Any]:
    results, manifest = gathering.results, gathering.manifest
    universal, functions = gathering.universal, gathering.functions
    places = sorted({(file.model, file.dataset) for file in gathering.files} | set(gathering.attention))
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
        "made_before": report_summary.made_before(results),
        "capped": gathering.capped,
        "answers": tables.answers(manifest),
        "left_out": tables.left_out(manifest),
        "universal": [_universal(model, universal[model], functions.get(model)) for model in universal],
        "robust": report_robust.content(results, gathering.robust),
        "functions": [_functions(model, functions[model], universal.get(model)) for model in functions],
        "function_names": [name.replace("_", " ") for name in FUNCTIONS],
        "tables": {name: read_table(results / f"{name}.csv", without=("row", "claim")) for name in report_summary.TABLES},
        "claims": paper_claims(results / "paper_claims.csv"),
        "noise_claims": noise_claims(results / "compare_corruptions.csv"),
        "has_heads": any(file.heads for file in gathering.files),
        "has_modules": any(not file.heads for file in gathering.files),
        "rule": next(iter(universal.values())).attrs if universal else vars(NoticeRule()),
        "thresholds": next(iter(functions.values())).attrs if functions else vars(Thresholds()),
    }


def _universal(model: str, universal: xr.Dataset, functions: xr.Dataset | None) -> dict[str, Any]:
    same = functions is not None and functions.attrs.get("component", universal.attrs["component"]) == universal.attrs["component"]
    rows = tables.universal_rows(universal, functions if same else None)
    return {
        "model": model,
        "component": universal.attrs["component"],
        "token": universal.attrs["token"],
        "metric": universal.attrs["metric"].replace("_", " "),
        "units": METRICS.get(universal.attrs["metric"], ""),
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


def _render(content: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals["head_link"] = _head_link
    scripts = "\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = (PAGE / "style.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(**content, style=style, scripts=scripts, plotly=get_plotlyjs())


@dataclass(frozen=True)
class Report(Limits):
    """Write one self-contained report.html about a results folder.

    python analysis/report.py --results results
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py, with what the other analyses made."""


def main() -> None:
    """Command line."""
    import tyro

    with reporting("report"):
        options = tyro.cli(Report)
        path = write_report(options.results, options)
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
