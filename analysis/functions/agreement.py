"""Do heads do what their function says? Head functions and effects of patching -> a row a model, corruption, task and function.

The entry of a function says the sign that is expected of the effect of its heads: object detection should carry the answer, so that putting
the clean state into the corrupt run raises the logit difference. In the noising direction signs are exchanged. Functions are read from
attention in the clean run, effects from patched runs: neither is computed from the other.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from analysis import products
from analysis.functions.registry import FUNCTIONS, OVERALL, Thresholds, labels
from analysis.functions.statistics import stratified_weights
from analysis.heads.head_effects import HeadEffects, read_head_effects
from analysis.heads.options import HeadEffectsOptions
from analysis.stats.resampling import percentile_interval, stream
from analysis.store.folder import DAMAGED, EffectsFile, ResultsError, damaged, effects_files

SHUFFLES = 10_000
COLUMNS = (
    *("model", "corruption", "direction", "task", "function", "samples", "heads", "mean_effect", "low", "high", "share_positive"),
    *("expected_in_layers", "p_in_layers", "q_in_layers", "expected_sign", "agrees"),
)


def agreement(
    results: Path, found: dict[str, xr.Dataset], thresholds: Thresholds | None = None, metric: str = "logit_difference"
) -> pd.DataFrame:
    """How large the effects of the heads of each function are, under every corruption of which there are effects of heads.

    Parameters
    ----------
    found : as `head_functions.find` gives it; a model whose attention is of another component than its patched heads is left out.
    metric : the effect; see `interventions.results.metrics`.

    Returns
    -------
    One row for each function that any head has in a task, "overall" being all samples:
        samples, heads : numbers behind it
        mean_effect, low, high : mean over these heads and samples, in the metric's unit; percentile bootstrap over samples, by task
        share_positive : share of these heads whose mean effect is above 0
        expected_in_layers, p_in_layers : mean effect of as many random heads of the same layers, and two-sided p that these heads are such
            (`random_heads_p`); q_in_layers after Benjamini and Hochberg over the model's rows
        expected_sign : 1 or -1 where the function says the sign, else 0
        agrees : "yes" where the interval lies on the expected side of 0, "no" where on the other, else "undecided"; "" without one

    >>> from analysis.head_functions import find
    >>> found = find(Path("results"), Thresholds(permutations=0))
    >>> rows = agreement(Path("results"), found)
    >>> rows = rows[(rows["task"] == "overall") & (rows["corruption"] == "sip") & (rows["expected_sign"] != 0)]
    >>> rows[["function", "heads", "expected_sign", "agrees"]].values.tolist()
    [['object_detection', 1, 1, 'yes'], ['object_suppression', 1, -1, 'no']]
    """
    thresholds = thresholds or Thresholds()
    rows: list[dict[str, object]] = []
    for model, functions in found.items():
        component = functions.attrs.get("component")
        files = [f for f in effects_files(results) if f.model == model and f.heads and component in (None, f.component)]
        for corruption in sorted({file.corruption for file in files}):
            under = [file for file in files if file.corruption == corruption]
            noising = "direction" in (products.names_in(products.HEADS, under[0].path, results) or {})
            rows += _under(_effects(results, under, metric), functions, corruption, noising, thresholds)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    for _, of_model in frame.groupby("model"):
        tested = of_model.index[of_model["p_in_layers"].notna()]
        if len(tested):
            frame.loc[tested, "q_in_layers"] = stats.false_discovery_control(frame.loc[tested, "p_in_layers"].astype("float64"))
    return frame


def _effects(results: Path, files: list[EffectsFile], metric: str) -> HeadEffects:
    """The effects of all heads under one corruption, whatever its modality."""
    model, corruption = files[0].model, files[0].corruption
    try:
        with xr.open_dataset(files[0].path, engine="netcdf4") as dataset:
            modality = dataset.attrs["modality"]
    except DAMAGED as error:
        raise damaged(files[0].path) from error
    names = {"image_corruption": "", "text_corruption": ""} | {f"{modality}_corruption": corruption}
    return read_head_effects(results, HeadEffectsOptions(metric=metric, component=files[0].component, **names))[model].complete()


def _under(effects: HeadEffects, functions: xr.Dataset, corruption: str, noising: bool, t: Thresholds) -> Iterator[dict[str, object]]:
    """The rows of one model and corruption."""
    tasks = effects.of(corruption)
    there = next(iter(tasks.values()))["layer"].values
    functions = functions.isel(layer=np.isin(functions["layer"].values, there))
    shape = (functions.sizes["layer"], functions.sizes["head"])
    if any(values.shape[1:] != shape for values in tasks.values()):
        sizes = next(iter(tasks.values())).shape[1:]
        raise ResultsError(f"{effects.model}: attention has {shape} (layers, heads), effects {sizes}; delete the stale files")
    everything = {task: [(task, values.values)] for task, values in tasks.items() if task in functions["task"].values}
    for task, parts in {OVERALL: [part for of_task in everything.values() for part in of_task], **everything}.items():
        if not parts:
            continue
        x = np.concatenate([values.reshape(len(values), -1) for _, values in parts])
        strata = np.concatenate([np.full(len(values), name, dtype=object) for name, values in parts])
        named = functions["function"].sel(task=task).values
        weights = stratified_weights(strata, t.resamples, stream(t.seed, "agreement", corruption, task)) / len(x)
        for function in labels(named.ravel()):
            heads = named == function
            if not heads.any():
                continue
            mean = x.mean(axis=0)
            of_heads = x[:, heads.ravel()].mean(axis=1)
            low, high = percentile_interval(weights @ of_heads, t.confidence) if t.resamples else (np.nan, np.nan)
            expected, p = random_heads_p(mean.reshape(shape), heads, stream(t.seed, "random heads", corruption, task, function))
            sign = (FUNCTIONS[function].expected_sign if function in FUNCTIONS else 0) * (-1 if noising else 1)
            yield {
                **{"model": effects.model, "corruption": corruption, "direction": "noising" if noising else "denoising"},
                **{"task": task, "function": function, "samples": len(x), "heads": int(heads.sum())},
                **{"mean_effect": float(of_heads.mean()), "low": float(low), "high": float(high)},
                "share_positive": float((mean[heads.ravel()] > 0).mean()),
                **{"expected_in_layers": expected, "p_in_layers": p, "q_in_layers": np.nan},
                **{"expected_sign": sign, "agrees": agrees(sign, float(low), float(high))},
            }


def agrees(sign: int, low: float, high: float) -> str:
    """Whether an interval of effects lies on the expected side of 0; "" where no side is expected.

    >>> agrees(1, 0.1, 0.3), agrees(1, -0.3, -0.1), agrees(-1, -0.1, 0.2), agrees(0, 0.1, 0.3)
    ('yes', 'no', 'undecided', '')
    """
    if not sign:
        return ""
    below, above = sorted((sign * low, sign * high)) if np.isfinite(low) else (-np.inf, np.inf)
    return "yes" if below > 0 else "no" if above < 0 else "undecided"


def random_heads_p(effect: np.ndarray, heads: np.ndarray, generator: np.random.Generator, shuffles: int = SHUFFLES) -> tuple[float, float]:
    """The mean effect of as many random heads of each layer, and the two-sided p that these heads are such.

    p is twice the smaller of the shares of random sets whose mean is at least, and at most, that of these heads, each (1 + number) /
    (1 + shuffles) (Phipson and Smyth 2010). It asks for more than a large effect: heads that matter lie in some layers, whatever they
    look at.

    Parameters
    ----------
    effect : [layer, head]
    heads : bool [layer, head]

    Returns
    -------
    expected, p; p is 1 where every layer has all or none of its heads in the set.

    >>> effect = np.array([[0.0, 0.0, 0.0, 1.0]])
    >>> expected, p = random_heads_p(effect, effect > 0, np.random.default_rng(0))
    >>> expected, round(p, 1)
    (0.25, 0.5)
    """
    chosen = heads.sum(axis=1)
    expected = float((effect.mean(axis=1) * chosen).sum() / heads.sum())
    mixed = (chosen > 0) & (chosen < heads.shape[1])
    if not mixed.any():
        return expected, 1.0
    seen = effect[mixed][heads[mixed]].sum()
    random = np.zeros(shuffles)
    for of_layer, count in zip(effect[mixed], chosen[mixed], strict=True):
        random += generator.permuted(np.broadcast_to(of_layer, (shuffles, len(of_layer))), axis=1)[:, :count].sum(axis=1)
    equal = 1e-9 * (1 + np.abs(effect).sum())
    tails = (random >= seen - equal).sum(), (random <= seen + equal).sum()
    return expected, float(min(1.0, 2 * (1 + min(tails)) / (1 + shuffles)))
