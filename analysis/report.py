"""The report: a results folder with its universal heads, head functions and figures -> one self-contained `report.html`."""

import base64
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jinja2
import xarray as xr

from analysis import report_tables as tables
from analysis.drawing import MODALITY
from analysis.figures import FOLDER
from analysis.head_functions import FUNCTIONS, Thresholds
from analysis.results import (
    DAMAGED,
    EffectsFile,
    ResultsError,
    attention_files,
    damaged,
    effects_files,
    read_manifest,
    read_tree,
    unfinished_runs,
    write_whole,
)
from analysis.universal_heads import METRICS, Rule

TEMPLATE = Path(__file__).with_name("report.html.j2")
FILE = "report.html"
SCALE = 0.72  # of a figure's pixels, so that its text is about as large as the page's


def write_report(results: Path) -> Path:
    """Write `report.html` into the results folder; returns its path. What has not been made yet is said to be missing.

    Raises
    ------
    ResultsError
        When there is no results folder, nothing in it, or a damaged file.
    """
    results = Path(results)
    files, attention = effects_files(results), attention_files(results)
    if not files and not attention:
        raise ResultsError(
            f"nothing to report below {results.absolute()}: it has no <model>/<dataset>/<corruption>/*.nc; run `python run_all.py` first"
        )
    page = _render(_content(results, files, attention))
    write_whole(results / FILE, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return results / FILE


def _content(results: Path, files: list[EffectsFile], attention: dict[tuple[str, str], Path]) -> dict[str, Any]:
    universal, functions = read_tree(results / "universal_heads.nc"), read_tree(results / "head_functions.nc")
    manifest = read_manifest(results)
    places = sorted({(file.model, file.dataset) for file in files} | set(attention))
    paths = [file.path for file in files] + list(attention.values())
    modules, heads = ([(f.model, f.dataset, f.corruption) for f in files if f.heads == of_heads] for of_heads in (False, True))
    return {
        "models": sorted({model for model, _ in places}),
        "datasets": sorted({dataset for _, dataset in places}),
        "program": manifest.get("program", ""),
        "runs": tables.runs({"/".join(path.relative_to(results).parts): _samples(path) for path in paths}, manifest),
        "not_run": tables.not_run(files, universal, attention, manifest)
        + [f"{name}: started, not finished." for name in unfinished_runs(results)],
        "answers": tables.answers(manifest),
        "left_out": tables.left_out(manifest),
        "universal": [_universal(model, universal[model], functions.get(model)) for model in universal],
        "functions": [_functions(model, functions[model], universal.get(model)) for model in functions],
        "function_names": [name.replace("_", " ") for name in FUNCTIONS],
        "module_maps": _pictures(results, modules, "{corruption}-modules.png", "module map"),
        "head_maps": _pictures(results, heads, "{corruption}-*-heads.png", "head map"),
        "overlays": _pictures(results, attention, "attention-overlays.png", "attention overlay"),
        "rule": next(iter(universal.values())).attrs if universal else vars(Rule()),
        "thresholds": next(iter(functions.values())).attrs if functions else vars(Thresholds()),
    }


def _samples(path: Path) -> int:
    try:
        with xr.open_dataset(path, engine="netcdf4") as dataset:
            return dataset.sizes.get("sample", 0)
    except DAMAGED as error:
        raise damaged(path) from error


def _universal(model: str, universal: xr.Dataset, functions: xr.Dataset | None) -> dict[str, Any]:
    same = functions is not None and functions.attrs.get("component", universal.attrs["component"]) == universal.attrs["component"]
    rows = tables.universal_rows(universal, functions if same else None)
    return {
        "model": model,
        "component": universal.attrs["component"].replace("_", "-"),
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
        "component": str(functions.attrs.get("component", "")).replace("_", "-"),
        "query": functions.attrs.get("query", tables.MISSING),
        "counts": tables.function_counts(functions),
        "rows": tables.function_rows(functions, universal if same else None),
        "tasks": [str(task) for task in functions["task"].values[1:]],
    }


def _pictures(results: Path, places: Iterable[tuple[str, ...]], pattern: str, what: str) -> list[dict[str, str]]:
    """The figures of each (model, data set[, corruption]), the image corruption before the text one.

    Figures of runs that are gone stay out.
    """
    found = []
    for model, dataset, *of in sorted(set(places), key=lambda place: (*place[:2], *((MODALITY.get(c, ""), c) for c in place[2:]))):
        corruption = of[0] if of else ""
        for path in sorted((results / FOLDER / model / dataset).glob(pattern.format(corruption=corruption))):
            picture = path.read_bytes()
            title = f"{model}, {dataset}" + (f", {corruption} corruption" if corruption else "")
            width = round(int.from_bytes(picture[16:20], "big") * SCALE)  # where a PNG's header holds its width
            source = "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
            found.append({"source": source, "width": str(width), "alt": f"{what}: {title}", "title": title})
    return found


def _render(content: dict[str, Any]) -> str:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**content)


@dataclass(frozen=True)
class Report:
    """Write one self-contained report.html about a results folder.

    python analysis/report.py --results results
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py, with what the other analyses made."""


def main() -> None:
    """Command line."""
    import tyro

    try:
        path = write_report(tyro.cli(Report).results)
    except (ResultsError, OSError) as error:
        raise SystemExit(f"report: {error}") from None
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
