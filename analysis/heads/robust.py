"""Heads that the robust rule names: effects of heads -> signed means, intervals, p-values, universal heads with their error rate.

NOTICE's rule is judged on the same samples and written beside it. What makes a head important and universal is in `heads.rules`.
"""

from dataclasses import replace

import numpy as np
import xarray as xr
from scipy import stats

from analysis.heads.head_effects import HeadEffects, flat, means_of_tasks
from analysis.heads.options import RobustRule
from analysis.heads.resampled import frequencies, intervals
from analysis.heads.rules import (
    KINDS,
    NO_KIND,
    ROBUST,
    RULES,
    Evidence,
    important,
    kind_names,
    replication,
    signed_evidence,
    universal,
    universal_by_sign,
)
from analysis.stats import resampling
from interventions.results.metrics import unit_of

FEWEST_FLIPS = 10_000


def judge(effects: HeadEffects, rule: RobustRule) -> xr.Dataset:
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
    >>> from analysis.heads.head_effects import read_head_effects
    >>> rule = RobustRule(resamples=200)
    >>> heads = judge(read_head_effects(Path("results"), rule)["blip-small"], rule)
    >>> one = heads.sel(corruption="sip", layer=1, head=2)
    >>> one["mean_effect"].values.round(1), one["important"].values, heads["kind"].sel(layer=1, head=2).item()
    (array([1., 1.]), array([ True,  True]), 'vision')
    >>> bool((one["low"] < one["mean_effect"]).all() and (one["mean_effect"] < one["high"]).all() and (one["q"] < 0.05).all())
    True
    """
    layers = next(iter(effects.effects.values()))["layer"].values
    effects = effects.complete()
    effects.check_tasks(rule.at_least)
    rule = replace(rule, flips=rule.flips or enough_flips(effects, rule))
    heads, ran = effects.means(), effects.ran
    mean, modality = heads["mean_effect"].values, heads["modality"].values.tolist()
    p, q = _tested(effects, rule)
    tested = signed_evidence(mean, p, rule.deviations)
    of_task = {"sign": tested.sign, "p": p, "q": q, "significant": q <= rule.alpha, "stands_out": tested.stands_out}
    of_head = {"overall_effect": heads["mean_effect"].mean("task").values} | _replicated(tested, ran, rule)
    for one in RULES:
        evidence = tested if one is ROBUST else one.evidence(means_of_tasks(effects), rule.deviations, rule.alpha)
        of_task[one.in_task] = important(evidence, rule.alpha)
        of_head[one.universal] = universal(evidence, ran, rule.at_least, rule.alpha)
    of_kind: dict[str, np.ndarray] = {}
    if rule.resamples:
        for resampled in (intervals(effects, rule), frequencies(effects, rule)):
            of_task |= resampled.of_task
            of_head |= resampled.of_head
            of_kind |= resampled.of_kind
        heads = heads.assign_coords(named=[kind.name for kind in KINDS])
    heads = heads.assign(
        {name: (("corruption", "task", "layer", "head"), values) for name, values in of_task.items()}
        | {name: (("corruption", "layer", "head"), values) for name, values in of_head.items()}
        | {name: (("named", "layer", "head"), values) for name, values in of_kind.items()}
        | {one.kind: (("layer", "head"), kind_names(of_head[one.universal], modality)) for one in RULES}
        | {"smallest_p": (("corruption", "task"), _smallest_p(heads["samples"].values, rule))}
    )
    for name in ("mean_effect", "mean_absolute_effect", "low", "high", "overall_effect", "overall_low", "overall_high"):
        if name in heads:
            heads[name].attrs["units"] = unit_of(rule.metric)
    heads.attrs = rule.attributes(RobustRule) | {"model": effects.model, "component": effects.component, "token": effects.tokens}
    return with_layers(heads, layers)


def with_layers(heads: xr.Dataset, layers: np.ndarray) -> xr.Dataset:
    """The judgement of heads with rows for layers that have no heads too: NaN, 0, false or "none".

    >>> heads = xr.Dataset({"p": ("layer", [0.5]), "universal": ("layer", [True])}, coords={"layer": [1]})
    >>> with_layers(heads, np.array([0, 1]))["universal"].values
    array([False,  True])
    """
    empty = {"f": np.nan, "b": False, "i": 0, "O": NO_KIND}
    return heads.reindex(layer=layers, fill_value={name: empty[values.dtype.kind] for name, values in heads.data_vars.items()})


def enough_flips(effects: HeadEffects, rule: RobustRule) -> int:
    """Sign flips from which on one head alone can be universal: its smallest p, times all heads and corruptions, is at most alpha / 2.

    >>> from pathlib import Path
    >>> from analysis.heads.head_effects import read_head_effects
    >>> rule = RobustRule(alpha=0.001)
    >>> enough_flips(read_head_effects(Path("results"), rule)["blip-small"], rule)  # 2 x 24 heads x 2 corruptions / 0.001
    96000
    """
    layers, heads = effects.shape
    tasks = int(effects.ran.sum(axis=1).max())
    tests = layers * heads * len(effects.corruptions) * (tasks - (rule.at_least or tasks) + 1)
    return max(FEWEST_FLIPS, int(np.ceil(2 * tests / rule.alpha)))


def _tested(effects: HeadEffects, rule: RobustRule) -> tuple[np.ndarray, np.ndarray]:
    """p and q [corruption, task, layer, head] of every mean; NaN where a task did not run."""
    p = np.full((*effects.ran.shape, *effects.shape), np.nan)
    q = p.copy()
    for key, values in effects.effects.items():
        x = flat(values)
        if rule.test == "t":
            of_heads = resampling.student_p(x.mean(axis=0), (x**2).mean(axis=0), len(x))
        else:
            of_heads = resampling.sign_flip_p(x, rule.flips, resampling.stream(rule.seed, "flips", *key))
        p[effects.index(key)] = of_heads.reshape(effects.shape)
        q[effects.index(key)] = stats.false_discovery_control(of_heads).reshape(effects.shape)
    return p, q


def _smallest_p(samples: np.ndarray, rule: RobustRule) -> np.ndarray:
    smallest = [resampling.smallest_p(n, rule.flips) if n and rule.test == "flips" else 0.0 for n in samples.ravel().tolist()]
    return np.reshape(smallest, samples.shape)


def _replicated(evidence: Evidence, ran: np.ndarray, rule: RobustRule) -> dict[str, np.ndarray]:
    """universal_p, universal_q, universal_sign and universal [corruption, layer, head]."""
    by_sign, _ = replication(evidence, ran, rule.at_least)
    positive, negative = universal_by_sign(evidence, ran, rule.at_least, rule.alpha)
    leaning = np.sign(by_sign[1] - by_sign[0])
    return {
        "universal_p": np.minimum(2 * by_sign.min(axis=0), 1),
        "universal_q": stats.false_discovery_control(by_sign.ravel()).reshape(by_sign.shape).min(axis=0),
        "universal_sign": np.where(positive | negative, positive.astype("int8") - negative, leaning).astype("int8"),
        "universal": positive | negative,
    }
