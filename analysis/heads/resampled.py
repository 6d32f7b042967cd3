"""What another draw of samples would give: effects of heads -> bootstrap intervals, and how often each rule names the same heads.

A resample draws the samples of each task with replacement (Efron 1979), as many as there are: a bootstrap stratified by task.
"""

from dataclasses import dataclass, field

import numpy as np

from analysis.heads.head_effects import HeadEffects, Key, flat, means_of_tasks
from analysis.heads.options import RobustRule
from analysis.heads.rules import KINDS, ROBUST, RULES, important, of_kinds, universal
from analysis.stats.resampling import bootstrap_weights, percentile_interval, stream

BLOCK = 100  # resamples at a time: 15 MB an array for 1,024 heads in 9 tasks under 2 corruptions


@dataclass
class Resampled:
    """Variables by their dimensions: of_task [corruption, task, layer, head], NaN where a task did not run; of_head without task; of_kind
    [kind, layer, head], in the order of `KINDS`."""

    of_task: dict[str, np.ndarray] = field(default_factory=dict)
    of_head: dict[str, np.ndarray] = field(default_factory=dict)
    of_kind: dict[str, np.ndarray] = field(default_factory=dict)


def intervals(effects: HeadEffects, rule: RobustRule) -> Resampled:
    """Percentile intervals of the mean effects.

    Returns
    -------
    low and high of each task; overall_low and overall_high, of the mean of the tasks' means

    >>> from pathlib import Path
    >>> from analysis.heads.head_effects import read_head_effects
    >>> rule = RobustRule(resamples=100)
    >>> resampled = intervals(read_head_effects(Path("results"), rule)["blip-small"], rule)
    >>> float(resampled.of_head["overall_low"][0, 1, 2].round(1)), float(resampled.of_head["overall_high"][0, 1, 2].round(1))  # L1.H2, sip
    (1.0, 1.0)
    """
    of_task = {name: np.full((*effects.ran.shape, *effects.shape), np.nan) for name in ("low", "high")}
    of_head = {name: np.full((len(effects.corruptions), *effects.shape), np.nan) for name in ("overall_low", "overall_high")}
    for c, corruption in enumerate(effects.corruptions):
        tasks = effects.of(corruption)
        overall = np.zeros((rule.resamples, *effects.shape))
        for task, values in tasks.items():
            at = effects.index((corruption, task))
            weights = bootstrap_weights(values.sizes["sample"], rule.resamples, _draws(rule.seed, (corruption, task)))
            resampled = (weights @ flat(values)).reshape(overall.shape)
            of_task["low"][at], of_task["high"][at] = percentile_interval(resampled, rule.confidence)
            overall += resampled / len(tasks)
        of_head["overall_low"][c], of_head["overall_high"][c] = percentile_interval(overall, rule.confidence)
    return Resampled(of_task, of_head)


def frequencies(effects: HeadEffects, rule: RobustRule) -> Resampled:
    """The shares of resamples, those of `intervals`, in which each rule names a head.

    Each resample is judged as the samples are, but that every p is Student's, which sign flips tend to.

    Returns
    -------
    Of each rule of `RULES`, its `in_task_frequency` and `universal_frequency`; of the robust rule kind_frequency, which over the kinds sums
    to at most 1.

    >>> from pathlib import Path
    >>> from analysis.heads.head_effects import read_head_effects
    >>> rule = RobustRule(resamples=100)
    >>> resampled = frequencies(read_head_effects(Path("results"), rule)["blip-small"], rule)
    >>> resampled.of_head["universal_frequency"][:, 3, 0], resampled.of_kind["kind_frequency"][:, 3, 0]  # L3.H0: sip, str; multimodal
    (array([1., 1.]), array([0., 0., 1.]))
    """
    ran, modality = effects.ran, list(effects.modality.values())
    draws = {key: _draws(rule.seed, key) for key in effects.effects}
    in_task = {one.name: np.zeros((*ran.shape, *effects.shape)) for one in RULES}
    in_all = {one.name: np.zeros((len(ran), *effects.shape)) for one in RULES}
    kind = np.zeros((len(KINDS), *effects.shape))
    for start in range(0, rule.resamples, BLOCK):
        resamples = min(BLOCK, rule.resamples - start)
        weights = {key: bootstrap_weights(values.sizes["sample"], resamples, draws[key]) for key, values in effects.effects.items()}
        means = means_of_tasks(effects, weights)
        for one in RULES:
            evidence = one.evidence(means, rule.deviations, rule.alpha)
            in_task[one.name] += important(evidence, rule.alpha).sum(axis=2)
            heads = universal(evidence, ran, rule.at_least, rule.alpha)
            in_all[one.name] += heads.sum(axis=1)
            if one is ROBUST:
                kind += [of_kind.sum(axis=0) for of_kind in of_kinds(heads, modality).values()]
    for times in in_task.values():
        times[~ran] = np.nan
    return Resampled(
        {one.in_task_frequency: in_task[one.name] / rule.resamples for one in RULES},
        {one.universal_frequency: in_all[one.name] / rule.resamples for one in RULES},
        {"kind_frequency": kind / rule.resamples},
    )


def _draws(seed: int, key: Key) -> np.random.Generator:
    return stream(seed, "bootstrap", *key)
