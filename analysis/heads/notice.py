"""Heads that NOTICE's rule names: effects of heads -> means, important and universal heads with the chance of either, a table, words."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr

from analysis.heads.head_effects import HeadEffects
from analysis.heads.options import NoticeRule
from analysis.heads.rules import KINDS, NO_KIND, Evidence, kind_names, kind_rank, stand_out, universal
from analysis.stats.family_wise import family_wise_p
from analysis.store.folder import head_name
from interventions.results.metrics import unit_of


def judge(effects: HeadEffects, rule: NoticeRule) -> xr.Dataset:
    """Judge every head of a model by NOTICE's rule.

    Returns
    -------
    mean_absolute_effect, mean_effect and important (corruption, task, layer, head), threshold, samples and left_out (corruption, task),
    universal and p (corruption, layer, head; see `family_wise_p`: its null is exchangeable heads, so a head that is only noisier can have a
    small p), kind (layer, head).

    Raises
    ------
    ResultsError
        When fewer tasks ran than a head must be important in.

    >>> from pathlib import Path
    >>> from analysis.heads.head_effects import read_head_effects
    >>> rule = NoticeRule(permutations=0)
    >>> heads = judge(read_head_effects(Path("results"), rule)["blip-small"], rule)
    >>> heads["important"].sel(corruption="sip", layer=1, head=2).values, heads["kind"].sel(layer=1, head=2).item()
    (array([ True,  True]), 'vision')
    """
    effects.check_tasks(rule.at_least)
    heads = effects.means()
    absolute, modality = heads["mean_absolute_effect"], heads["modality"].values.tolist()
    stands_out, threshold = stand_out(absolute.values, rule.deviations)
    of_corruption = universal(Evidence(stands_out), heads["samples"].values > 0, rule.at_least)
    heads = heads.assign(
        important=(absolute.dims, stands_out),
        threshold=(absolute.dims[:2], threshold),
        universal=(("corruption", "layer", "head"), of_corruption),
        kind=(("layer", "head"), kind_names(of_corruption, modality)),
    )
    if rule.permutations:
        heads["p"] = _by_chance(effects, rule)
    for name in ("mean_effect", "mean_absolute_effect", "threshold"):
        heads[name].attrs["units"] = unit_of(rule.metric)
    heads.attrs = rule.attributes(NoticeRule) | {"model": effects.model, "component": effects.component, "token": effects.tokens}
    return heads


def _by_chance(effects: HeadEffects, rule: NoticeRule) -> xr.DataArray:
    """Family-wise p [corruption, layer, head] that a head stands out in the tasks it must."""
    rows = [
        family_wise_p([abs(task) for task in effects.of(corruption).values()], rule.permutations, rule.seed, rule.at_least)
        for corruption in effects.corruptions
    ]
    return xr.concat(rows, xr.Variable("corruption", effects.corruptions))


def table(heads: dict[str, xr.Dataset]) -> pd.DataFrame:
    """All heads that are important anywhere, universal ones first: one row a head, with its means per corruption over the tasks that ran.

    Columns: model, component, layer, head, name, kind, then for each corruption <corruption>_mean_effect,
    <corruption>_mean_absolute_effect (metric's unit), _tasks_important, _tasks (counts) and _p (family-wise).

    >>> from pathlib import Path
    >>> from analysis.universal_heads import UniversalHeads, find
    >>> rows = table(find(Path("results"), UniversalHeads(permutations=0)))
    >>> rows[["name", "kind", "sip_tasks_important", "str_tasks_important"]]
        name        kind  sip_tasks_important  str_tasks_important
    0  L1.H2      vision                    2                    0
    1  L0.H5        text                    0                    2
    2  L3.H0  multimodal                    2                    2
    """
    columns = ["model", "component", "layer", "head", "name", "kind"]
    rows = [row for of_model in heads.values() for row in _rows(of_model)]
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    counts = [column for column in frame.columns if column.endswith(("_tasks", "_tasks_important"))]
    return frame.astype(dict.fromkeys(counts, "Int64"))


def _rows(heads: xr.Dataset) -> list[dict[str, object]]:
    corruptions = heads["corruption"].values
    rows = []
    for layer, head in np.argwhere(heads["important"].any(("corruption", "task")).values):
        one = heads.isel(layer=layer, head=head)
        row: dict[str, object] = {"model": heads.attrs["model"], "component": heads.attrs["component"]}
        row |= {"layer": int(one["layer"]), "head": int(one["head"]), "name": head_name(int(one["layer"]), int(one["head"]))}
        row["kind"] = str(one["kind"].item())
        for corruption in corruptions:
            under = one.sel(corruption=corruption)
            row[f"{corruption}_mean_effect"] = float(under["mean_effect"].mean())
            row[f"{corruption}_mean_absolute_effect"] = float(under["mean_absolute_effect"].mean())
            row[f"{corruption}_tasks_important"] = int(under["important"].sum())
            row[f"{corruption}_tasks"] = int((under["samples"] > 0).sum())
            if "p" in under:
                row[f"{corruption}_p"] = float(under["p"])
        strongest = np.nanmax([row[f"{corruption}_mean_absolute_effect"] for corruption in corruptions])  # type: ignore[arg-type]
        rows.append(((kind_rank(str(row["kind"])), -strongest, row["layer"], row["head"]), row))
    return [row for _, row in sorted(rows, key=lambda ranked: ranked[0])]


def summary(heads: dict[str, xr.Dataset], kind: str = "kind", important: str = "important") -> str:
    """The universal heads in words, a line a model; a second one where only one modality was corrupted, which leaves kinds open.

    Parameters
    ----------
    kind, important : the variables that hold the kinds, and the heads that are important in each task

    >>> from pathlib import Path
    >>> from analysis.universal_heads import UniversalHeads, find
    >>> summary(find(Path("results"), UniversalHeads(permutations=0)))
    'blip-small: vision: L1.H2; text: L0.H5; multimodal: L3.H0'
    """
    lines = []
    for model, of_model in heads.items():
        lines.append(f"{model}: {kinds_in_words(of_model[kind])}")
        named = bool((of_model[kind] != NO_KIND).any())
        lines += [f"  {line}" for line in (_open_kinds(of_model) if named else _nearest(of_model, important))]
    return "\n".join(lines)


def kinds_in_words(kind: xr.DataArray) -> str:
    """The heads of each kind [layer, head], in words.

    >>> kinds_in_words(xr.DataArray([["none", "text"]], dims=("layer", "head")))
    'vision: no head; text: L0.H1; multimodal: no head'
    """
    names = {one.name: [head_name(*map(int, at)) for at in np.argwhere((kind == one.name).values)] for one in KINDS}
    return "; ".join(f"{name}: {' '.join(of_kind) or 'no head'}" for name, of_kind in names.items())


def _open_kinds(heads: xr.Dataset) -> Iterator[str]:
    """What kinds say less than they seem to, in words, where no corruption of one modality ran."""
    ran = set(heads["modality"].values.tolist())
    for missing, kind in (("image", "text"), ("text", "vision")):
        if missing not in ran:
            yield f"no {missing} corruption was run, so a head named {kind} may be multimodal"


def _nearest(heads: xr.Dataset, important: str) -> Iterator[str]:
    """For each corruption, the heads that are important in the most tasks, in words."""
    for corruption in heads["corruption"].values:
        under = heads.sel(corruption=corruption)
        tasks = under[important].sum("task").values
        names = " ".join(head_name(*map(int, at)) for at in np.argwhere(tasks == tasks.max()))
        most = f"{tasks.max()} of {int((under['samples'] > 0).sum())} tasks"
        yield f"nearest under {corruption}: {names}, important in {most}" if tasks.max() else f"no head is important under {corruption}"
