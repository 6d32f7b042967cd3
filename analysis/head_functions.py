"""Head functions: attention to image patches -> what each head does in each task, with intervals and corrected tests.

Writes, into the results folder, `head_functions.nc` (one group a model, see `find`) and tables (`functions.tables`, `functions.agreement`):
`head_functions.csv` (scores, a row a head and task), `head_functions_by_task.csv` (functions, a row a head),
`head_functions_validation.csv` (object heads that permuted masks give) and `head_functions_agreement.csv` (effects of their heads).

NOTICE judges three functions by eye against the mean of all heads: object detection, object suppression and outlier suppression. Each is a
stated rule: its entry in `functions.registry`, judged as `functions.rule` says.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.functions.registry import Thresholds
from analysis.products import PRODUCTS, command
from analysis.store.errors import NothingToAnalyse
from analysis.store.folder import attention_files, effects_files, read_tree, write_tree
from analysis.store.written import Written, run_command
from interventions.results.metrics import help_text

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class HeadFunctions(Thresholds):
    """Compute what each head does from its attention to the image, against the mean of all heads.

    python analysis/head_functions.py --results results --gain 0.05
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""
    metric: Annotated[str, arg(help=f"Effect that functions are set beside. {help_text()}")] = "logit_difference"


def find(results: Path, options: Thresholds | None = None) -> "dict[str, xr.Dataset]":
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

    >>> heads = find(Path("results"))["blip-small"].sel(task="overall")
    >>> heads["function"].sel(layer=3, head=0).item()
    'object_detection'
    >>> [round(float(heads[name].sel(layer=3, head=0)), 2) for name in ("auroc", "auroc_low", "pointing", "pointing_elsewhere")]
    [1.0, 1.0, 1.0, 0.32]
    """
    from analysis.functions.models import of_model

    effects_files(results)  # raises where there is no folder
    options = options or Thresholds()
    files = attention_files(results)
    by_model: dict[str, dict[str, Path]] = {}
    for (model, dataset), path in files.items():
        by_model.setdefault(model, {})[dataset] = path
    return {model: of_model(model, paths, options) for model, paths in sorted(by_model.items())}


def write(results: Path, options: HeadFunctions | None = None) -> Written:
    """`find`, then write what the head of this module names into the results folder.

    Raises
    ------
    NothingToAnalyse
        Without attention files nothing is written, and stale files of an earlier run are removed.

    >>> written = write(Path("results"))
    >>> sorted(path.name for path in written.paths if path.suffix == ".csv")
    ['head_functions.csv', 'head_functions_agreement.csv', 'head_functions_by_task.csv', 'head_functions_validation.csv']
    """
    from analysis.functions import tables
    from analysis.functions.agreement import agreement
    from analysis.store.tables import write_table

    results, options = Path(results), options or HeadFunctions()
    heads = find(results, options)
    paths = tuple(results / name for name in PRODUCTS["head functions"].files)
    if not heads:
        for path in paths:
            path.unlink(missing_ok=True)
        attention = f"{results.absolute()}: collect attention maps first, with `{command(results, 'head functions')}`"
        raise NothingToAnalyse(f"no <model>/<dataset>/attention.nc below {attention}")
    universal, agreed = read_tree(results / "universal_heads.nc"), agreement(results, heads, options, options.metric)
    frames = {
        "": tables.table(heads, universal),
        "_by_task": tables.by_task(heads, universal),
        "_validation": tables.validation(heads),
        "_agreement": agreed,
    }
    write_tree(heads, results / "head_functions.nc")
    for end, frame in frames.items():
        write_table(frame, results / f"head_functions{end}.csv")
    return Written(heads, paths, tables.summary(heads, agreed))


def main() -> None:
    """Command line."""
    run_command("head_functions", HeadFunctions, write)


if __name__ == "__main__":
    main()
