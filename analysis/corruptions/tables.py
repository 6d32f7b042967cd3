"""What `compare_corruptions.find` gives -> tables (shares of thirds and the claim; rank correlations) and words."""

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

LIKE = ("model", "dataset", "component", "heads", "direction", "window", "definition", "token")  # what all in a comparison have in common
BOUNDS = ("", "_low", "_high")


def share_table(found: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Where in the network the effect is: a row a corruption, for each noise its difference to SIP and STR, and the claim.

    Columns: `LIKE`, cut (the layers of each third), even (the late third's share of the layers), row (share, difference or claim),
    corruption, samples, early, middle, late (shares of the sum of mean |effect|, or their differences), each with _low and _high, claim
    (holds, does not hold, undecided, or why it is not judged).
    """
    rows = [row for compared in found.values() for row in _share_rows(compared)]
    columns = [
        *LIKE,
        "cut",
        "even",
        "row",
        "corruption",
        "samples",
        *(f"{t}{b}" for t in ("early", "middle", "late") for b in BOUNDS),
        "claim",
    ]
    return pd.DataFrame(rows, columns=columns).astype({"samples": "Int64"})


def _share_rows(compared: xr.Dataset) -> Iterator[dict[str, Any]]:
    third = compared["third_of_layer"]
    place = {name: compared.attrs[name] for name in LIKE} | {"cut": cut(compared), "even": float((third == "late").mean())}
    against = [name for name in compared.attrs["against"].split(", ") if name]
    for name in map(str, compared["corruption"].values):
        one = compared.sel(corruption=name)
        yield place | {"row": "share", "corruption": name, "samples": int(one["samples"])} | _by_third(one, "share")
    for name in map(str, compared["corruption"].values):
        one = compared.sel(corruption=name)
        if one["claim"].item():
            for other in against:
                yield place | {"row": "difference", "corruption": f"{name} - {other}"} | _by_third(one.sel(other=other), "share_difference")
            yield place | {"row": "claim", "corruption": f"{name} against {', '.join(against)}", "claim": one["claim"].item()}
    if compared.attrs["not_judged"]:
        yield place | {"row": "claim", "claim": f"not judged: {compared.attrs['not_judged']}"}


def _by_third(one: xr.Dataset, name: str) -> dict[str, float]:
    return {f"{third}{bound}": float(one[name + bound].sel(third=third)) for third in one["third"].values for bound in BOUNDS}


def cut(compared: xr.Dataset) -> str:
    """The layers of each third: "0-3 | 4-7 | 8-11".

    >>> third = ("layer", ["early", "middle", "middle", "late"])
    >>> cut(xr.Dataset(coords={"layer": range(4), "third": ["early", "middle", "late"], "third_of_layer": third}))
    '0 | 1-2 | 3'
    >>> cut(xr.Dataset(coords={"layer": [0], "third": ["early", "late"], "third_of_layer": ("layer", ["late"])}))
    'none | 0'
    """
    layers = [compared["layer"].values[compared["third_of_layer"].values == third] for third in compared["third"].values]
    return " | ".join(str(of[0]) if len(of) == 1 else f"{of[0]}-{of[-1]}" if len(of) else "none" for of in layers)


def rank_table(found: dict[str, xr.Dataset]) -> pd.DataFrame:
    """How alike two corruptions rank the heads (or the cells of layer and role): a row a pair, and one for each with itself.

    Columns: `LIKE`, a, b (the same where random halves of its samples are compared), cells, then mean_absolute_effect and mean_effect
    (Spearman's rank correlations of those), each with _low, _high and, for two corruptions, _ceiling, the largest that the samples allow.
    """
    rows = []
    for compared in found.values():
        for a, b in combinations_with_replacement(compared["corruption"].values, 2):
            name, pair = "halves_correlation" if a == b else "rank_correlation", compared.sel(corruption=a, other=b)
            row = {name: compared.attrs[name] for name in LIKE} | {"a": a, "b": b, "cells": int(compared["cells"])}
            for score in pair["score"].values:
                row |= {f"{score}{bound}": float(pair[name + bound].sel(score=score)) for bound in BOUNDS}
                row[f"{score}_ceiling"] = float(pair["ceiling"].sel(score=score)) if a != b else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def summary(found: dict[str, xr.Dataset]) -> str:
    """The tables in words, a paragraph a comparison."""
    lines = []
    for place, compared in found.items():
        at = f" at {compared.attrs['token']!r}" if compared.attrs["token"] else ""
        lines.append(f"{place}{at}, share of mean |effect| in layers {cut(compared)}:")
        claims = []
        for row in share_table({place: compared}).itertuples():
            if row.row == "claim":
                which = f" ({row.corruption})" if pd.notna(row.corruption) else ""
                claims.append(f"  claim, noise in the last layers only{which}: {row.claim}")
            else:
                lines.append(f"  {row.corruption}: {row.early:.2f} | {row.middle:.2f} | {_number(row, 'late')}")
        for row in rank_table({place: compared}).itertuples():
            pair = f"{row.a}, halves of its samples" if row.a == row.b else f"{row.a}, {row.b}"
            numbers = f"of mean |effect| {_correlation(row, 'mean_absolute_effect')}, of mean effect {_correlation(row, 'mean_effect')}"
            lines.append(f"  rank correlation, {pair}: {numbers}")
        if compared["cells_left_out"]:
            lines.append(f"  not counted: {int(compared['cells_left_out'])} cells that have no effect under some corruption")
        lines += claims
    some = next(iter(found.values())).attrs
    brackets = f"In brackets: {some['confidence']:.0%} intervals over samples; rank correlations are drawn towards 0 by few samples"
    return "\n".join([*lines, f"The claim {some['test']}. {brackets}, which allow at most what is named."])


def _correlation(row: Any, name: str) -> str:
    """With its interval and, of two corruptions, the largest that the samples allow."""
    ceiling = getattr(row, f"{name}_ceiling")
    return _number(row, name) + (f" (at most {ceiling:.2f})" if np.isfinite(ceiling) else "")


def _number(row: Any, name: str) -> str:
    """With its interval."""
    return f"{getattr(row, name):.2f} [{getattr(row, f'{name}_low'):.2f}, {getattr(row, f'{name}_high'):.2f}]"
