"""How well estimates of patching effects agree with the exact effects, from the file of attribution patching alone."""

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import spearmanr

from interventions.results import effects  # noqa: F401 (adds the accessor)

ESTIMATES = ("attribution", "integrated_attribution")
CELLS = ("layer", "head", "token")
NOT_COMPARED = (
    "how well estimates and exact effects agree is not known: no sample has all its cells patched exactly, as the first ones have with "
    "--exact-samples 3, and every one with --exact all"
)


def compare_estimates(dataset: xr.Dataset, top: int) -> pd.DataFrame:
    """One row an estimate, over the samples of which every cell (layer, head, token) was patched exactly; empty where none was.

    Cells that were patched because their estimate is large say nothing of how well estimates find large effects: they are left aside.
    "each sample" compares within every sample, and gives the mean over samples; "mean", where tokens are roles, which line samples up,
    compares the means over samples, by which heads are found.

    Columns
    -------
    samples : how many were patched so
    cells : how many are compared (in the mean a sample)
    rank_correlation : Spearman's, of the signed effects
    recall : the share of the `top` largest |exact effects| that are among the `top` largest |estimates|
    same_sign : the share of cells where estimate and exact effect have one sign (cells of effect 0 not counted)
    """
    patched = dataset["logit_correct"].notnull() == dataset[ESTIMATES[0]].notnull()
    dataset = dataset.isel(sample=np.flatnonzero(patched.all([dim for dim in patched.dims if dim != "sample"])))
    if not dataset.sizes["sample"]:
        return pd.DataFrame()
    exact = dataset.effects.logit_difference()
    rows = []
    for name in (name for name in ESTIMATES if name in dataset):
        estimate = dataset[name].mean("draw") if "draw" in dataset[name].dims else dataset[name]
        each = [_compare(_flat(estimate[i]), _flat(exact[i]), top) for i in range(dataset.sizes["sample"])]
        rows.append({"estimate": name, "over": "each sample", "samples": len(each)} | pd.DataFrame(each).mean().to_dict())
        if not np.issubdtype(dataset["token"].dtype, np.integer):
            means = _compare(_flat(estimate.mean("sample")), _flat(exact.mean("sample")), top)
            rows.append({"estimate": name, "over": "mean", "samples": len(each)} | means)
    return pd.DataFrame(rows).set_index(["estimate", "over"])


def _flat(values: xr.DataArray) -> np.ndarray:
    return values.transpose(*CELLS).values.ravel()


def _compare(estimate: np.ndarray, exact: np.ndarray, top: int) -> dict[str, float]:
    known = np.isfinite(estimate) & np.isfinite(exact)
    estimate, exact = estimate[known], exact[known]
    moved = exact != 0
    varied = len(exact) > 1 and np.ptp(estimate) > 0 and np.ptp(exact) > 0
    return {
        "cells": len(exact),
        "rank_correlation": float(spearmanr(estimate, exact).statistic) if varied else np.nan,
        "recall": len(_largest(estimate, top) & _largest(exact, top)) / min(top, len(exact)),
        "same_sign": float((np.sign(estimate) == np.sign(exact))[moved].mean()) if moved.any() else np.nan,
    }


def _largest(values: np.ndarray, count: int) -> set[int]:
    return set(np.argsort(-abs(values), kind="stable")[:count].tolist())
