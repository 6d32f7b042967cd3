"""Maps of modules -> tables (peaks, thirds and their tests; text beside image corruption) and words."""

from typing import Any

import pandas as pd
import xarray as xr

from analysis.corruptions.tables import cut

LIKE = ("model", "dataset", "component", "direction", "window", "definition")
BOUNDS = ("", "_low", "_high")
PEAK = ("layer", "role", "effect", "low", "high", "frequency", "layer_frequency")
SCORES = {"mean_absolute_effect": "absolute_rank_correlation", "mean_effect": "rank_correlation"}


def table(maps: dict[str, xr.Dataset]) -> pd.DataFrame:
    """A row a file of whole modules and order of the options.

    Columns: `LIKE`, corruption, modality, order, samples; peak_layer, peak_role, peak_effect with its interval, peak_frequency (share of
    resamples whose peak is this cell) and peak_layer_frequency; cut (the layers of each third), even (the late third's share of the
    layers), early, middle, late (shares of the sum of mean |effect|), each with _low and _high; then for each pair of thirds, such as
    early-late, the difference of mean |effect| a layer with _low and _high, its _p (sign flips) and _p_holm (corrected over all tests of
    the model).

    >>> from pathlib import Path
    >>> from analysis.modules import Modules, find
    >>> rows = table(find(Path("results"), Modules(resamples=20)))
    >>> rows[(rows["component"] == "mlp") & (rows["order"] == "all")][["corruption", "samples", "peak_layer", "cut"]].values.tolist()
    [['sip', 24, 3, '0 | 1-2 | 3'], ['str', 24, 3, '0 | 1-2 | 3']]
    """
    rows = []
    for of_place in maps.values():
        for corruption in of_place["corruption"].values:
            for order in of_place["order"].values:
                one = of_place.sel(corruption=corruption, order=order)
                if one["samples"] > 0:
                    rows.append(_row(of_place, one, str(corruption), str(order)))
    return pd.DataFrame(rows)


def _row(maps: xr.Dataset, one: xr.Dataset, corruption: str, order: str) -> dict[str, Any]:
    row = {name: maps.attrs[name] for name in LIKE} | {"corruption": corruption, "modality": str(one["modality"].item()), "order": order}
    row |= {"samples": int(one["samples"])} | {f"peak_{name}": one[f"peak_{name}"].item() for name in PEAK}
    row |= {"cut": cut(maps), "even": float(one["even"].sel(third="late"))}
    row |= {f"{third}{bound}": float(one[f"share{bound}"].sel(third=third)) for third in one["third"].values for bound in BOUNDS}
    for pair in one["pair"].values:
        of_pair, name = one.sel(pair=pair), str(pair).replace(" ", "")
        row |= {f"{name}{bound}": float(of_pair[f"difference{bound}"]) for bound in BOUNDS}
        row |= {f"{name}_{test}": float(of_pair[test]) for test in ("p", "p_holm")}
    return row


def text_image_row(maps: xr.Dataset, compared: xr.Dataset, image: str, text: str) -> dict[str, Any]:
    """A row of `text_image_table`: one module's maps under an image and a text corruption.

    Parameters
    ----------
    maps : as `modules.find` gives, for the peaks
    compared : as `corruption_statistics.compare` gives, of these two corruptions

    >>> from pathlib import Path
    >>> from analysis.module_effects import folder_maps
    >>> from analysis.module_effects.options import MapRule
    >>> files, rule = folder_maps.files_of_modules(Path("results")), MapRule(resamples=20)
    >>> pairs = folder_maps.text_beside_image(files, folder_maps.maps_of_folder(files, rule), rule)
    >>> row = next(text_image_row(*pair) for pair in pairs if pair[0].attrs["component"] == "mlp")
    >>> row["image"], row["text"], round(row["rank_correlation"], 2)
    ('sip', 'str', 0.66)
    """
    pair = compared.sel(corruption=image, other=text)
    row: dict[str, Any] = {name: maps.attrs[name] for name in LIKE} | {"image": image, "text": text, "cut": cut(maps)}
    for side, corruption in (("image", image), ("text", text)):
        one = maps.sel(corruption=corruption, order="all")
        row |= {f"{side}_peak_{name}": one[f"peak_{name}"].item() for name in ("layer", "role", "effect", "low", "high", "frequency")}
        shares = compared.sel(corruption=corruption)
        row |= {f"{side}_{third}": float(shares["share"].sel(third=third)) for third in shares["third"].values}
    differences = {f"{t}{b}": float(pair[f"share_difference{b}"].sel(third=t)) for t in pair["third"].values for b in BOUNDS}
    row |= {f"difference_{name}": value for name, value in differences.items()}
    return row | {f"{name}{b}": float(pair[f"rank_correlation{b}"].sel(score=score)) for score, name in SCORES.items() for b in BOUNDS}


def text_image_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A row a module that was patched under an image and a text corruption.

    Columns: `LIKE`, image, text (the corruptions), cut; the peak of each; <side>_early, _middle, _late, shares of the sum of mean |effect|;
    difference_<third>, image less text, paired over samples, and absolute_rank_correlation and rank_correlation (Spearman's, of the mean
    |effect| and of the mean effect of the cells that both have), each with _low and _high.

    >>> text_image_table([]).columns.tolist()[-2:]
    ['image', 'text']
    """
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*LIKE, "image", "text"])


def summary(maps: dict[str, xr.Dataset], beside: pd.DataFrame) -> str:
    """Peaks and shares in words, a line a file; then text beside image, a line a module.

    >>> from pathlib import Path
    >>> from analysis.modules import Modules, find
    >>> summary(find(Path("results"), Modules(resamples=20)), text_image_table([])).splitlines()[0]
    'peak of the mean effect (how often it is there under resampling); shares of mean |effect| in early | middle | late layers:'
    """
    lines = ["peak of the mean effect (how often it is there under resampling); shares of mean |effect| in early | middle | late layers:"]
    for row in table(maps).query("order == 'all'").itertuples():
        name = f"{row.model}/{row.dataset}/{row.corruption} {row.component}" + (f", window {row.window}" if row.window > 1 else "")
        name += ", noising" if row.direction == "noising" else ""
        at = f"L{row.peak_layer} {row.peak_role!r} {row.peak_effect:.3g} [{row.peak_low:.3g}, {row.peak_high:.3g}]"
        shares = " | ".join(f"{getattr(row, third):.2f}" for third in ("early", "middle", "late"))
        lines.append(f"  {name}: {at} ({row.peak_frequency:.0%}); {shares}" if row.peak_layer >= 0 else f"  {name}: no effect")
    for row in beside.itertuples():
        late = f"{row.difference_late:+.2f} [{row.difference_late_low:+.2f}, {row.difference_late_high:+.2f}]"
        name = f"{row.model}/{row.dataset} {row.component}, {row.image} less {row.text}"
        lines.append(f"  {name}: late share {late}; rank correlation of maps {row.rank_correlation:.2f}")
    return "\n".join(lines)
