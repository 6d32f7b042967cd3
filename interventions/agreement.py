"""How well estimates of patching effects agree with the exact effects, from the file of attribution patching alone."""

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import spearmanr

from interventions import effects  # noqa: F401 (adds the accessor)

ESTIMATES = ("attribution", "integrated_attribution")
CELLS = ("layer", "head", "token")


def agreement(dataset: xr.Dataset, top: int) -> pd.DataFrame:
    """One row an estimate, over the cells (layer, head, token) whose exact effect is there.

    "each sample" compares within every sample, and gives the mean over samples; "mean", where all cells are exact and tokens are roles,
    which line samples up, compares the means over samples, by which heads are found.

    Columns
    -------
    cells : how many are compared (in the mean a sample)
    rank_correlation : Spearman's, of the signed effects
    recall : the share of the `top` largest |exact effects| that are among the `top` largest |estimates|; NaN where only some are exact
    same_sign : the share of cells where estimate and exact effect have one sign (cells of effect 0 not counted)
    """
    exact, done = dataset.effects.logit_difference(), dataset["logit_correct"].notnull()
    complete = bool((done == dataset[ESTIMATES[0]].notnull()).all())
    rows = []
    for name in (name for name in ESTIMATES if name in dataset):
        estimate = dataset[name].where(done)
        estimate = estimate.mean("draw") if "draw" in estimate.dims else estimate
        each = [_compare(_flat(estimate[i]), _flat(exact[i]), top, complete) for i in range(dataset.sizes["sample"])]
        rows.append({"estimate": name, "over": "each sample"} | pd.DataFrame(each).mean().to_dict())
        if complete and not np.issubdtype(dataset["token"].dtype, np.integer):
            means = _compare(_flat(estimate.mean("sample")), _flat(exact.mean("sample")), top, complete)
            rows.append({"estimate": name, "over": "mean"} | means)
    return pd.DataFrame(rows).set_index(["estimate", "over"])


def _flat(values: xr.DataArray) -> np.ndarray:
    return values.transpose(*CELLS).values.ravel()


def _compare(estimate: np.ndarray, exact: np.ndarray, top: int, complete: bool) -> dict[str, float]:
    known = np.isfinite(estimate) & np.isfinite(exact)
    estimate, exact = estimate[known], exact[known]
    moved = exact != 0
    varied = len(exact) > 1 and np.ptp(estimate) > 0 and np.ptp(exact) > 0
    return {
        "cells": len(exact),
        "rank_correlation": float(spearmanr(estimate, exact).statistic) if varied else np.nan,
        "recall": len(_largest(estimate, top) & _largest(exact, top)) / min(top, len(exact)) if complete else np.nan,
        "same_sign": float((np.sign(estimate) == np.sign(exact))[moved].mean()) if moved.any() else np.nan,
    }


def _largest(values: np.ndarray, count: int) -> set[int]:
    return set(np.argsort(-abs(values), kind="stable")[:count].tolist())
