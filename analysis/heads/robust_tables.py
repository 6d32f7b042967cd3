"""The judgement of heads by every rule (`robust.judge`), as tables and in words.

A row is a head in a task, a head that is named, or a comparison of tasks or corruptions.
"""

from collections.abc import Iterator
from dataclasses import asdict, fields
from itertools import combinations

import numpy as np
import pandas as pd
import xarray as xr

from analysis.heads import notice
from analysis.heads.overlap import Overlap, jaccard, overlap_of_tasks, pair_overlap
from analysis.heads.rules import NO_KIND, NOTICE, ROBUST, RULES, HeadRule, kind_rank
from analysis.stats.resampling import stream
from analysis.store.folder import head_name

IN_TASK = (
    *("mean_effect", "low", "high", "p", "q", ROBUST.in_task_frequency, NOTICE.in_task_frequency),
    *("significant", "sign", "stands_out", "important", "selected"),
)
OF_HEAD = (
    *("overall_effect", "overall_low", "overall_high", "universal_p", "universal_q"),
    *(ROBUST.universal_frequency, NOTICE.universal_frequency),
)
OVERLAP = (  # columns of `overlap_table`
    *("model", "rule", "compared", "a", "b", "at_least", "heads_a", "heads_b", "jaccard"),
    *(field.name for field in fields(Overlap)),
)


def head_table(heads: dict[str, xr.Dataset]) -> pd.DataFrame:
    """One row for each head in each task that ran.

    Columns: model, dataset, corruption, task (category), layer, head, name; then `IN_TASK` (see `robust.judge`; effects in the
    metric's unit), without the bootstrap's where there was none.

    >>> from pathlib import Path
    >>> from analysis.robust_heads import RobustRule, find
    >>> rows = head_table(find(Path("results"), RobustRule(resamples=0)))
    >>> rows[rows["important"]][["corruption", "task", "name", "sign"]].head(3)
       corruption    task   name  sign
    8         sip  colour  L1.H2     1
    18        sip  colour  L3.H0     1
    32        sip   shape  L1.H2     1
    """
    tables = []
    for model, dataset in heads.items():
        names = [name for name in IN_TASK if name in dataset]
        rows = dataset[names].drop_vars("modality").to_dataframe(["corruption", "task", "layer", "head"]).reset_index()
        rows = rows[rows["mean_effect"].notna()]
        data_and_category = rows["task"].str.split("/", n=1)
        rows = rows.assign(task=data_and_category.str[1])
        rows.insert(0, "model", model)
        rows.insert(1, "dataset", data_and_category.str[0])
        rows.insert(6, "name", [head_name(*at) for at in zip(rows["layer"], rows["head"], strict=True)])
        tables.append(rows)
    return pd.concat(tables, ignore_index=True)


def universal_table(heads: dict[str, xr.Dataset]) -> pd.DataFrame:
    """The heads that are important in any task by either rule, universal ones first: one row a head.

    Columns: model, component, layer, head, name, kind, notice_kind, kind_frequency (share of resamples in which the head has its kind; not
    without the bootstrap), then for each corruption <corruption>_tasks (that ran),
    _tasks_important, _tasks_selected (by NOTICE's rule), _sign, and `OF_HEAD` (see `robust.judge`; effects in the metric's unit).

    >>> from pathlib import Path
    >>> from analysis.robust_heads import RobustRule, find
    >>> rows = universal_table(find(Path("results"), RobustRule(resamples=0)))
    >>> rows[["name", "kind", "sip_tasks_important", "sip_sign"]]
        name        kind  sip_tasks_important  sip_sign
    0  L1.H2      vision                    2         1
    1  L0.H5        text                    0        -1
    2  L3.H0  multimodal                    2         1
    """
    columns = ["model", "component", "layer", "head", "name", "kind", "notice_kind"]
    rows = [row for dataset in heads.values() for row in _universal_rows(dataset)]
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    counts = [column for column in frame.columns if column.endswith(("_tasks", "_tasks_important", "_tasks_selected", "_sign"))]
    return frame.astype(dict.fromkeys(counts, "Int64"))


