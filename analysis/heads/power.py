"""How large an effect a rule finds, and how often it names a head that has none: studies simulated from the effects of a real one.

The noise is that of the study: its samples, each head's mean taken away, drawn with replacement and each with a random sign. So heads
are as correlated, as unequal and as heavy-tailed as they are there, and none has an effect but those that are planted.

Sign flips want noise that is symmetric. Without the random signs it is as skewed as in the study, which shows what that costs.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

from analysis.heads.head_effects import HeadEffects, means_of_tasks
from analysis.heads.options import RobustRule
from analysis.heads.rules import RULES, universal
from analysis.stats.resampling import stream

SIZES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.5)
SAMPLES = (25, 50, 100, 200, 500)
ORDERED_RULES = tuple(reversed(RULES))  # the robust rule, which the simulations are for, first
SHARES = tuple(column for rule in ORDERED_RULES for column in (rule.power, rule.false_runs))
COLUMNS = ("model", "samples", "size", "noise", "runs", *SHARES)
SYMMETRIC, SKEWED = "symmetric", "as measured"


def simulate(
    effects: HeadEffects, samples: int, planted: np.ndarray, size: float, generator: np.random.Generator, *, symmetric: bool = True
) -> HeadEffects:
    """A study of the same tasks and corruptions with this many samples in each task, in which only the planted heads have an effect.

    Parameters
    ----------
    planted : bool [layer, head]
    size : effect of a planted head, in the root mean square over heads of the SD over samples in each task (Cohen's d of an average head)
    symmetric : give each sample a random sign; without, noise keeps the skewness it has in the study

    >>> from pathlib import Path
    >>> from analysis.heads.head_effects import read_head_effects
    >>> effects = read_head_effects(Path("results"), RobustRule())["blip-small"]
    >>> planted = np.zeros((4, 6), dtype=bool)
    >>> planted[2, 3] = True
    >>> simulated = simulate(effects, 500, planted, 1.0, np.random.default_rng(0)).effects["sip", "shapes/colour"]
    >>> means = abs(simulated.mean("sample"))
    >>> dict(simulated.sizes), {dim: int(at) for dim, at in means.argmax(("layer", "head")).items()}
    ({'sample': 500, 'layer': 4, 'head': 6}, {'layer': 2, 'head': 3})
    """

    def of_task(values: xr.DataArray) -> xr.DataArray:
        x = values.transpose("sample", "layer", "head").values
        noise = x - x.mean(axis=0)
        drawn = noise[generator.integers(len(noise), size=samples)]
        signs = generator.choice([-1.0, 1.0], size=(samples, 1, 1)) if symmetric else 1.0
        effect = size * np.sqrt((noise**2).mean()) * planted
        coords = {name: values[name].values for name in ("layer", "head")}
        return xr.DataArray(drawn * signs + effect, dims=("sample", "layer", "head"), coords=coords)

    return replace(effects, effects={key: of_task(values) for key, values in effects.effects.items()})


def power(
    effects: HeadEffects,
    rule: RobustRule,
    sizes: Sequence[float] = SIZES,
    samples: Sequence[int] = SAMPLES,
    *,
    planted: int = 1,
    runs: int = 100,
) -> pd.DataFrame:
    """The power of the robust rule and of NOTICE's to name planted heads universal, and the share of studies in which either names another.

    Planted heads are drawn anew in each run and have the same effect under every corruption and in every task. The robust rule tests with
    Student's t, which its sign flips tend to.

    Returns
    -------
    One row for each size and number of samples: model, samples (of a task), size (see `simulate`), noise, runs; power and notice_power, the
    mean share of (planted head, corruption) that is universal; false_runs and notice_false_runs, the share of runs in which any other head
    is. At size 0 there are two: noise is symmetric, as the test wants it, or as measured, as skewed as it is in the study.

    >>> from pathlib import Path
    >>> from analysis.heads.head_effects import read_head_effects
    >>> effects = read_head_effects(Path("results"), RobustRule())["blip-small"]
    >>> rows = power(effects, RobustRule(), sizes=(0.0, 1.5), samples=(50,), runs=4)
    >>> rows[["samples", "size", "noise", "power", "false_runs"]]
       samples  size        noise  power  false_runs
    0       50   0.0    symmetric    NaN         0.0
    1       50   1.5    symmetric    1.0         0.0
    2       50   0.0  as measured    NaN         0.0
    """
    effects = effects.complete()
    effects.check_tasks(rule.at_least)
    cells = [(size, n, SYMMETRIC) for size in sizes for n in samples] + [(0.0, n, SKEWED) for n in samples if 0 in sizes]
    rows = []
    for size, n, noise in tqdm(cells, desc=f"{effects.model}: simulated studies", unit=f"x{runs} studies", leave=False):
        streams = [stream(rule.seed, "power", str(size), str(n), noise, str(run)) for run in range(runs)]
        named = [_run(effects, rule, n, size, noise, planted, generator) for generator in streams]
        shares = dict(zip((column for one in ORDERED_RULES for column in (one.power, one.false_runs)), np.mean(named, axis=0), strict=True))
        rows.append({"model": effects.model, "samples": n, "size": size, "noise": noise, "runs": runs} | shares)
    return pd.DataFrame(rows)


def _run(
    effects: HeadEffects, rule: RobustRule, samples: int, size: float, noise: str, planted: int, generator: np.random.Generator
) -> list[float]:
    """Of each rule: the share of planted heads that are universal (NaN without any), and whether others are."""
    where = np.zeros(effects.shape, dtype=bool)
    if size:
        where.ravel()[generator.choice(where.size, planted, replace=False)] = True
    study = simulate(effects, samples, where, size, generator, symmetric=noise == SYMMETRIC)
    means = means_of_tasks(study)
    numbers = []
    for one in ORDERED_RULES:
        heads = universal(one.evidence(means, rule.deviations, rule.alpha), study.ran, rule.at_least, rule.alpha)
        numbers += [float(heads[:, where].mean()) if size else np.nan, float(heads[:, ~where].any())]
    return numbers


def power_text(rows: pd.DataFrame) -> str:
    """`power` as tables to read: one for each model and rule, a row a size, a column a number of samples.

    >>> row = {"model": "m", "samples": 50, "size": 0.5, "noise": SYMMETRIC, "power": 0.75, "false_runs": 0.0}
    >>> text = power_text(pd.DataFrame([row | {"notice_power": 0.25, "notice_false_runs": 0.5}])).splitlines()
    >>> text[0]
    "m, robust rule: share of studies that name a head, by its effect (SD of an average head) and a task's samples"
    >>> text[1].split(), text[3].split()
    (['samples', '50'], ['0.5', '0.75'])
    """
    lines = []
    for model, of_model in rows.groupby("model"):
        for rule in ORDERED_RULES:
            table = of_model[of_model["size"] > 0].pivot(index="size", columns="samples", values=rule.power)
            for noise, none in of_model[of_model["size"] == 0].groupby("noise", sort=False):
                table.loc[f"no effect, noise {noise}"] = none.set_index("samples")[rule.false_runs]
            lines.append(
                f"{model}, {rule.title}: share of studies that name a head, by its effect (SD of an average head) and a task's samples"
            )
            lines += [table.to_string(float_format="%.2f"), ""]
    return "\n".join(lines)
