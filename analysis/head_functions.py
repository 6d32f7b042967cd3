"""Head functions: attention to image patches -> what each head does in each task, with intervals and corrected tests.

Writes, into the results folder, `head_functions.nc` (one group a model, see `find`) and tables (`functions.tables`, `functions.agreement`):
`head_functions.csv` (scores, a row a head and task), `head_functions_by_task.csv` (functions, a row a head),
`head_functions_validation.csv` (object heads that permuted masks give) and `head_functions_agreement.csv` (effects of their heads).

NOTICE judges three functions by eye against the mean of all heads: object detection, object suppression and outlier suppression. Here
each is a stated rule: see `functions.rule`.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import xarray as xr

from analysis.functions import tables
from analysis.functions.agreement import agreement
from analysis.functions.rule import FUNCTIONS, OBJECT_RULES, OVERALL, Thresholds, functions, judge
from analysis.functions.samples import exchanged, score_samples
from analysis.functions.tables import table
from analysis.store.command import reporting
from analysis.store.folder import DAMAGED, ResultsError, attention_files, damaged, effects_files, read_tree, write_tree, write_whole

__all__ = ["FUNCTIONS", "OVERALL", "Thresholds", "find", "find_and_write", "functions", "judge", "score_samples", "table"]
FILE = "head_functions"
TABLES = ("", "_by_task", "_validation", "_agreement")


def find(results: Path, thresholds: Thresholds | None = None) -> dict[str, xr.Dataset]:
    """The functions of every head of every model that has attention files.

    Returns
    -------
    One dataset a model: what `functions.rule.judge` returns, where `task` is "overall", then "<dataset>/<category>"; where there are masks,
    also permuted_object_heads (permutation, task, object_rule): how many heads have each object function when masks are exchanged.
    Empty when there are no attention files.

    Raises
    ------
    ResultsError
        When there is no results folder, or an attention file is damaged or lacks a variable.

    >>> found = find(Path("results"))["blip-small"].sel(task="overall")
    >>> found["function"].sel(layer=3, head=0).item()
    'object_detection'
    >>> [round(float(found[name].sel(layer=3, head=0)), 2) for name in ("auroc", "auroc_low", "pointing", "pointing_elsewhere")]
    [1.0, 1.0, 1.0, 0.32]
    """
    effects_files(results)
    thresholds = thresholds or Thresholds()
    files = attention_files(results)
    return {
        model: _of_model(model, {key[1]: path for key, path in files.items() if key[0] == model}, thresholds)
        for model in sorted({m for m, _ in files})
    }


def _of_model(model: str, files: dict[str, Path], thresholds: Thresholds) -> xr.Dataset:
    scored, attrs = {}, {}
    for dataset, path in files.items():
        scores, attrs[dataset] = _score_file(path, thresholds)
        stratum = np.array([f"{dataset}/{category}" for category in scores["category"].values], dtype=object)
        scored[dataset] = scores.assign_coords(stratum=("sample", stratum))
    _check_shapes(model, scored.values())
    together = xr.concat(scored.values(), "sample") if len(scored) > 1 else next(iter(scored.values()))
    found = judge(_tasks(together), thresholds)
    if thresholds.permutations and int(found["samples_with_object"].max()):
        without = replace(thresholds, resamples=0)
        by_chance = [judge(_tasks(exchanged(together, k)), without) for k in range(thresholds.permutations)]
        named = [(one["verdict"].sel(rule=list(OBJECT_RULES)) == "yes").sum(("layer", "head")) for one in by_chance]
        found["permuted_object_heads"] = xr.concat(named, "permutation").rename(rule="object_rule").transpose("permutation", "task", ...)
    limits = {field.name: getattr(thresholds, field.name) for field in fields(Thresholds)}
    found.attrs |= {"model": model} | next(iter(attrs.values())) | limits
    return found


def _tasks(scores: xr.Dataset) -> dict[str, xr.Dataset]:
    """The samples of all tasks, then those of each."""
    stratum = scores["stratum"].values
    return {OVERALL: scores} | {task: scores.isel(sample=np.flatnonzero(stratum == task)) for task in sorted(set(stratum))}


def _score_file(path: Path, t: Thresholds) -> tuple[xr.Dataset, dict[str, str]]:
    try:
        with xr.open_dataset(path, engine="netcdf4") as attention:
            missing = [name for name in ("attention", "object_share", "category") if name not in attention.variables]
            problem = f"lacks {', '.join(missing)}: it is not an attention file" if missing else ""
            if not problem and not attention.sizes["sample"]:
                problem = "has no samples"
            if not problem:
                scored = score_samples(attention, t.outlier_deviations, t.most, t.permutations, t.seed)
                return scored, {name: str(attention.attrs[name]) for name in ("component", "query") if name in attention.attrs}
    except DAMAGED as error:
        raise damaged(path) from error
    raise ResultsError(f"{path} {problem}; delete it and make it again")


def _check_shapes(model: str, scored: Iterable[xr.Dataset]) -> None:
    shapes = {(data.sizes["layer"], data.sizes["head"]) for data in scored}
    if len(shapes) > 1:
        raise ResultsError(
            f"the attention files of {model} have different numbers of (layers, heads): {sorted(shapes)}; delete the stale ones"
        )


def find_and_write(results: Path, thresholds: Thresholds | None = None, *, metric: str = "logit_difference") -> dict[str, xr.Dataset]:
    """`find`, then write what the head of this module names into the results folder.

    Without attention files nothing is written, and stale files of an earlier run are removed.

    Parameters
    ----------
    metric : the effect that functions are set beside.

    >>> found = find_and_write(Path("results"))
    >>> sorted(path.name for path in Path("results").glob("head_functions*.csv"))
    ['head_functions.csv', 'head_functions_agreement.csv', 'head_functions_by_task.csv', 'head_functions_validation.csv']
    """
    return _find_and_write(Path(results), thresholds, metric)[0]


def _find_and_write(results: Path, thresholds: Thresholds | None, metric: str) -> tuple[dict[str, xr.Dataset], str]:
    found = find(results, thresholds)
    if not found:
        for name in (f"{FILE}.nc", *(f"{FILE}{end}.csv" for end in TABLES)):
            (results / name).unlink(missing_ok=True)
        return found, ""
    universal, agreed = read_tree(results / "universal_heads.nc"), agreement(results, found, thresholds, metric)
    write_tree(found, results / f"{FILE}.nc")
    frames = (table(found, universal), tables.by_task(found, universal), tables.validation(found), agreed)
    for end, frame in zip(TABLES, frames, strict=True):
        write_whole(results / f"{FILE}{end}.csv", partial(frame.to_csv, index=False, float_format="%.6g"))
    return found, tables.summary(found, agreed)


@dataclass(frozen=True)
class HeadFunctions(Thresholds):
    """Compute what each head does from its attention to the image, against the mean of all heads.

    python analysis/head_functions.py --results results --gain 0.05
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""
    metric: str = "logit_difference"
    """Effect that functions are set beside: logit_difference, restoration_probability, log_odds or normalized_effect."""


def main() -> None:
    """Command line."""
    import tyro

    with reporting("head_functions"):
        options = tyro.cli(HeadFunctions)
        found, words = _find_and_write(options.results, options, options.metric)
        if not found:
            raise ResultsError(f"no <model>/<dataset>/attention.nc below {options.results.absolute()}: collect attention maps first")
        print(words)
        print(f"wrote {options.results / FILE}.nc and .csv, and as .csv {', '.join(FILE + end for end in TABLES[1:])}")


if __name__ == "__main__":
    main()
