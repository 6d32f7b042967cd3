"""The rule that names a head's function: scores of samples -> means, intervals, p, q and a verdict on each function, in each task.

NOTICE judges three functions by eye against the mean of all heads. Here a function is named when all of its tests hold beyond chance and
all of its means pass a floor. The tests and floors of each function are its entry in `functions.registry`.

Object gain sets a head beside the mean head, as NOTICE does. Selectivity sets it beside itself with the objects of other samples: a head
that prefers the middle of every image, where objects are, has a gain and a high AUROC, but no selectivity. That is why permuted masks
give no object heads. For object suppression outliers on the object are left out: attention to them is not away from it.

The p-value of a function is the largest of its tests (intersection-union; Berger 1982), so it is valid however they depend on each other.
q is Benjamini and Hochberg's (1995) over all heads and tasks, for each function apart and times the number of functions: in one family,
many outlier heads would make it easier to name an object head (Efron 2008).
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from analysis.functions.registry import FUNCTIONS, NONE, OVERALL, UNDECIDABLE, Floor, Thresholds
from analysis.functions.samples import OF_OBJECT, OF_OUTLIERS
from analysis.functions.statistics import (
    corrected,
    interval,
    means,
    one_sided,
    standard_errors,
    stratified_weights,
    two_sided_p,
    weighted_mean,
)
from analysis.stats import resampling

OF_TASK, OF_RULE = ("outlier_on_object", "outlier_favoured", "outlier_patches"), ("p", "large")
BASELINES = ("mean_object_mass", "even_object_mass", "elsewhere_mass")  # without intervals of their own
KEPT = ("mean_object_mass", "elsewhere_mass")  # of these, what ratios need
FEWEST_FLIPS, MOST_FLIPS = 10_000, 100_000


def judge(tasks: Mapping[str, xr.Dataset], thresholds: Thresholds | None = None) -> xr.Dataset:
    """Name the functions of every head in every task.

        Parameters
        ----------
        tasks : the scores of each task, as `functions.samples.score_samples` gives them; samples with the same
            `stratum` (else `category`) are resampled among themselves.

        Returns
        -------
        (task, layer, head), NaN where no sample has a score:
            the means over samples of the scores of `score_samples`; object_gain (object_mass - mean_object_mass), even_gain (object_mass -
            even_object_mass); object_ratio (object_mass / mean_object_mass) and object_lift (object_mass / elsewhere_mass), ratios of means
            <name>_low, <name>_high of all but `BASELINES` (percentile bootstrap over samples, stratified)
            object_gain_z (standard errors from 0), outlier_ratio_z (from 1)
            samples_with_object, samples_with_outliers
            function : the first that holds, else "undecidable" where one of them is (verdict says which, and "no" of the others),
                else "none"
        (rule, task, layer, head), where a rule is one of the functions:
            p, q : see the head of this module; NaN where undecidable
            large : whether all means pass their floors
            verdict : "yes", "no", or "undecidable" where a test has fewer than `min_samples` samples (with a mask, with outlier patches)
                and no other test of the function fails
        (layer, head): polysemantic, whether the head has different functions in different tasks (other than "overall")
        (task): outlier_on_object, outlier_favoured, outlier_patches (means over samples); smallest_q that one head alone can have

    >>> from analysis.functions.samples import score_samples
        >>> scores = score_samples(xr.open_dataset("results/blip-small/shapes/attention.nc"))
        >>> tasks = {task: scores.isel(sample=scores["category"].values == task) for task in ("colour", "shape")}
        >>> found = judge({OVERALL: scores} | tasks, Thresholds(resamples=100))
        >>> found["function"].sel(layer=3, head=0).values.tolist()
        ['object_detection', 'object_detection', 'object_detection']
        >>> (found["verdict"] == "yes").sum(("layer", "head")).sel(task="overall").to_pandas().to_dict()
        {'object_detection': 1, 'object_suppression': 1, 'outlier_suppression': 1}
    """
    thresholds = thresholds or Thresholds()
    first = next(iter(tasks.values()))
    shape = (len(tasks), first.sizes["layer"], first.sizes["head"])
    flips = thresholds.flips or max(FEWEST_FLIPS, int(np.ceil(np.prod(shape) * len(FUNCTIONS) / thresholds.alpha)))
    flips = flips if flips <= MOST_FLIPS else 0
    rows = [_of_task(task, scores, thresholds, flips) for task, scores in tasks.items()]
    found = {name: np.stack([row[name] for row in rows]).reshape(shape) for name in rows[0] if name not in (*OF_RULE, *OF_TASK)}
    p, large = (np.stack([row[name] for row in rows], axis=1).reshape(len(FUNCTIONS), *shape) for name in OF_RULE)
    q = corrected(p)
    decidable, yes = np.isfinite(p), (q <= thresholds.alpha) & large
    function = np.select(list(yes), list(FUNCTIONS), NONE).astype(object)
    function[(function == NONE) & ~decidable.all(axis=0)] = UNDECIDABLE
    verdict = np.select([yes, decidable], ["yes", "no"], UNDECIDABLE).astype(object)
    polysemantic = np.sum([(function[[task != OVERALL for task in tasks]] == rule).any(axis=0) for rule in FUNCTIONS], axis=0) >= 2
    of_heads = ("task", "layer", "head")
    return xr.Dataset(
        {"function": (of_heads, function), "polysemantic": (of_heads[1:], polysemantic)}
        | {name: (of_heads, values) for name, values in found.items()}
        | {name: (("rule", *of_heads), x) for name, x in {"p": p, "q": q, "large": large, "verdict": verdict}.items()}
        | {name: ("task", [float(row[name]) for row in rows]) for name in OF_TASK}
        | {"smallest_q": ("task", _smallest_q(found, int(decidable.sum(axis=(1, 2, 3)).max()), flips))},
        coords={"task": list(tasks), "rule": list(FUNCTIONS), "layer": first["layer"].values, "head": first["head"].values},
        attrs={"test": f"sign flips, {flips}" if flips else "Student's t"},
    )


def _smallest_q(found: Mapping[str, np.ndarray], family: int, flips: int) -> list[float]:
    """The smallest q [task] that one head alone can have, among as many p-values of its function."""
    samples = np.maximum(found["samples_with_object"], found["samples_with_outliers"]).max(axis=(1, 2))
    return [min(1.0, len(FUNCTIONS) * family * resampling.smallest_p(int(n), flips) / 2) if flips and n else 0.0 for n in samples]


def functions(of_samples: xr.Dataset, thresholds: Thresholds | None = None) -> xr.Dataset:
    """`judge` of one task: the same without the dim `task`.

    >>> from analysis.functions.samples import score_samples
        >>> objects = np.eye(16)[np.arange(24) % 5]  # sample, patch: an object of one patch that wanders
        >>> maps = np.random.default_rng(0).uniform(1, 2, (24, 1, 6, 16))
        >>> maps[:, 0, 2] += 20 * objects
        >>> attention = xr.Dataset(
        ...     {"attention": (("sample", "layer", "head", "patch"), maps), "object_share": (("sample", "patch"), objects)},
        ...     coords={"category": ("sample", ["colour"] * 24)},
        ... )
        >>> found = functions(score_samples(attention))
        >>> found["verdict"].sel(rule="object_detection").values[0].tolist()
        ['no', 'no', 'yes', 'no', 'no', 'no']
        >>> [round(float(found[name][0, 2]), 2) for name in ("object_gain", "object_gain_low", "object_gain_high", "auroc")]
        [0.36, 0.35, 0.36, 1.0]
    """
    return judge({OVERALL: of_samples}, thresholds).isel(task=0, drop=True)


def _of_task(task: str, scores: xr.Dataset, t: Thresholds, flips: int) -> dict[str, np.ndarray]:
    """What `judge` finds in one task: each [head], `OF_RULE` [rule, head], `OF_TASK` numbers."""
    values = {
        name: scores[name].transpose("sample", "layer", "head").values.reshape(scores.sizes["sample"], -1)
        for name in (*OF_OBJECT, *OF_OUTLIERS)
    }
    values |= {f"{name}_gain": values["object_mass"] - values[f"{of}_object_mass"] for name, of in (("object", "mean"), ("even", "even"))}
    found = {name: mean[0] for name, mean in means(values, np.ones((1, scores.sizes["sample"])))}
    if t.resamples:
        strata = scores["stratum" if "stratum" in scores.coords else "category"].values.astype(str)
        weights = stratified_weights(strata, t.resamples, resampling.stream(t.seed, "bootstrap", task))
        wanted = {name: of_samples for name, of_samples in values.items() if name not in BASELINES or name in KEPT}
        for name, resampled in means(wanted, weights):
            if name not in BASELINES:
                found[f"{name}_low"], found[f"{name}_high"] = interval(resampled, t.confidence)
    found["object_gain_z"], found["outlier_ratio_z"] = standard_errors(values["object_gain"]), standard_errors(values["outlier_ratio"] - 1)
    found["samples_with_object"] = np.isfinite(values["object_gain"]).sum(axis=0)
    found["samples_with_outliers"] = np.isfinite(values["outlier_ratio"]).sum(axis=0)
    of_task = {
        name: np.asarray(weighted_mean(scores[name].values[:, None], np.ones((1, scores.sizes["sample"])))[0, 0]) for name in OF_TASK
    }
    return found | of_task | {"p": _p_values(values, task, t, flips), "large": _large(found, t)}


def _p_values(values: Mapping[str, np.ndarray], task: str, t: Thresholds, flips: int) -> np.ndarray:
    """p [rule, head], the largest of each rule's tests; NaN where one has too few samples and none of the others fails."""
    tests = [(number, one.score, t.value(one.null), one.side) for number, of in enumerate(FUNCTIONS.values()) for one in of.tests]
    deviations = {(name, value): values[name] - value for _, name, value, _ in tests}
    generator = resampling.stream(t.seed, "flips", task)
    together = two_sided_p(np.concatenate(list(deviations.values()), axis=1), flips, generator)
    of_test = dict(zip(deviations, np.split(together, len(deviations)), strict=True))
    shape = (len(FUNCTIONS), len(together) // len(deviations))
    p, lacking = np.zeros(shape), np.zeros(shape, dtype=bool)
    for at, name, value, side in tests:
        x = deviations[name, value]
        enough = np.isfinite(x).sum(axis=0) >= t.min_samples
        of_side = one_sided(of_test[name, value], np.sign(np.nansum(x, axis=0)), side)
        p[at] = np.maximum(p[at], np.where(enough, of_side, 0))
        lacking[at] |= ~enough
    return np.where(lacking & (p <= t.alpha), np.nan, p)


def _large(found: Mapping[str, np.ndarray], t: Thresholds) -> np.ndarray:
    """Whether the means of each head pass all floors of a function [rule, head]; a missing one does not."""

    def passes(floor: Floor) -> np.ndarray:
        mean, limit = found[floor.score], t.value(floor.limit)
        return mean >= limit if floor.side > 0 else mean <= limit

    return np.stack([np.all([passes(floor) for floor in of.floors], axis=0) for of in FUNCTIONS.values()])
