"""Universal heads: effects of heads -> `universal_heads.nc` and `universal_heads.csv`, by NOTICE's rule.

A head is important in a task when its mean |effect| is at least mean + 2 SD over all heads of the model; universal under a corruption
when important in every task; a vision head under the image corruption only, a text head under the text corruption only, multimodal
under both.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import xarray as xr

from analysis.chance import family_wise_p
from analysis.results import MODALITIES, EffectsFile, ResultsError, effects_files, head_name, read_effects, write_tree, write_whole

METRICS = {"logit_difference": "logits", "restoration_probability": "probability", "log_odds": "logits", "normalized_effect": "share"}
KINDS = ("vision", "text", "multimodal", "none")
FILE = "universal_heads"


@dataclass(frozen=True)
class Rule:
    """What makes a head important; the defaults are NOTICE's."""

    metric: str = "logit_difference"
    """Effect to judge by: logit_difference, restoration_probability, log_odds or normalized_effect."""
    deviations: float = 2.0
    """Standard deviations above the mean of all heads, from which on a head is important."""
    token: str | None = None
    """Token role at which heads are judged; without it, the main token of each file ("correct" for BLIP, "last" for LLaVA)."""
    component: str | None = None
    """Component whose heads are judged; without it, cross_attention where the model has it, else self_attention."""
    image_corruption: str = "sip"
    """The image corruption to judge by."""
    text_corruption: str = "str"
    """The text corruption to judge by."""
    permutations: int = 1000
    """Shuffles behind the p-values; 0 leaves the p-values out."""
    seed: int = 0
    """Seed of the shuffles."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ResultsError(f"there is no metric {self.metric!r}; choose one of {', '.join(METRICS)}")
        if self.image_corruption == self.text_corruption:
            raise ResultsError(f"the image and the text corruption are both {self.image_corruption!r}; name two different ones")

    def corruptions(self) -> dict[str, str]:
        """The modality of each corruption judged by, image first."""
        return {self.image_corruption: "image", self.text_corruption: "text"}


def important_heads(mean_absolute_effect: xr.DataArray, deviations: float = 2.0) -> tuple[xr.DataArray, xr.DataArray]:
    """The heads whose mean |effect| is at least mean + `deviations` SD over all heads (NOTICE, universal attention heads).

    Parameters
    ----------
    mean_absolute_effect : [..., layer, head], the mean over samples of |effect|, in the metric's unit; NaN where not measured.
    deviations : population standard deviations over layer and head.

    Returns
    -------
    important (bool, same dims) and threshold (dims without layer and head). Where all heads have the same effect none is important.
    """
    heads = ("layer", "head")
    spread = mean_absolute_effect.std(heads, ddof=0)
    threshold = mean_absolute_effect.mean(heads) + deviations * spread
    stands_out = mean_absolute_effect.max(heads) > mean_absolute_effect.min(heads)
    return (mean_absolute_effect >= threshold) & stands_out, threshold


def universal_heads(important: xr.DataArray, ran: xr.DataArray) -> xr.DataArray:
    """The heads that are important in every task that ran, for each corruption.

    Parameters
    ----------
    important : bool [corruption, task, layer, head]
    ran : bool [corruption, task]; a corruption under which no task ran has no universal heads.

    Returns
    -------
    bool [corruption, layer, head]
    """
    return (important | ~ran).all("task") & ran.any("task")


def kinds(universal: xr.DataArray) -> xr.DataArray:
    """Vision, text, multimodal or none for each head.

    Parameters
    ----------
    universal : bool [corruption, layer, head] with a coordinate `modality` (corruption) of "image" or "text".

    Returns
    -------
    str [layer, head]
    """
    by_modality = {m: universal.sel(corruption=universal["modality"] == m).any("corruption").values for m in MODALITIES}
    image, text = by_modality["image"], by_modality["text"]
    kind = np.select([image & text, image, text], ["multimodal", "vision", "text"], "none").astype(object)
    template = universal.isel(corruption=0, drop=True).drop_vars("modality", errors="ignore")
    return template.astype(object).copy(data=kind)


def find(results: Path, rule: Rule | None = None) -> dict[str, xr.Dataset]:
    """The universal heads of every model in a results folder.

    Returns
    -------
    One dataset a model: mean_absolute_effect, mean_effect and important (corruption, task, layer, head), threshold and samples
    (corruption, task), universal and p (corruption, layer, head), kind (layer, head); a task is "<dataset>/<category>".

    Raises
    ------
    ResultsError
        When the folder has no effects of heads under the rule's corruptions, lacks its token or component, or holds damaged files.
    """
    rule = rule or Rule()
    files = [file for file in effects_files(results) if file.heads]
    if not files:
        raise ResultsError(
            f"no effects of heads (<component>-heads.nc) below {Path(results).absolute()}: run interventions/head_patching.py first"
        )
    models = sorted({file.model for file in files})
    found = {model: _judge(_chosen([f for f in files if f.model == model], rule), rule) for model in models}
    judged = {model: dataset for model, dataset in found.items() if dataset is not None}
    if not judged:
        there = ", ".join(sorted({f"{f.corruption}/{f.component}" for f in files}))
        component = f", component {rule.component}" if rule.component else ""
        wanted = f"{rule.image_corruption} or {rule.text_corruption}{component}"
        raise ResultsError(f"no effects of heads for {wanted} below {Path(results).absolute()}: there are {there}; choose with options")
    return judged


def _chosen(files: list[EffectsFile], rule: Rule) -> list[EffectsFile]:
    files = [file for file in files if file.corruption in rule.corruptions()]
    there = {file.component for file in files}
    component = rule.component or next((c for c in ("cross_attention", "self_attention") if c in there), None)
    return [file for file in files if file.component == component]


def _judge(files: list[EffectsFile], rule: Rule) -> xr.Dataset | None:
    """The dataset of one model, or None when it has no file."""
    if not files:
        return None
    measured: dict[tuple[str, str], xr.DataArray] = {}
    tokens = set()
    for file in files:
        values = _effect(file, rule)
        tokens.add(str(values["token"].item()))
        for category, of_task in values.groupby("category"):
            measured[file.corruption, f"{file.dataset}/{category}"] = of_task.drop_vars(["token", "category"], errors="ignore")
    _check_shapes(files, measured)
    corruptions = [c for c in rule.corruptions() if c in {corruption for corruption, _ in measured}]
    tasks = sorted({task for _, task in measured})
    dataset = _means(measured, corruptions, tasks)
    dataset = dataset.assign_coords(modality=("corruption", [rule.corruptions()[c] for c in corruptions]))
    dataset["important"], dataset["threshold"] = important_heads(dataset["mean_absolute_effect"], rule.deviations)
    dataset["universal"] = universal_heads(dataset["important"], dataset["samples"] > 0)
    dataset["kind"] = kinds(dataset["universal"])
    if rule.permutations:
        dataset["p"] = _chance(measured, corruptions, tasks, rule)
    for name in ("mean_effect", "mean_absolute_effect", "threshold"):
        dataset[name].attrs["units"] = METRICS[rule.metric]
    options = {name: value for name, value in asdict(rule).items() if name in ("metric", "deviations", "permutations", "seed")}
    dataset.attrs = {"model": files[0].model, "component": files[0].component, "token": ", ".join(sorted(tokens)), **options}
    return dataset


def _effect(file: EffectsFile, rule: Rule) -> xr.DataArray:
    """The metric [sample, layer, head] at the token where heads are judged, samples without a value left out."""
    effects = read_effects(file)
    said = effects.attrs.get("modality")
    if said is not None and said != rule.corruptions()[file.corruption]:
        raise ResultsError(f"{file.path} corrupts the {said}, but is named as the {rule.corruptions()[file.corruption]} corruption")
    token = rule.token or effects.attrs["main_token"]
    if token not in effects.indexes["token"]:
        there = ", ".join(map(str, effects.indexes["token"]))
        raise ResultsError(f"{file.path} has no effects of heads at token {token!r}; it has {there}: choose one with --token")
    keep = ["sample", "layer", "head", "token", "category"]
    values = getattr(effects.effects, rule.metric)().sel(token=token)
    values = values.drop_vars([str(name) for name in values.coords if name not in keep], errors="ignore")
    values = values.assign_coords(category=("sample", effects["category"].values.astype(str)))
    return values.dropna("sample", how="all")


def _check_shapes(files: list[EffectsFile], measured: dict[tuple[str, str], xr.DataArray]) -> None:
    if not measured:
        raise ResultsError(
            f"{', '.join(str(file.path) for file in files)}: no sample has an effect; run head patching again, with more samples"
        )
    shapes = {(values.sizes["layer"], values.sizes["head"]) for values in measured.values()}
    if len(shapes) > 1:
        raise ResultsError(
            f"the files of {files[0].model} have different numbers of (layers, heads): {sorted(shapes)}; delete the stale ones"
        )


def _means(measured: dict[tuple[str, str], xr.DataArray], corruptions: list[str], tasks: list[str]) -> xr.Dataset:
    """Means over samples of each (corruption, task); NaN and 0 samples where a task did not run."""
    blank = next(iter(measured.values())).mean("sample") * np.nan

    def stacked(of: dict[tuple[str, str], xr.DataArray]) -> xr.DataArray:
        rows = [xr.concat([of.get((c, t), blank) for t in tasks], xr.Variable("task", tasks)) for c in corruptions]
        return xr.concat(rows, xr.Variable("corruption", corruptions))

    samples = [[measured[c, t].sizes["sample"] if (c, t) in measured else 0 for t in tasks] for c in corruptions]
    return xr.Dataset(
        {
            "mean_effect": stacked({key: values.mean("sample") for key, values in measured.items()}),
            "mean_absolute_effect": stacked({key: abs(values).mean("sample") for key, values in measured.items()}),
            "samples": (("corruption", "task"), np.array(samples, dtype="int64")),
        }
    )


def _chance(measured: dict[tuple[str, str], xr.DataArray], corruptions: list[str], tasks: list[str], rule: Rule) -> xr.DataArray:
    """Family-wise p [corruption, layer, head] that a head stands out in every task."""
    rows = [family_wise_p([abs(measured[c, t]) for t in tasks if (c, t) in measured], rule.permutations, rule.seed) for c in corruptions]
    return xr.concat(rows, xr.Variable("corruption", corruptions))


def table(found: dict[str, xr.Dataset]) -> pd.DataFrame:
    """All heads that are important anywhere, universal ones first: one row a head, with its means per corruption over the tasks that ran.

    Columns: model, component, layer, head, name, kind, then for each corruption <corruption>_mean_effect,
    <corruption>_mean_absolute_effect (metric's unit), _tasks_important, _tasks (counts) and _p (family-wise).
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
    """
    results = Path(results)
    found = find(results, rule or Rule(metric=metric))
    write_tree(found, results / f"{FILE}.nc")
    write_whole(results / f"{FILE}.csv", lambda temporary: table(found).to_csv(temporary, index=False, float_format="%.6g"))
    return found


def summary(found: dict[str, xr.Dataset]) -> str:
    """The universal heads in words, a line a model."""
    lines = []
    for model, dataset in found.items():
        heads = {kind: [head_name(*map(int, at)) for at in np.argwhere((dataset["kind"] == kind).values)] for kind in KINDS[:-1]}
        lines.append(f"{model}: " + "; ".join(f"{kind}: {' '.join(names) or 'no head'}" for kind, names in heads.items()))
        if not any(heads.values()):
            lines += [f"  {line}" for line in _nearest(dataset)]
    return "\n".join(lines)


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

    try:
        options = tyro.cli(UniversalHeads)
        found = find_and_write(options.results, options)
    except (ResultsError, OSError) as error:
        raise SystemExit(f"universal_heads: {error}") from None
    print(summary(found))
    print(f"wrote {options.results / FILE}.nc and .csv")


if __name__ == "__main__":
    main()
