"""What another draw of samples would give: effects of heads -> bootstrap intervals, and how often each rule names the same heads.

A resample draws the samples of each task with replacement (Efron 1979), as many as there are: a bootstrap stratified by task.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from analysis.heads.measured import Key, Measured, flat
from analysis.stats.resampling import (
    bootstrap_weights,
    discoveries,
    percentile_interval,
    replicated_by_sign,
    stream,
    student_p,
)
from analysis.store.folder import MODALITIES
from analysis.universal_heads import KINDS, important_heads

if TYPE_CHECKING:
    from analysis.heads.robust_rule import RobustRule

BLOCK = 100  # resamples at a time: 15 MB an array for 1,024 heads in 9 tasks under 2 corruptions


@dataclass
class Resampled:
    """Variables by their dimensions: of_task [corruption, task, layer, head], NaN where a task did not run; of_head without task; of_kind
    [kind, layer, head], for vision, text and multimodal."""

    of_task: dict[str, np.ndarray] = field(default_factory=dict)
    of_head: dict[str, np.ndarray] = field(default_factory=dict)
    of_kind: dict[str, np.ndarray] = field(default_factory=dict)


def bootstrap(effects: Measured, shape: tuple[int, ...], rule: "RobustRule") -> Resampled:
    """Intervals of the mean effects, and how often NOTICE's rule names the same heads.

    Parameters
    ----------
    shape : of [corruption, task, layer, head]

    Returns
    -------
    low, high, notice_selection_frequency of each task; overall_low, overall_high, notice_universal_frequency

    >>> from pathlib import Path
    >>> from analysis.heads.measured import Measure, measured
    >>> from analysis.heads.robust_rule import RobustRule
    >>> effects = measured(Path("results"), Measure())["blip-small"]
    >>> found = bootstrap(effects, (2, 2, 4, 6), RobustRule(resamples=100))
    >>> found.of_head["notice_universal_frequency"][:, 1, 2]  # L1.H2 under sip, str
    array([1., 0.])
    """
    of_task = {name: np.full(shape, np.nan) for name in ("low", "high", "notice_selection_frequency")}
    of_head = {name: np.full((shape[0], *shape[2:]), np.nan) for name in ("overall_low", "overall_high", "notice_universal_frequency")}
    for c, corruption in enumerate(effects.corruptions):
        tasks = effects.of(corruption)
        overall, times_selected = np.zeros((rule.resamples, *shape[2:])), np.zeros((rule.resamples, *shape[2:]), dtype="int16")
        for task, values in tasks.items():
            at = c, effects.tasks.index(task)
            weights = bootstrap_weights(values.sizes["sample"], rule.resamples, _draws(rule.seed, (corruption, task)))
            resampled = (weights @ flat(values)).reshape(overall.shape)
            of_task["low"][at], of_task["high"][at] = percentile_interval(resampled, rule.confidence)
            overall += resampled / len(tasks)
            selected = _stand_out((weights @ np.abs(flat(values))).reshape(overall.shape), rule.deviations)
            of_task["notice_selection_frequency"][at] = selected.mean(axis=0)
            times_selected += selected
        of_head["overall_low"][c], of_head["overall_high"][c] = percentile_interval(overall, rule.confidence)
        of_head["notice_universal_frequency"][c] = (times_selected >= (rule.at_least or len(tasks))).mean(axis=0)
    return Resampled(of_task, of_head)


def frequencies(effects: Measured, shape: tuple[int, ...], rule: "RobustRule") -> Resampled:
    """How often the robust rule names the same heads, in the resamples of `bootstrap`.

    Each resample is judged as `robust_rule.judge` does, but that every p is Student's, which sign flips tend to.

    Parameters
    ----------
    shape : of [corruption, task, layer, head]

    Returns
    -------
    selection_frequency of each task; universal_frequency; kind_frequency, which over the kinds sums to at most 1

    >>> from pathlib import Path
    >>> from analysis.heads.measured import Measure, measured
    >>> from analysis.heads.robust_rule import RobustRule
    >>> effects = measured(Path("results"), Measure())["blip-small"]
    >>> found = frequencies(effects, (2, 2, 4, 6), RobustRule(resamples=100))
    >>> found.of_head["universal_frequency"][:, 3, 0], found.of_kind["kind_frequency"][:, 3, 0]  # L3.H0 under sip, str; is multimodal
    (array([1., 1.]), array([0., 0., 1.]))
    """
    ran = np.array([[(corruption, task) in effects.effects for task in effects.tasks] for corruption in effects.corruptions])
    image, text = (np.array(list(effects.modality.values())) == modality for modality in MODALITIES)
    draws = {key: _draws(rule.seed, key) for key in effects.effects}
    heads = shape[2] * shape[3]
    important, universal, kind = np.zeros((*ran.shape, heads)), np.zeros((len(ran), heads)), np.zeros((len(KINDS) - 1, heads))
    for start in range(0, rule.resamples, BLOCK):
        p, sign, stands_out = _judged(effects, min(BLOCK, rule.resamples - start), draws, shape, rule)
        important += (discoveries(p, rule.alpha) & stands_out).sum(axis=2)
        named = _universal(*replicated_by_sign(p, sign, stands_out, ran, rule.at_least), rule.alpha)
        universal += named.sum(axis=1)
        seen, read = named[image].any(axis=0), named[text].any(axis=0)
        kind += [(seen & ~read).sum(axis=0), (read & ~seen).sum(axis=0), (seen & read).sum(axis=0)]
    important[~ran] = np.nan
    shares = (times.reshape(-1, *shape[2:]) / rule.resamples for times in (important, universal, kind))
    of_task, of_head, of_kind = shares
    return Resampled({"selection_frequency": of_task.reshape(shape)}, {"universal_frequency": of_head}, {"kind_frequency": of_kind})


def _judged(
    effects: Measured, resamples: int, draws: dict[Key, np.random.Generator], shape: tuple[int, ...], rule: "RobustRule"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p (1 where no test can pass), sign and stands_out of every mean in so many more resamples: [corruption, task, resample, head]."""
    of_resamples = (*shape[:2], resamples, shape[2] * shape[3])
    p, sign, stands_out = np.ones(of_resamples), np.zeros(of_resamples, dtype="int8"), np.zeros(of_resamples, dtype=bool)
    for (corruption, task), values in effects.effects.items():
        at = effects.corruptions.index(corruption), effects.tasks.index(task)
        x = flat(values)
        weights = bootstrap_weights(len(x), resamples, draws[corruption, task])
        mean = weights @ x
        p[at] = student_p(mean, weights @ x**2, len(x), needed=min(2 * rule.alpha, 1))  # the one-sided p is half of it
        sign[at] = np.sign(mean)
        stands_out[at] = _stand_out(np.abs(mean).reshape(resamples, *shape[2:]), rule.deviations).reshape(mean.shape)
    return p, sign, stands_out


def _universal(by_side: np.ndarray, large: np.ndarray, alpha: float) -> np.ndarray:
    """Whether a head is universal with either sign, tested over signs, corruptions and heads of a resample: [corruption, resample, head].

    Parameters
    ----------
    by_side, large : [2, corruption, resample, head], as `resampling.replicated_by_sign` gives them
    """
    of_resamples = np.moveaxis(by_side, 2, 0)
    passing = discoveries(of_resamples.reshape(len(of_resamples), -1), alpha).reshape(of_resamples.shape)
    return (np.moveaxis(passing, 0, 2) & large).any(axis=0)


def _stand_out(sizes: np.ndarray, deviations: float) -> np.ndarray:
    """Which heads stand out in each resample: [resample, layer, head]."""
    return important_heads(xr.DataArray(sizes, dims=("resample", "layer", "head")), deviations)[0].values


def _draws(seed: int, key: Key) -> np.random.Generator:
    return stream(seed, "bootstrap", *key)
