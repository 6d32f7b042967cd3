"""Metrics of head ablation, from its file alone: accuracy, logit difference, and how much of the answer a set of heads carries.

In: the dataset that `interventions.head_ablation` writes. `dataset.effects.logit_difference_of()` gives the logit differences.
"""

import pandas as pd
import xarray as xr

from interventions.results import effects  # noqa: F401 (adds the accessor)

OPERATIONS = ("knock_out", "keep_only")
RANKED = "ranked"


def correct(dataset: xr.Dataset, among: str = "options") -> xr.DataArray:
    """Whether each run answers correctly, 1 or 0; NaN where nothing was run.

    Parameters
    ----------
    among : "options": the correct one has the larger logit of the two; "vocabulary": the largest of all
    """
    if among == "options":
        right = dataset.effects.logit_difference_of() > 0
    elif among == "vocabulary":
        right = dataset["top_token"] == dataset["correct_token"]
    else:
        raise ValueError(f"among {among!r} is not one of options, vocabulary")
    return right.where(dataset["logit_correct"].notnull())


def faithfulness(dataset: xr.Dataset) -> xr.DataArray:
    """(m(heads left) - m(none)) / (m(all) - m(none)), m being the mean logit difference over samples; 1 where those left do what all do.

    Of `keep_only` it is the set's faithfulness, of `knock_out` that of its complement, from which the set's completeness is read: Marks
    et al., "Sparse feature circuits", section 4. NaN where ablating all heads changes nothing, and where the file lacks sets of 0 heads,
    whose `keep_only` leaves none.
    """
    left = dataset.effects.logit_difference_of()
    whole = dataset.effects.logit_difference_of("clean").where(left.notnull()).mean("sample")
    left = left.mean("sample")
    none = left.sel(operation="keep_only", drop=True).reindex(heads=[0]).isel(heads=0, drop=True)
    gap = whole - none
    return ((left - none) / gap.where(gap != 0)).rename("faithfulness")


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row a replacement, operation and number of heads: metrics of the ranked set, and of the random sets.

    Columns: LD (mean logit difference), accuracy (of the two options), vocabulary (accuracy over all tokens), faithfulness; each is
    followed by its mean and its standard deviation over random sets (_random, _sd).
    """
    metrics = {
        "LD": dataset.effects.logit_difference_of().mean("sample"),
        "accuracy": correct(dataset).mean("sample"),
        "vocabulary": correct(dataset, "vocabulary").mean("sample"),
        "faithfulness": faithfulness(dataset),
    }
    columns = {}
    for name, values in metrics.items():
        draws = values.drop_sel(set=RANKED)
        columns[name] = values.sel(set=RANKED, drop=True)
        columns[f"{name}_random"] = draws.mean("set")
        columns[f"{name}_sd"] = draws.std("set", ddof=1) if draws.sizes["set"] > 1 else draws.mean("set").where(False)
    return xr.Dataset(columns).to_dataframe(dim_order=["replacement", "operation", "heads"])
