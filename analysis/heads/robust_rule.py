"""A rule that holds up, beside NOTICE's: effects of heads -> signed means, intervals, p-values, universal heads with their error rate.

NOTICE's rule (`universal_heads`) takes mean |effect|, so a head that is only noisy counts, and it has no test. Here a head is important in
a task when

- its mean effect, with its sign, differs from 0: q <= alpha (sign flips of samples; Benjamini and Hochberg 1995 over all heads), and
- it stands out: |mean effect| at least mean + 2 SD over all heads of |mean effect|.

It is universal under a corruption when it stands out with the same sign in every task (or in at least k of n), and so many tasks have
an effect of that sign beyond chance: q <= alpha of their partial conjunction, over all heads, corruptions and signs of the model.

Where no head has an effect, at most a share alpha of studies names a universal head; where one task is enough to, only if noise is
symmetric. Where some have, about a share alpha of the heads that pass the test is expected to have none; standing out is asked for after
it, and only takes heads away.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
import xarray as xr
from scipy import stats

from analysis.heads.measured import Measured, check_not_negative, check_shares, flat
from analysis.heads.robust_frequencies import bootstrap, frequencies
from analysis.stats import resampling
from analysis.store.folder import ResultsError
from analysis.universal_heads import KINDS, Rule, check_tasks, important_heads, kinds, means, universal_heads
from interventions.results.metrics import unit_of

FEWEST_FLIPS = 10_000
TESTS = ("flips", "t")


@dataclass(frozen=True)
class RobustRule(Rule):
    """What makes a head important beyond chance; thresholds of size are those of NOTICE's rule, on signed means."""

    at_least: int = 0
    """Tasks in which a head must be important to be universal; 0 for every task that ran. Where it is 1, or one task ran, the rate of false
    discoveries holds for noise that is symmetric only: ask for 2 or more."""
    alpha: float = 0.05
    """Share of false discoveries that is allowed."""
    test: str = "flips"
    """flips (of the signs of samples), or t (Student's: faster, and nearly the same for many samples)."""
    flips: int = 0
    """Sign flips behind each p; 0 for enough that one head alone can be named, at least 2 x heads x corruptions / alpha."""
    resamples: int = 2000
    """Bootstrap resamples behind intervals and frequencies; 0 leaves these out."""
    confidence: float = 0.95
    """Coverage of the intervals."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test not in TESTS:
            raise ResultsError(f"there is no test {self.test!r}; choose one of {', '.join(TESTS)}")
        check_shares(self, "alpha", "confidence")
        check_not_negative(self, "flips", "resamples")


def judge(effects: Measured, rule: RobustRule) -> xr.Dataset:
    """Judge every head of a model.

    Samples in which any head lacks a value are left out, and counted. Memory is that of a few arrays [resample, layer, head].

    Returns
    -------
    (corruption, task, layer, head), NaN, 0 or false where a task did not run:
        mean_effect and its sign; low, high (percentile bootstrap); p, q, significant; stands_out; important (significant and stands out);
        mean_absolute_effect, selected (by NOTICE's rule); selection_frequency, notice_selection_frequency (share of resamples in which the
        head is important, and is selected)
    (corruption, layer, head):
        overall_effect (mean of the tasks' means), overall_low, overall_high (bootstrap, stratified by task); universal_p and universal_q
        (of the sign that replicates better), universal, universal_sign (0 where both signs do alike); notice_universal;
        universal_frequency, notice_universal_frequency (share of resamples in which either rule makes it so)
    (layer, head): kind, notice_kind
    (named, layer, head): kind_frequency (share of resamples in which the head is of each kind: vision, text, multimodal)
    (corruption, task): samples, left_out, smallest_p (that the test can give)

    Raises
    ------
    ResultsError
        When no sample is complete, or fewer tasks ran than a head must be important in.

    >>> from pathlib import Path
    >>> from analysis.heads.measured import Measure, measured
    >>> found = judge(measured(Path("results"), Measure())["blip-small"], RobustRule(resamples=200))
    >>> of = found.sel(corruption="sip", layer=1, head=2)
    >>> of["mean_effect"].values.round(1), of["important"].values, found["kind"].sel(layer=1, head=2).item()
    (array([1., 1.]), array([ True,  True]), 'vision')
    >>> bool((of["low"] < of["mean_effect"]).all() and (of["mean_effect"] < of["high"]).all() and (of["q"] < 0.05).all())
    True
    """
    layers = next(iter(effects.effects.values()))["layer"].values
    effects = complete(effects)
    check_tasks(effects, rule)
    rule = replace(rule, flips=rule.flips or enough_flips(effects, rule))
    found = means(effects)
    mean, ran = found["mean_effect"], found["samples"].values > 0
    sign = np.sign(np.nan_to_num(mean.values)).astype("int8")
    p, q = _tested(effects, mean.shape, rule)
    significant = q <= rule.alpha
    stands_out = important_heads(abs(mean), rule.deviations)[0].values
    selected = important_heads(found["mean_absolute_effect"], rule.deviations)[0]
    of_task = {"sign": sign, "p": p, "q": q, "significant": significant, "stands_out": stands_out, "selected": selected.values}
    of_task |= {"important": significant & stands_out}
    of_head = {"overall_effect": mean.mean("task").values} | _replicated(p, sign, stands_out, ran, rule)
    of_kind: dict[str, np.ndarray] = {}
    if rule.resamples:
        for resampled in (bootstrap(effects, mean.shape, rule), frequencies(effects, mean.shape, rule)):
            of_task |= resampled.of_task
            of_head |= resampled.of_head
            of_kind |= resampled.of_kind
    found = found.assign(
        {name: (mean.dims, values) for name, values in of_task.items()}
        | {name: (("corruption", "layer", "head"), values) for name, values in of_head.items()}
        | {name: (("named", "layer", "head"), values) for name, values in of_kind.items()}
        | {"smallest_p": (("corruption", "task"), _smallest_p(found["samples"].values, rule))}
        | {"notice_universal": universal_heads(selected, found["samples"] > 0, rule.at_least)}
    )
    if of_kind:
        found = found.assign_coords(named=list(KINDS[:-1]))
    found["kind"], found["notice_kind"] = kinds(found["universal"]), kinds(found["notice_universal"])
    for name in ("mean_effect", "mean_absolute_effect", "low", "high", "overall_effect", "overall_low", "overall_high"):
        if name in found:
            found[name].attrs["units"] = unit_of(rule.metric)
    options = {name: value for name, value in asdict(rule).items() if name in RobustRule.__dataclass_fields__ and value is not None}
    found.attrs = options | {"model": effects.model, "component": effects.component, "token": effects.tokens}
    return with_layers(found, layers)


def with_layers(found: xr.Dataset, layers: np.ndarray) -> xr.Dataset:
    """What was found, with rows for layers that have no heads too: NaN, 0, false or "none".

    >>> found = xr.Dataset({"p": ("layer", [0.5]), "universal": ("layer", [True])}, coords={"layer": [1]})
    >>> with_layers(found, np.array([0, 1]))["universal"].values
    array([False,  True])
    """
    empty = {"f": np.nan, "b": False, "i": 0, "O": "none"}
    return found.reindex(layer=layers, fill_value={name: empty[values.dtype.kind] for name, values in found.data_vars.items()})


def complete(effects: Measured) -> Measured:
    """Without the samples in which any head lacks a finite value, which are counted in `left_out`; and without the layers that have no such
    heads: in some models layers are of two kinds.

    Raises
    ------
    ResultsError
        When no sample is left.

    >>> from pathlib import Path
    >>> from analysis.heads.measured import Measure, measured
    >>> effects = measured(Path("results"), Measure())["blip-small"]
    >>> effects.effects["sip", "shapes/colour"][0, 1, 2] = np.nan  # one head of one sample
    >>> left = complete(effects)
    >>> left.effects["sip", "shapes/colour"].sizes["sample"], left.left_out["sip", "shapes/colour"]
    (11, 1)
    """
    kept, left_out = {}, dict(effects.left_out)
    arrays = [values.transpose("sample", "layer", "head").values for values in effects.effects.values()]
    layers = np.logical_or.reduce([np.isfinite(array).any(axis=(0, 2)) for array in arrays])
    for key, every in effects.effects.items():
        values = every if layers.all() else every.isel(layer=layers)
        finite = np.isfinite(flat(values)).all(axis=1)
        left_out[key] += int((~finite).sum())
        if finite.any():
            kept[key] = values if finite.all() else values[finite]
    if not kept:
        raise ResultsError(
            f"{effects.model}: no sample has a finite effect of every head; run head patching again, or judge by another metric"
        )
    modality = {c: m for c, m in effects.modality.items() if c in {corruption for corruption, _ in kept}}
    return replace(effects, effects=kept, left_out=left_out, modality=modality)


def enough_flips(effects: Measured, rule: RobustRule) -> int:
    """Sign flips from which on one head alone can be universal: its smallest p, times all heads and corruptions, is at most alpha / 2.

    >>> from pathlib import Path
    >>> from analysis.heads.measured import Measure, measured
    >>> enough_flips(measured(Path("results"), Measure())["blip-small"], RobustRule(alpha=0.001))  # 2 x 24 heads x 2 corruptions / 0.001
    96000
    """
    heads = next(iter(effects.effects.values())).isel(sample=0).size
    tasks = max(len(effects.of(corruption)) for corruption in effects.corruptions)
    tests = heads * len(effects.corruptions) * (tasks - (rule.at_least or tasks) + 1)
    return max(FEWEST_FLIPS, int(np.ceil(2 * tests / rule.alpha)))


def _tested(effects: Measured, shape: tuple[int, ...], rule: RobustRule) -> tuple[np.ndarray, np.ndarray]:
    """p and q [corruption, task, layer, head] of every mean; NaN where a task did not run."""
    p, q = np.full(shape, np.nan), np.full(shape, np.nan)
    for (corruption, task), values in effects.effects.items():
        at = effects.corruptions.index(corruption), effects.tasks.index(task)
        x = flat(values)
        if rule.test == "t":
            of_heads = resampling.student_p(x.mean(axis=0), (x**2).mean(axis=0), len(x))
        else:
            of_heads = resampling.sign_flip_p(x, rule.flips, resampling.stream(rule.seed, "flips", corruption, task))
        p[at] = of_heads.reshape(shape[2:])
        q[at] = stats.false_discovery_control(of_heads).reshape(shape[2:])
    return p, q


def _smallest_p(samples: np.ndarray, rule: RobustRule) -> np.ndarray:
    smallest = [resampling.smallest_p(n, rule.flips) if n and rule.test == "flips" else 0.0 for n in samples.ravel().tolist()]
    return np.reshape(smallest, samples.shape)


def _replicated(p: np.ndarray, sign: np.ndarray, stands_out: np.ndarray, ran: np.ndarray, rule: RobustRule) -> dict[str, np.ndarray]:
    """universal_p, universal_q, universal_sign and universal [corruption, layer, head] from what was found in the tasks that ran."""
    by_side, large = resampling.replicated_by_sign(p, sign, stands_out, ran, rule.at_least)
    q = stats.false_discovery_control(by_side.ravel()).reshape(by_side.shape)
    positive, negative = (q <= rule.alpha) & large
    leaning = np.sign(by_side[1] - by_side[0])
    return {
        "universal_p": np.minimum(2 * by_side.min(axis=0), 1),
        "universal_q": q.min(axis=0),
        "universal_sign": np.where(positive | negative, positive.astype("int8") - negative, leaning).astype("int8"),
        "universal": positive | negative,
    }
