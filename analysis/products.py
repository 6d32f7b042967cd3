"""What a results folder has no files to draw of, or stale ones, and the commands that make them."""

import json
import shlex
from pathlib import Path

import xarray as xr

from analysis.store.folder import DAMAGED, EffectsFile, attention_files, damaged, effects_files, stale

DEFAULTS = {"samples": 100, "seed": 0, "dtype": "float32"}  # of the interventions' options that files of one place have in common


def not_drawn(results: Path) -> list[tuple[str, str]]:
    """The figures for which there are no files, or stale ones, and for each the command that makes them.

    Raises
    ------
    ResultsError
        When there is no results folder.

    >>> not_drawn(Path("results"))[0]
    ('blip-small, shapes, ablation curves', 'python -m interventions.head_ablation --model blip-small --data shapes --out results')
    """
    results = Path(results)
    files = effects_files(results)
    places = sorted({(file.model, file.dataset) for file in files} | set(attention_files(results)))
    missing = []
    for model, dataset in places:
        here = [file for file in files if (file.model, file.dataset) == (model, dataset)]
        folder = results / model / dataset
        data = dataset if dataset == "shapes" else f"data/{dataset}"
        options = f"--model {shlex.quote(model)} --data {shlex.quote(data)} --out {shlex.quote(str(results))}{_configured(here)}"
        wanted = {
            "module maps": (any(not file.heads for file in here), "module_patching"),
            "head maps": (any(file.heads for file in here), "head_patching"),
            "attention overlays": ((folder / "attention.nc").is_file(), "attention_patterns"),
            "ablation curves": (any(folder.glob("*/*-ablation.nc")), "head_ablation"),
            "attribution beside exact effects": (any(folder.glob("*/*-attribution.nc")), "attribution_patching"),
            "knockout curves": (any(folder.glob("attention_knockout*.nc")), "attention_knockout"),
        }
        if not any(file.component == "cross_attention" for file in here):
            wanted["direct effects"] = ((folder / "direct_effect.nc").is_file(), "direct_effect")
        missing += [
            (f"{model}, {dataset}, {what}", f"python -m interventions.{script} {options}")
            for what, (there, script) in wanted.items()
            if not there
        ]
    analyses = {
        "heads by task, attention overlays": ("universal_heads.nc", "universal_heads"),
        "functions of heads": ("head_functions.nc", "head_functions"),
        "effects of heads with intervals, overlap of heads": ("robust_heads.nc", "robust_heads"),
        "stability curves": ("stability.nc", "stability"),
        "power curves": ("robust_power.csv", "robust_heads --power"),
        "module maps by corruption and order of the options": ("modules.nc", "modules"),
        "comparison of corruptions": ("compare_corruptions.nc", "compare_corruptions"),
    }
    for what, (file, script) in analyses.items():
        old = stale(results / file, results)
        if old or not (results / file).is_file():
            name, *more = script.split(" ", 1)
            what += f" ({file} is older than what it is made of)" if old else ""
            missing.append((what, " ".join([f"python -m analysis.{name} --results {shlex.quote(str(results))}", *more])))
    return missing


def _configured(files: list[EffectsFile]) -> str:
    """The options with which the files of a place were made, where they are not the defaults."""
    if not files:
        return ""
    try:
        with xr.open_dataset(files[0].path, engine="netcdf4") as effects:
            configuration = json.loads(effects.attrs.get("configuration", "{}"))
    except DAMAGED as error:
        raise damaged(files[0].path) from error
    options = {name: configuration.get(name, default) for name, default in DEFAULTS.items()}
    return "".join(f" --{name} {value}" for name, value in options.items() if value != DEFAULTS[name])
