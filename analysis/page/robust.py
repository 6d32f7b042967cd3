"""What the report says about heads that hold up, as text: `robust_heads.nc` and `robust_overlap.csv` -> a dictionary for each model."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analysis.heads.robust_tables import OVERLAP
from analysis.heads.rules import RULES, kind_rank, rule_title
from analysis.page.tables import MISSING, number
from analysis.store.folder import head_name, read_tree
from analysis.store.tables import read_table


def content(results: Path, robust: dict[str, xr.Dataset] | None = None) -> list[dict[str, Any]]:
    """Of each model: the heads that are universal by either rule, and how many heads tasks share beside chance; empty when not computed.

    Parameters
    ----------
    robust : what `robust_heads.nc` holds, where it has been read.
    """
    path = Path(results) / "robust_overlap.csv"
    overlap = read_table(path, OVERLAP) if path.is_file() else None
    robust = read_tree(Path(results) / "robust_heads.nc") if robust is None else robust
    return [_of_model(model, dataset, overlap) for model, dataset in robust.items()]


def _of_model(model: str, dataset: xr.Dataset, overlap: pd.DataFrame | None) -> dict[str, Any]:
    return {
        "model": model,
        "component": str(dataset.attrs["component"]),
        "options": dataset.attrs,
        "units": dataset["mean_effect"].attrs["units"],
        "corruptions": [f"{c} ({m})" for c, m in zip(dataset["corruption"].values, dataset["modality"].values, strict=True)],
        "rows": _heads(dataset),
        "overlap": [] if overlap is None else _overlap(overlap[overlap["model"] == model]),
    }


def _heads(dataset: xr.Dataset) -> list[dict[str, Any]]:
    rows = []
    for layer, head in np.argwhere(((dataset["kind"] != "none") | (dataset["notice_kind"] != "none")).values):
        one = dataset.isel(layer=layer, head=head)
        kind, notice = str(one["kind"].item()), str(one["notice_kind"].item())
        under = [_under(one.sel(corruption=corruption)) for corruption in dataset["corruption"].values]
        rows.append({"name": head_name(int(one["layer"]), int(one["head"])), "kind": kind, "notice_kind": notice, "under": under})
    return sorted(rows, key=lambda row: kind_rank(row["kind"]))


def _under(one: xr.Dataset) -> dict[str, str]:
    low, high = (number(float(one[name]), "+#.3g") if name in one else MISSING for name in ("overall_low", "overall_high"))
    return {
        "effect": number(float(one["overall_effect"]), "+#.3g"),
        "interval": f"{low} to {high}",
        "tasks": f"{int(one['important'].sum())} of {int((one['samples'] > 0).sum())}",
        "q": number(float(one["universal_q"]), ".2g"),
        "frequency": number(float(one["universal_frequency"]), ".2f") if "universal_frequency" in one else MISSING,
    }


def _overlap(overlap: pd.DataFrame) -> list[dict[str, str]]:
    chosen = overlap[overlap["compared"].isin(("tasks together", "universal heads"))]
    forms = {"expected": ".2g", "p": ".2g", "expected_in_layers": ".2g", "p_in_layers": ".2g"}
    return [
        {
            "rule": rule_title(row["rule"]).removesuffix(" rule"),
            "compared": (
                f"important in at least {row['at_least']} tasks under {row['a']}"
                if row["compared"] == "tasks together"
                else f"universal under {row['a']} and {row['b']}"
            )
            + (", with the same sign" if row["rule"] in {rule.name for rule in RULES if rule.signed} else ""),
            "shared": number(row["shared"], "d"),
            **{name: number(row[name], form) for name, form in forms.items()},
        }
        for row in chosen.to_dict("records")
    ]
