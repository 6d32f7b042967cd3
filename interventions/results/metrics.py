"""The metrics of effects: one entry a metric, which effects, tables, figures, options and documents read. No libraries beside numpy.

A metric is a function of the measurements of the runs. It is 0 where the patched run is the base run: heads are tested against 0, so one
that is not is refused when it is registered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


class MetricError(ValueError):
    """A metric that cannot be used; says why."""


class Run:
    """The measurements of one run, and what follows from them: labelled arrays, or plain ones.

    Parameters
    ----------
    measured : gives a measurement by its name, e.g. "logit_correct"
    """

    def __init__(self, measured: Callable[[str], Any]) -> None:
        self._measured = measured

    @property
    def logit_difference(self) -> Any:
        """LD = logit(correct) - logit(incorrect)."""
        return self._measured("logit_correct") - self._measured("logit_incorrect")

    @property
    def log_probability(self) -> Any:
        """log P(correct), over the whole vocabulary."""
        return self._measured("logit_correct") - self._measured("log_normalizer")

    @property
    def probability(self) -> Any:
        """P(correct), over the whole vocabulary."""
        return np.exp(self.log_probability)

    @property
    def log_odds(self) -> Any:
        """log P(correct) / (1 - P(correct))."""
        log_p = self.log_probability
        return log_p - np.log1p(-np.exp(np.minimum(log_p, -1e-12)))

    @property
    def divergence(self) -> Any:
        """KL(clean run || this run) over the vocabulary, in nats; only where it was measured (--divergence)."""
        return self._measured("kl_from_clean")


@dataclass(frozen=True)
class Runs:
    """The runs of a patched pair.

    Attributes
    ----------
    patched : the base run with some states of the source run put in
    base : the corrupt run, or in the noising direction the clean one
    source : the other one
    """

    patched: Run
    base: Run
    source: Run


Formula = Callable[[Runs], Any]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes
    ----------
    name : what options and results call it
    formula : of the runs; 0 where the patched run is the base run
    unit : of its numbers, in one word
    label : a short formula for the axes of figures; "{base}" and "{source}" stand for the names of the runs
    sentence : what it is
    """

    name: str
    formula: Formula
    unit: str
    label: str
    sentence: str


METRICS: dict[str, Metric] = {}


def register(unit: str, label: str) -> Callable[[Formula], Formula]:
    """Make a formula a metric; its name is the function's, its sentence the first paragraph of the function's docstring.

    Raises
    ------
    MetricError
        The name is taken, or the metric is not 0 where the patched run is the base run.

    >>> @register("logits", "LD patched")
    ... def patched_logit_difference(runs):
    ...     return runs.patched.logit_difference
    Traceback (most recent call last):
    interventions.results.metrics.MetricError: the metric 'patched_logit_difference' is 1 where the patched run is the base run. An effect \
must be 0 there, for heads are tested against 0: subtract what it is in the base run
    """

    def decorate(formula: Formula) -> Formula:
        name = formula.__name__
        if name in METRICS:
            raise MetricError(f"the metric {name!r} is registered already")
        null = null_value(formula)
        if not abs(null) < 1e-9:
            raise MetricError(
                f"the metric {name!r} is {null:g} where the patched run is the base run. An effect must be 0 there, for heads are tested "
                "against 0: subtract what it is in the base run"
            )
        sentence = " ".join((formula.__doc__ or name).split("\n\n")[0].split())
        METRICS[name] = Metric(name, formula, unit, label, sentence)
        return formula

    return decorate


def null_value(formula: Formula) -> float:
    """A formula's value where the patched run is the base run, by two runs that differ in every measurement."""
    one = {"logit_correct": 2.0, "logit_incorrect": 1.0, "log_normalizer": 2.5, "kl_from_clean": 0.75}
    other = {"logit_correct": 0.5, "logit_incorrect": 1.5, "log_normalizer": 2.25, "kl_from_clean": 0.25}
    base, source = (Run(lambda name, of=of: np.float64(of[name])) for of in (one, other))  # type: ignore[misc]
    return float(formula(Runs(base, base, source)))


def metric(name: str) -> Metric:
    """The metric called `name`; raises `MetricError`, which names those there are."""
    if name not in METRICS:
        raise MetricError(f"there is no metric {name!r}; choose one of {', '.join(METRICS)}")
    return METRICS[name]


def unit_of(name: str) -> str:
    """The unit of a metric, also of one that this program does not know.

    >>> unit_of("logit_difference"), unit_of("surprise")
    ('logits', 'unknown unit')
    """
    return METRICS[name].unit if name in METRICS else "unknown unit"