def _universal_rows(dataset: xr.Dataset) -> list[dict[str, object]]:
    rows = []
    for layer, head in np.argwhere((dataset["important"] | dataset["selected"]).any(("corruption", "task")).values):
        one = dataset.isel(layer=layer, head=head)
        at = {"layer": int(one["layer"]), "head": int(one["head"])}
        row: dict[str, object] = {name: dataset.attrs[name] for name in ("model", "component")} | at
        row |= {"name": head_name(**at), "kind": str(one["kind"].item()), "notice_kind": str(one["notice_kind"].item())}
        if "kind_frequency" in one:
            row["kind_frequency"] = kind_frequency(one)
        for corruption in dataset["corruption"].values:
            under = one.sel(corruption=corruption)
            row[f"{corruption}_tasks"] = int((under["samples"] > 0).sum())
            row[f"{corruption}_tasks_important"] = int(under["important"].sum())
            row[f"{corruption}_tasks_selected"] = int(under["selected"].sum())
            row[f"{corruption}_sign"] = int(under["universal_sign"])
            row |= {f"{corruption}_{name}": float(under[name]) for name in OF_HEAD if name in under}
        rows.append(row)
    return sorted(rows, key=lambda row: kind_rank(str(row["kind"])))


def kind_frequency(one: xr.Dataset) -> float:
    """The share of resamples in which a head, one of `robust.judge`, has the kind that it has: also where that is none.

    >>> variables = {"kind": ((), "none"), "kind_frequency": ("named", [0.25, 0.0, 0.5])}
    >>> kind_frequency(xr.Dataset(variables, coords={"named": ["vision", "text", "multimodal"]}))
    0.25
    """
    of_kinds, kind = one["kind_frequency"], str(one["kind"].item())
    return float(1 - of_kinds.sum() if kind == NO_KIND else of_kinds.sel(named=kind))


def overlap_table(heads: dict[str, xr.Dataset]) -> pd.DataFrame:
    """How many heads tasks and corruptions share, beside chance, for each rule: one row a comparison.

    The robust rule's heads are shared only with the same sign; one that is universal with both signs is in no set.

    Columns: model, rule (notice or robust), compared (tasks together, two tasks, two corruptions, universal heads), a and b (what is
    compared), at_least (sets that a head must be in), heads_a, heads_b and jaccard (of two), then those of `overlap.Overlap`.

    >>> from pathlib import Path
    >>> from analysis.robust_heads import RobustRule, find
    >>> rows = overlap_table(find(Path("results"), RobustRule(resamples=0, permutations=99)))
    >>> rows[(rows["rule"] == "robust") & (rows["compared"] == "universal heads")][["a", "b", "heads_a", "heads_b", "shared"]]
          a    b  heads_a  heads_b  shared
    13  sip  str        2        2       1
    """
    rows = [row for dataset in heads.values() for rule in RULES for row in (*_tasks_together(dataset, rule), *_pairs(dataset, rule))]
    frame = pd.DataFrame(rows, columns=OVERLAP)
    return frame.astype(dict.fromkeys(("heads_a", "heads_b"), "Int64"))


def _sets(dataset: xr.Dataset, rule: HeadRule) -> dict[str, dict[str, np.ndarray]]:
    """By corruption, the heads that are important in each task that ran, as `_signed` gives them."""
    ran = dataset["samples"] > 0
    return {
        str(c): {
            str(t): _signed(dataset.sel(corruption=c, task=t), rule.in_task, rule.in_task_sign)
            for t in dataset["task"].values
            if ran.sel(corruption=c, task=t)
        }
        for c in dataset["corruption"].values
    }


def _signed(under: xr.Dataset, name: str, sign: str | None) -> np.ndarray:
    """The heads that are `name` [layer, head]: their signs, else 0; or true and false, where the rule has no signs."""
    return under[name].values * under[sign].values if sign else under[name].values


def _tasks_together(dataset: xr.Dataset, rule: HeadRule) -> Iterator[dict[str, object]]:
    for corruption, sets in _sets(dataset, rule).items():
        generator = stream(dataset.attrs["seed"], "overlap", rule.name, corruption)
        overlaps = overlap_of_tasks(np.stack(list(sets.values())), dataset.attrs["permutations"], generator)
        for at_least, overlap in overlaps.items():
            row = {"model": dataset.attrs["model"], "rule": rule.name, "compared": "tasks together", "a": corruption, "at_least": at_least}
            yield row | asdict(overlap)


