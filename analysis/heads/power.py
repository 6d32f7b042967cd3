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

from analysis.heads.measured import Measured
from analysis.heads.robust_rule import RobustRule, complete, judge
from analysis.stats.resampling import stream

SIZES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.5)
SAMPLES = (25, 50, 100, 200, 500)
COLUMNS = ("model", "samples", "size", "noise", "runs", "power", "notice_power", "false_runs", "notice_false_runs")
SYMMETRIC, SKEWED = "symmetric", "as measured"


def simulate(
    effects: Measured, samples: int, planted: np.ndarray, size: float, generator: np.random.Generator, *, symmetric: bool = True
) -> Measured:
    """A study of the same tasks and corruptions with this many samples in each task, in which only the planted heads have an effect.

    Parameters
    ----------
    planted : bool [layer, head]
    size : effect of a planted head, in the root mean square over heads of the SD over samples in each task (Cohen's d of an average head)
    symmetric : give each sample a random sign; without, noise keeps the skewness it has in the study

    >>> from pathlib import Path
    >>> from analysis.heads.measured import Measure, measured
    >>> effects = measured(Path("results"), Measure())["blip-small"]
    >>> planted = np.zeros((4, 6), dtype=bool)
    >>> planted[2, 3] = True
    >>> made = simulate(effects, 500, planted, 1.0, np.random.default_rng(0)).effects["sip", "shapes/colour"]
    >>> means = abs(made.mean("sample"))
    >>> dict(made.sizes), {dim: int(at) for dim, at in means.argmax(("layer", "head")).items()}
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
    effects: Measured,
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
    >>> from analysis.heads.measured import Measure, measured
    >>> effects = measured(Path("results"), Measure())["blip-small"]
    >>> rows = power(effects, RobustRule(), sizes=(0.0, 1.5), samples=(50,), runs=4)
    >>> rows[["samples", "size", "noise", "power", "false_runs"]]
       samples  size        noise  power  false_runs
    0       50   0.0    symmetric    NaN         0.0
    1       50   1.5    symmetric    1.0         0.0
    2       50   0.0  as measured    NaN         0.0
    """
    effects = complete(effects)
    rule = replace(rule, test="t", resamples=0)
    cells = [(size, n, SYMMETRIC) for size in sizes for n in samples] + [(0.0, n, SKEWED) for n in samples if 0 in sizes]
    rows = []
    for size, n, noise in tqdm(cells, desc=f"{effects.model}: simulated studies", unit=f"x{runs} studies", leave=False):
        streams = [stream(rule.seed, "power", str(size), str(n), noise, str(run)) for run in range(runs)]
        found = [_run(effects, rule, n, size, noise, planted, generator) for generator in streams]
        means = dict(zip(("power", "false_runs", "notice_power", "notice_false_runs"), np.mean(found, axis=0), strict=True))
        rows.append({"model": effects.model, "samples": n, "size": size, "noise": noise, "runs": runs} | means)
    return pd.DataFrame(rows)


def _run(
    effects: Measured, rule: RobustRule, samples: int, size: float, noise: str, planted: int, generator: np.random.Generator
) -> list[float]:
    """Of the robust rule and of NOTICE's: the share of planted heads that are universal (NaN without any), and whether others are."""
    first = next(iter(effects.effects.values()))
    where = np.zeros((first.sizes["layer"], first.sizes["head"]), dtype=bool)
    if size:
        where.ravel()[generator.choice(where.size, planted, replace=False)] = True
    found = judge(simulate(effects, samples, where, size, generator, symmetric=noise == SYMMETRIC), rule)
    numbers = []
    for name in ("universal", "notice_universal"):
        named = found[name].values
        numbers += [float(named[:, where].mean()) if size else np.nan, float(named[:, ~where].any())]
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
        for name, prefix in (("robust rule", ""), ("NOTICE's rule", "notice_")):
            table = of_model[of_model["size"] > 0].pivot(index="size", columns="samples", values=f"{prefix}power")
            for noise, none in of_model[of_model["size"] == 0].groupby("noise", sort=False):
                table.loc[f"no effect, noise {noise}"] = none.set_index("samples")[f"{prefix}false_runs"]
            lines.append(f"{model}, {name}: share of studies that name a head, by its effect (SD of an average head) and a task's samples")
            lines += [table.to_string(float_format="%.2f"), ""]
    return "\n".join(lines)
