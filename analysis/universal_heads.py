"""Universal heads: effects of heads -> `universal_heads.nc` and `universal_heads.csv`, by NOTICE's rule.

A head is important in a task when its mean |effect| is at least mean + 2 SD over all heads of the model; universal under a corruption
when important in every task (by option, in at least so many); a vision head under the image corruption only, a text head under the text
corruption only, multimodal under both. `robust_heads` is a rule that also asks for signs beyond chance.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import xarray as xr

from analysis.heads.measured import Measure, Measured, check_finite, check_not_negative, measured
from analysis.stats.chance import family_wise_p
from analysis.store.command import reporting
from analysis.store.folder import MODALITIES, ResultsError, head_name, write_tree, write_whole
from interventions.results.metrics import unit_of

KINDS = ("vision", "text", "multimodal", "none")
FILE = "universal_heads"
OPTIONS = ("metric", "deviations", "at_least", "permutations", "seed")


@dataclass(frozen=True)
class Rule(Measure):
    """What makes a head important; the defaults are NOTICE's."""

    deviations: float = 2.0
    """Standard deviations above the mean of all heads, from which on a head is important."""
    at_least: int = 0
    """Tasks in which a head must be important to be universal; 0 for every task that ran."""
    permutations: int = 1000
    """Shuffles behind the p-values; 0 leaves the p-values out."""
    seed: int = 0
    """Seed of the shuffles."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(self, "deviations")
        check_not_negative(self, "permutations", "seed")
        if self.at_least < 0:
            raise ResultsError(f"a head cannot be asked to be important in {self.at_least} tasks; 0 is every task, 1 any, 2 at least two")


def important_heads(mean_absolute_effect: xr.DataArray, deviations: float = 2.0) -> tuple[xr.DataArray, xr.DataArray]:
    """The heads whose mean |effect| is at least mean + `deviations` SD over all heads (NOTICE, universal attention heads).

    Parameters
    ----------
    mean_absolute_effect : [..., layer, head], the mean over samples of |effect|, in the metric's unit; NaN where not measured.
    deviations : population standard deviations over layer and head.

    Returns
    -------
    important (bool, same dims) and threshold (dims without layer and head). Where all heads have the same effect none is important.

    >>> mean_absolute_effect = xr.DataArray([[0.1, 0.1, 0.1], [0.1, 0.1, 2.0]], dims=("layer", "head"))
    >>> important, threshold = important_heads(mean_absolute_effect)
    >>> important.values
    array([[False, False, False],
           [False, False,  True]])
    >>> round(float(threshold), 3)
    1.833
    """
    heads = ("layer", "head")
    spread = mean_absolute_effect.std(heads, ddof=0)
    threshold = mean_absolute_effect.mean(heads) + deviations * spread
    stands_out = mean_absolute_effect.max(heads) > mean_absolute_effect.min(heads)
    return (mean_absolute_effect >= threshold) & stands_out, threshold


def universal_heads(important: xr.DataArray, ran: xr.DataArray, at_least: int = 0) -> xr.DataArray:
    """The heads that are important in every task that ran, or in at least so many of them, for each corruption.

    Parameters
    ----------
    important : bool [corruption, task, layer, head]
    ran : bool [corruption, task]; a corruption under which no task ran has no universal heads.
    at_least : number of tasks; 0 for all that ran.

    Returns
    -------
    bool [corruption, layer, head]

    >>> important = xr.DataArray([[[[True, False]], [[True, True]]]], dims=("corruption", "task", "layer", "head"))
    >>> ran = xr.DataArray([[True, True]], dims=("corruption", "task"))
    >>> universal_heads(important, ran).values, universal_heads(important, ran, at_least=1).values
    (array([[[ True, False]]]), array([[[ True,  True]]]))
    """
    tasks = ran.sum("task")
    return ((important & ran).sum("task") >= (at_least or tasks)) & (tasks > 0)


def kinds(universal: xr.DataArray) -> xr.DataArray:
    """Vision, text, multimodal or none for each head.

    Parameters
    ----------
    universal : bool [corruption, layer, head] with a coordinate `modality` (corruption) of "image" or "text".

    Returns
    -------
    str [layer, head]

    >>> universal = xr.DataArray([[[True, True, False]], [[True, False, False]]], dims=("corruption", "layer", "head"))
    >>> kinds(universal.assign_coords(modality=("corruption", ["image", "text"]))).values
    array([['multimodal', 'vision', 'none']], dtype=object)
    """
    of_corruption, modality = universal.transpose("corruption", ...).values, universal["modality"].values
    image, text = (of_corruption[modality == m].any(axis=0) for m in MODALITIES)
    kind = np.select([image & text, image, text], ["multimodal", "vision", "text"], "none").astype(object)
    template = universal.isel(corruption=0, drop=True).drop_vars("modality", errors="ignore")
    return template.astype(object).copy(data=kind)


def find(results: Path, rule: Rule | None = None) -> dict[str, xr.Dataset]:
    """The universal heads of every model in a results folder.

    Returns
    -------
    One dataset a model: mean_absolute_effect, mean_effect and important (corruption, task, layer, head), threshold, samples and left_out
    (corruption, task), universal and p (corruption, layer, head; see `chance.family_wise_p`: its null is exchangeable heads, so a head that
    is only noisier can have a small p), kind (layer, head); a task is "<dataset>/<category>".

    Raises
    ------
    ResultsError
        When the folder has no effects of heads under the rule's corruptions, lacks its token or component, has fewer tasks than a head
        must be important in, or holds damaged files.

    >>> found = find(Path("results"), Rule(permutations=0))["blip-small"]
    >>> {kind: np.argwhere((found["kind"] == kind).values).tolist() for kind in ("vision", "text", "multimodal")}  # layer, head
    {'vision': [[1, 2]], 'text': [[0, 5]], 'multimodal': [[3, 0]]}
    """
    rule = rule or Rule()
    return {model: _judge(effects, rule) for model, effects in measured(results, rule).items()}


def check_tasks(effects: Measured, rule: Rule) -> None:
    """Raise `ResultsError` where fewer tasks ran than a head must be important in."""
    for corruption in effects.corruptions:
        ran = len(effects.of(corruption))
        if ran < rule.at_least:
            raise ResultsError(f"{effects.model} has {ran} tasks under {corruption}, fewer than --at-least {rule.at_least}")


def _judge(effects: Measured, rule: Rule) -> xr.Dataset:
    check_tasks(effects, rule)
    dataset = means(effects)
    dataset["important"], dataset["threshold"] = important_heads(dataset["mean_absolute_effect"], rule.deviations)
    dataset["universal"] = universal_heads(dataset["important"], dataset["samples"] > 0, rule.at_least)
    dataset["kind"] = kinds(dataset["universal"])
    if rule.permutations:
        dataset["p"] = _chance(effects, rule)
    for name in ("mean_effect", "mean_absolute_effect", "threshold"):
        dataset[name].attrs["units"] = unit_of(rule.metric)
    options = {name: value for name, value in asdict(rule).items() if name in OPTIONS}
    dataset.attrs = {"model": effects.model, "component": effects.component, "token": effects.tokens, **options}
    return dataset


def means(effects: Measured) -> xr.Dataset:
    """Means over samples: mean_effect and mean_absolute_effect (corruption, task, layer, head), samples and left_out (corruption, task).

    NaN and 0 samples where a task did not run. The coordinate `modality` (corruption) is "image" or "text".

    >>> from analysis.heads.measured import measured
    >>> of = means(measured(Path("results"), Measure())["blip-small"])
    >>> float(of["mean_effect"].sel(corruption="sip", task="shapes/colour", layer=1, head=2).round(1)), of["samples"].values.tolist()
    (1.0, [[12, 12], [12, 12]])
    """
    corruptions, tasks = effects.corruptions, effects.tasks
    first = next(iter(effects.effects.values()))
    mean = np.full((len(corruptions), len(tasks), first.sizes["layer"], first.sizes["head"]), np.nan)
    absolute, samples = mean.copy(), np.zeros(mean.shape[:2], dtype="int64")
    left_out = samples.copy()
    for (corruption, task), without in effects.left_out.items():
        if corruption in corruptions:
            left_out[corruptions.index(corruption), tasks.index(task)] = without
    for (corruption, task), values in effects.effects.items():
        at = corruptions.index(corruption), tasks.index(task)
        mean[at], absolute[at], samples[at] = values.mean("sample"), abs(values).mean("sample"), values.sizes["sample"]
    of_heads, of_task = ("corruption", "task", "layer", "head"), ("corruption", "task")
    return xr.Dataset(
        {
            "mean_effect": (of_heads, mean),
            "mean_absolute_effect": (of_heads, absolute),
            "samples": (of_task, samples),
            "left_out": (of_task, left_out),
        },
        coords={"layer": first["layer"].values, "head": first["head"].values, "task": tasks, "corruption": corruptions}
        | {"modality": ("corruption", list(effects.modality.values()))},
    )


def _chance(effects: Measured, rule: Rule) -> xr.DataArray:
    """Family-wise p [corruption, layer, head] that a head stands out in the tasks it must."""
    rows = [
        family_wise_p([abs(task) for task in effects.of(corruption).values()], rule.permutations, rule.seed, rule.at_least)
        for corruption in effects.corruptions
    ]
    return xr.concat(rows, xr.Variable("corruption", effects.corruptions))


def table(found: dict[str, xr.Dataset]) -> pd.DataFrame:
    """All heads that are important anywhere, universal ones first: one row a head, with its means per corruption over the tasks that ran.

    Columns: model, component, layer, head, name, kind, then for each corruption <corruption>_mean_effect,
    <corruption>_mean_absolute_effect (metric's unit), _tasks_important, _tasks (counts) and _p (family-wise).

    >>> rows = table(find(Path("results"), Rule(permutations=0)))
    >>> rows[["name", "kind", "sip_tasks_important", "str_tasks_important"]]
        name        kind  sip_tasks_important  str_tasks_important
    0  L1.H2      vision                    2                    0
    1  L0.H5        text                    0                    2
    2  L3.H0  multimodal                    2                    2
    """
    columns = ["model", "component", "layer", "head", "name", "kind"]
    rows = [row for dataset in found.values() for row in _rows(dataset)]
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    counts = [column for column in frame.columns if column.endswith(("_tasks", "_tasks_important"))]
    return frame.astype(dict.fromkeys(counts, "Int64"))


def _rows(dataset: xr.Dataset) -> list[dict[str, object]]:
    anywhere = dataset["important"].any(("corruption", "task")).values
    rows = []
    for layer, head in np.argwhere(anywhere):
        of_head = dataset.isel(layer=layer, head=head)
        name = head_name(int(of_head["layer"]), int(of_head["head"]))
        row: dict[str, object] = {"model": dataset.attrs["model"], "component": dataset.attrs["component"]}
        row |= {"layer": int(of_head["layer"]), "head": int(of_head["head"]), "name": name, "kind": str(of_head["kind"].item())}
        for corruption in dataset["corruption"].values:
            under = of_head.sel(corruption=corruption)
            row[f"{corruption}_mean_effect"] = float(under["mean_effect"].mean())
            row[f"{corruption}_mean_absolute_effect"] = float(under["mean_absolute_effect"].mean())
            row[f"{corruption}_tasks_important"] = int(under["important"].sum())
            row[f"{corruption}_tasks"] = int((under["samples"] > 0).sum())
            if "p" in under:
                row[f"{corruption}_p"] = float(under["p"])
        rows.append(row)
    strongest = {id(row): np.nanmax([v for k, v in row.items() if k.endswith("_mean_absolute_effect")]) for row in rows}
    return sorted(rows, key=lambda row: (KINDS.index(str(row["kind"])), -strongest[id(row)], row["layer"], row["head"]))


def find_and_write(results: Path, rule: Rule | None = None, *, metric: str = "logit_difference") -> dict[str, xr.Dataset]:
    """`find`, then write `universal_heads.nc` (one group a model) and `universal_heads.csv` (see `table`) into the results folder.

    Parameters
    ----------
    metric : the metric to judge by where no rule is given: short for `Rule(metric=metric)`.

    >>> found = find_and_write(Path("results"), Rule(permutations=0))
    >>> pd.read_csv("results/universal_heads.csv")["name"].tolist()
    ['L1.H2', 'L0.H5', 'L3.H0']
    """
    results = Path(results)
    found = find(results, rule or Rule(metric=metric))
    write_tree(found, results / f"{FILE}.nc")
    write_whole(results / f"{FILE}.csv", lambda temporary: table(found).to_csv(temporary, index=False, float_format="%.6g"))
    return found


def summary(found: dict[str, xr.Dataset]) -> str:
    """The universal heads in words, a line a model; a second one where only one modality was corrupted, which leaves kinds open.

    >>> summary(find(Path("results"), Rule(permutations=0)))
    'blip-small: vision: L1.H2; text: L0.H5; multimodal: L3.H0'
    """
    lines = []
    for model, dataset in found.items():
        heads = {kind: [head_name(*map(int, at)) for at in np.argwhere((dataset["kind"] == kind).values)] for kind in KINDS[:-1]}
        lines.append(f"{model}: " + "; ".join(f"{kind}: {' '.join(names) or 'no head'}" for kind, names in heads.items()))
        lines += [f"  {line}" for line in ((*_open_kinds(dataset),) if any(heads.values()) else _nearest(dataset))]
    return "\n".join(lines)


def _open_kinds(dataset: xr.Dataset) -> Iterator[str]:
    """What kinds say less than they seem to, in words, where no corruption of one modality ran."""
    ran = set(dataset["modality"].values.tolist())
    for missing, kind in (("image", "text"), ("text", "vision")):
        if missing not in ran:
            yield f"no {missing} corruption was run, so a head named {kind} may be multimodal"


def _nearest(dataset: xr.Dataset) -> list[str]:
    """For each corruption, the heads that are important in the most tasks, in words."""
    lines = []
    for corruption in dataset["corruption"].values:
        under = dataset.sel(corruption=corruption)
        tasks = under["important"].sum("task").values
        names = " ".join(head_name(*map(int, at)) for at in np.argwhere(tasks == tasks.max()))
        most = f"{tasks.max()} of {int((under['samples'] > 0).sum())} tasks"
        lines.append(
            f"nearest under {corruption}: {names}, important in {most}" if tasks.max() else f"no head is important under {corruption}"
        )
    return lines


@dataclass(frozen=True)
class UniversalHeads(Rule):
    """Find the universal heads of every model in a results folder, by NOTICE's rule.

    python analysis/universal_heads.py --results results --deviations 2
    """

    results: Path = Path("results")
    """Results folder, as written by run_all.py."""


def main() -> None:
    """Command line."""
    import tyro

    with reporting("universal_heads"):
        options = tyro.cli(UniversalHeads)
        found = find_and_write(options.results, options)
        print(summary(found))
        print(f"wrote {options.results / FILE}.nc and .csv")


if __name__ == "__main__":
    main()