def label_of(name: str, direction: str = "denoising") -> str:
    """The label of a metric for an axis, also of one that this program does not know.

    >>> label_of("logit_difference", "noising"), label_of("surprise")
    ('LD patched − LD clean (logits)', 'surprise (unknown metric)')
    """
    base, source = ("clean", "corrupt") if direction == "noising" else ("corrupt", "clean")
    return METRICS[name].label.format(base=base, source=source) if name in METRICS else f"{name} (unknown metric)"


def help_text() -> str:
    """One sentence a metric, for command lines."""
    return "; ".join(f"{name}: {entry.sentence}" for name, entry in METRICS.items())


def table() -> str:
    """The table of the metrics in Markdown."""
    rows = [f"| `{name}` | {entry.unit} | {entry.sentence} |" for name, entry in METRICS.items()]
    return "\n".join(["| name | unit | the effect |", "| --- | --- | --- |", *rows])


@register("logits", "LD patched − LD {base} (logits)")
def logit_difference(runs: Runs) -> Any:
    """LD_patched - LD_base: NOTICE's logit difference, in logits

    >>> from interventions.results.effects import read
    >>> effect = read("results/blip-small/shapes/sip/cross_attention-heads.nc").effects.logit_difference()
    >>> effect.dims, float(effect.sel(layer=1, head=2, token="correct").mean().round(1))
    (('sample', 'layer', 'head', 'token'), 1.0)
    """
    return runs.patched.logit_difference - runs.base.logit_difference


@register("probability", "P patched − P {base} of the correct answer")
def restoration_probability(runs: Runs) -> Any:
    """P_patched(correct) - P_base(correct), over the whole vocabulary: NOTICE's restoration probability

    >>> from interventions.results.effects import read
    >>> heads = read("results/blip-small/shapes/sip/cross_attention-heads.nc").sel(layer=1, head=2, token="correct")
    >>> round(float(heads.effects.restoration_probability().mean()), 3)
    0.031
    """
    return runs.patched.probability - runs.base.probability


@register("logits", "log-odds patched − {base} (logits)")
def log_odds(runs: Runs) -> Any:
    """the difference of the log-odds of the correct answer, patched minus base

    >>> from interventions.results.effects import read
    >>> heads = read("results/blip-small/shapes/sip/cross_attention-heads.nc").sel(layer=1, head=2, token="correct")
    >>> round(float(heads.effects.log_odds().mean()), 2)
    1.02
    """
    return runs.patched.log_odds - runs.base.log_odds


@register("share", "share of the {source} run's LD restored")
def normalized_effect(runs: Runs) -> Any:
    """(LD_patched - LD_base) / (LD_source - LD_base): 0 is the base run, 1 the source run (NaN where the two are equal)

    Zhang and Nanda, "Towards best practices of activation patching", section 2.

    >>> from interventions.results.effects import read
    >>> heads = read("results/blip-small/shapes/sip/cross_attention-heads.nc").sel(layer=1, head=2, token="correct")
    >>> round(float(heads.effects.normalized_effect().mean()), 2)  # about 1 of the 4 logits between the runs
    0.25
    """
    gap = runs.source.logit_difference - runs.base.logit_difference
    gap = gap.where(gap != 0) if hasattr(gap, "where") else gap  # a labelled array; the null value is found of plain numbers
    return (runs.patched.logit_difference - runs.base.logit_difference) / gap


@register("share", "(P patched − P {base}) / P {base} of the correct answer")
def relative_change(runs: Runs) -> Any:
    """(P_patched - P_base) / P_base of the correct answer: the measure of attention knockout (Zhang et al.), whose base is the clean run

    >>> from interventions.results.effects import read
    >>> heads = read("results/blip-small/shapes/sip/cross_attention-heads.nc").sel(layer=1, head=2, token="correct")
    >>> round(float(heads.effects.relative_change().median()), 1)  # about exp(1) - 1
    1.7
    """
    base = runs.base.probability
    return (runs.patched.probability - base) / base


@register("nats", "KL(clean, patched) − KL(clean, {base}) (nats)")
def divergence(runs: Runs) -> Any:
    """KL(clean || patched) - KL(clean || base), below 0 where the patch brings the run nearer to the clean one; needs --divergence

    >>> import xarray as xr
    >>> import interventions.results.effects
    >>> one = xr.Dataset({"kl_from_clean": ("layer", [0.1, 0.5]), "corrupt_kl_from_clean": ((), 0.5)})
    >>> one.effects.divergence().values
    array([-0.4,  0. ])
    """
    return runs.patched.divergence - runs.base.divergence
