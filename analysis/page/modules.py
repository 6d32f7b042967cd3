"""Module maps of the page: effects of whole modules -> mean by layer and token role, of all samples and by the order of the options."""

from typing import Any

import numpy as np
import xarray as xr

from analysis.page.encoding import rounded
from analysis.plots.module_maps import mean_by_role
from analysis.store.folder import EffectsFile


def content(file: EffectsFile, effects: xr.Dataset, metric: str) -> dict[str, Any]:
    """One file's maps [layer, role], as lists row by row.

    `maps` has "all", and where the samples have both orders of the options "correct first" and "correct second".
    """
    whole = mean_by_role(effects, metric)
    roles = [str(role) for role in whole["role"].values]
    first = effects["correct_first"].values.astype(bool)
    maps, counts = {"all": rounded(whole.values)}, {"all": effects.sizes["sample"]}
    if first.any() and not first.all():
        for name, chosen in {"correct first": first, "correct second": ~first}.items():
            split = mean_by_role(effects.isel(sample=np.flatnonzero(chosen)), metric).reindex(role=roles)
            maps[name], counts[name] = rounded(split.values), int(chosen.sum())
    return {
        "model": file.model,
        "dataset": file.dataset,
        "corruption": file.corruption,
        "modality": str(effects.attrs["modality"]),
        "component": file.component,
        "layers": whole["layer"].values.tolist(),
        "roles": roles,
        "maps": maps,
        "samples": counts,
    }