def _pairs(dataset: xr.Dataset, rule: HeadRule) -> Iterator[dict[str, object]]:
    sets = _sets(dataset, rule)
    pairs = [("two tasks", f"{c} {a}", of[a], f"{c} {b}", of[b]) for c, of in sets.items() for a, b in combinations(of, 2)]
    for one, other in combinations(sets, 2):
        both = [task for task in sets[one] if task in sets[other]]
        pairs += [("two corruptions", f"{one} {task}", sets[one][task], f"{other} {task}", sets[other][task]) for task in both]
        universal = [_signed(dataset.sel(corruption=c), rule.universal, rule.universal_sign) for c in (one, other)]
        pairs.append(("universal heads", one, universal[0], other, universal[1]))
    for compared, a, heads_a, b, heads_b in pairs:
        generator = stream(dataset.attrs["seed"], "overlap", rule.name, a, b)
        row = {"model": dataset.attrs["model"], "rule": rule.name, "compared": compared, "a": a, "b": b, "at_least": 2}
        row |= {
            "heads_a": (heads_a != 0).sum(),
            "heads_b": (heads_b != 0).sum(),
            "jaccard": float(jaccard(heads_a.ravel(), heads_b.ravel())),
        }
        yield row | asdict(pair_overlap(heads_a, heads_b, dataset.attrs["permutations"], generator))


def summary(heads: dict[str, xr.Dataset], overlap: pd.DataFrame) -> str:
    """The universal heads of each model in words, in what share of resamples each is of its kind, how many heads all tasks share beside
    chance, and what to be careful with: one task alone, too few samples.

    Parameters
    ----------
    overlap : as `overlap_table` gives it

    >>> from pathlib import Path
    >>> from analysis.robust_heads import RobustRule, find
    >>> heads = find(Path("results"), RobustRule(resamples=0, permutations=99))
    >>> summary(heads, overlap_table(heads)).splitlines()[1]
    "  NOTICE's rule: vision: L1.H2; text: L0.H5; multimodal: L3.H0"
    """
    lines = []
    for model, dataset in heads.items():
        lines.append(notice.summary({model: dataset}))
        lines.append(f"  {NOTICE.title}: {notice.kinds_in_words(dataset[NOTICE.kind])}")
        lines += [f"  {line}" for line in _how_often(dataset)]
        together = overlap[(overlap["model"] == model) & (overlap["rule"] == ROBUST.name) & (overlap["compared"] == "tasks together")]
        for row in together.itertuples():
            ran = int((dataset["samples"].sel(corruption=row.a) > 0).sum())
            if row.at_least in (2, dataset.attrs["at_least"] or ran):
                within = f"within layers {row.expected_in_layers:.2g} (p = {row.p_in_layers:.2g})"
                chance = f"chance gives {row.expected:.2g} (p = {row.p:.2g}), {within}"
                shared = f"heads that are important with one sign in at least {row.at_least} of {ran} tasks: {row.shared}"
                lines.append(f"  {row.a}: {shared}; {chance}")
        lines += [f"  {line}" for line in (*_one_task(dataset), *_too_few(dataset))]
    return "\n".join(lines)


def _how_often(dataset: xr.Dataset) -> Iterator[str]:
    """The share of resamples in which each named head is of its kind, in words."""
    named = [dataset.isel(layer=layer, head=head) for layer, head in np.argwhere((dataset["kind"] != NO_KIND).values)]
    if named and "kind_frequency" in dataset:
        shares = ", ".join(f"{head_name(int(one['layer']), int(one['head']))} {kind_frequency(one):.2f}" for one in named)
        yield f"share of resamples that give a head its kind: {shares}"


def _one_task(dataset: xr.Dataset) -> Iterator[str]:
    """A warning for each corruption under which a single task is enough to name a head, in words."""
    for corruption in dataset["corruption"].values:
        if (dataset.attrs["at_least"] or int((dataset["samples"].sel(corruption=corruption) > 0).sum())) == 1:
            yield (
                f"warning: under {corruption} one task is enough to name a head, which leans on noise that is symmetric; where it is "
                "skewed, more studies without an effect than alpha may name one: ask for 2 tasks or more"
            )


def _too_few(dataset: xr.Dataset) -> list[str]:
    """The tasks in which no single head could pass the test, in words."""
    heads = dataset.sizes["layer"] * dataset.sizes["head"]
    return [
        f"{corruption}, {task}: too few samples ({samples}) or flips for one head alone to be significant among {heads}"
        for corruption in dataset["corruption"].values
        for task in dataset["task"].values
        if (samples := int(dataset["samples"].sel(corruption=corruption, task=task)))
        and float(dataset["smallest_p"].sel(corruption=corruption, task=task)) * heads > dataset.attrs["alpha"]
    ]
