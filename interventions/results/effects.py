"""The schema of effects: what a patched run stores, how it is written, and the metrics derived from it.

One `xarray.Dataset` per (model, data set, corruption, component, heads or whole module), in NetCDF4. A patched run stores three numbers,
`logit_correct`, `logit_incorrect` and `log_normalizer` (logsumexp of the logits over the vocabulary), all at the answer position:

=====================  ==============================  ==========================================================================
name                   dims                            what
=====================  ==============================  ==========================================================================
<measurement>          sample[, draw], layer[, head],  of the corrupt run with the clean state put in at that site (float32); with
                       token                           the attribute direction = "noising", of the clean run with the corrupt state
clean_<measurement>    sample                          of the clean run
corrupt_<measurement>  sample[, draw]                  of the corrupt run
kl_from_clean,         as the measurements             where --divergence was given: KL(clean run || this run) over the vocabulary, in
corrupt_kl_from_clean                                  nats
token_role             sample, token                   what the token is in this question ("" where a prompt is shorter)
token_text             sample, token                   the token's text
sample                 sample                          sample id (an index)
layer, head            layer, head                     counted from 0 (indexes); with the attribute window = n, the centre of n layers
draw                   draw                            of the noise, where the corruption is noise: metrics are averaged over draws
token                  token                           for heads: a role, e.g. "correct", "last" or "all" (every position at once);
                                                       for whole modules: the number of the prompt's token, all image tokens of
                                                       a causal decoder being one
category               sample                          the task
correct_answer,        sample                          the two options
incorrect_answer
correct_first          sample                          whether the correct option comes first (bool)
clean_prompt,          sample                          the whole prompts
corrupt_prompt
=====================  ==============================  ==========================================================================

Cells past the end of a shorter prompt are NaN. Attributes name the model, the data and the program. This module needs numpy and
xarray alone, so that results can be analysed where there is no torch.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import xarray as xr

from interventions.results.metrics import METRICS, Run, Runs, metric

MEASUREMENTS = ("logit_correct", "logit_incorrect", "log_normalizer")
DIVERGENCE = "kl_from_clean"  # a fourth measurement, where it was asked for
MEASURED = (*MEASUREMENTS, DIVERGENCE)  # in the order in which a run's measurements are stored
CHUNK = 2**20  # bytes that are compressed together in a file
SAMPLE_COORDINATES = ("category", "correct_answer", "incorrect_answer", "correct_first", "clean_prompt", "corrupt_prompt")
DESCRIPTIONS = {
    "logit_correct": "logit of the correct answer in the patched run",
    "logit_incorrect": "logit of the incorrect answer in the patched run",
    "log_normalizer": "logsumexp of the logits over the vocabulary in the patched run",
    **{f"{run}_logit_correct": f"logit of the correct answer in the {run} run" for run in ("clean", "corrupt")},
    **{f"{run}_logit_incorrect": f"logit of the incorrect answer in the {run} run" for run in ("clean", "corrupt")},
    **{f"{run}_log_normalizer": f"logsumexp of the logits over the vocabulary in the {run} run" for run in ("clean", "corrupt")},
    DIVERGENCE: "Kullback-Leibler divergence KL(clean || patched) over the vocabulary, in nats",
    "token_role": "what the token is in its question",
    "category": "the task",
    "correct_first": "whether the correct option comes first in the question",
}
REQUIRED_ATTRIBUTES = ("model", "dataset", "corruption", "modality", "component", "granularity", "main_token")


class SchemaError(ValueError):
    """A dataset that is not effects: says what was wanted and what was there."""


def validate(effects: xr.Dataset) -> xr.Dataset:
    """Return `effects` unchanged if it follows the schema, else raise `SchemaError` naming everything that is wrong.

    >>> heads = read(Path("results/blip-small/shapes/sip/cross_attention-heads.nc"))
    >>> validate(heads) is heads
    True
    >>> try:
    ...     validate(heads.drop_vars("category"))
    ... except SchemaError as error:
    ...     print(error)
    not a dataset of effects: variable 'category' ('sample',) is missing
    """
    heads = effects.attrs.get("granularity") == "heads"
    draws = ("draw",) if "draw" in effects.dims else ()
    dims = ("sample", *draws, "layer", *(("head",) if heads else ()), "token")
    problems = [f"attribute {name!r} is missing" for name in REQUIRED_ATTRIBUTES if name not in effects.attrs]
    wanted: dict[str, tuple[str, ...]] = dict.fromkeys(MEASUREMENTS, dims)
    wanted |= {f"clean_{name}": ("sample",) for name in MEASUREMENTS} | {f"corrupt_{name}": ("sample", *draws) for name in MEASUREMENTS}
    wanted |= dict.fromkeys(SAMPLE_COORDINATES, ("sample",)) | dict.fromkeys(("token_role", "token_text"), ("sample", "token"))
    for name, expected in wanted.items():
        if name not in effects.variables:
            problems.append(f"variable {name!r} {expected} is missing")
        elif effects[name].dims != expected:
            problems.append(f"variable {name!r} has dims {effects[name].dims}, wanted {expected}")
    problems += [f"index {dim!r} is missing" for dim in dims if dim not in effects.indexes]
    if problems:
        advice = ""
        if len(problems) == 1 and "modality" not in effects.attrs:
            advice = ". An earlier version of the program wrote it: delete the file, and run the command that made it again"
        raise SchemaError("not a dataset of effects: " + "; ".join(problems) + advice)
    return effects


def write(dataset: xr.Dataset, path: Path) -> None:
    """Write NetCDF4, compressed, to a temporary name in the same folder, then rename: never half a file.

    Raises
    ------
    OSError
        When the folder is not writable or the disk is full; the message names the file, and nothing of it is left behind.

    >>> mlp = read(Path("results/blip-small/shapes/sip/mlp.nc"))
    >>> write(mlp, Path("copy.nc"))
    >>> read(Path("copy.nc")).identical(mlp)
    True
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = {name: variable for name, variable in dataset.variables.items() if variable.dtype.kind in "fiub" and variable.size}
    packed = {name: {"zlib": True, "complevel": 4, "chunksizes": _chunks(variable)} for name, variable in numbers.items() if variable.ndim}
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        dataset.to_netcdf(temporary, engine="netcdf4", encoding=packed)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise OSError(f"could not write {path}: {error}. Nothing was changed; free some space or choose another folder (--out).") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _chunks(variable: xr.Variable) -> tuple[int, ...]:
    """As many whole rows of the first dimension (samples) as make a MiB, so that one sample can be read without the others."""
    rows, *rest = variable.shape
    of_a_row = variable.nbytes // rows
    return (max(1, min(rows, CHUNK // of_a_row)), *rest)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read(path: Path) -> xr.Dataset:
    """Load one file of effects into memory, and validate it.

    Raises
    ------
    FileNotFoundError, SchemaError
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no effects at {path}; make them with interventions/head_patching.py or interventions/module_patching.py")
    with xr.open_dataset(path) as dataset:
        return validate(dataset.load())


def read_tree(results: Path) -> xr.DataTree:
    """Every NetCDF file below `results/<model>/<dataset>/`, as one tree: /model/dataset[/corruption]/component[-heads] or attention.

    >>> tree = read_tree(Path("results"))
    >>> tree["blip-small/shapes/sip/mlp"].to_dataset().effects.logit_difference().dims
    ('sample', 'layer', 'token')
    """
    results = Path(results)
    files = sorted(results.glob("*/*/*.nc")) + sorted(results.glob("*/*/*/*.nc"))
    if not files:
        raise FileNotFoundError(f"no results below {results}; run `python run_all.py --out {results}` first")
    datasets: Mapping[str, xr.Dataset] = {str(f.relative_to(results).with_suffix("")): xr.open_dataset(f) for f in files}
    return xr.DataTree.from_dict(dict(datasets))


@xr.register_dataset_accessor("effects")
class Effects:
    """The metrics of a dataset of effects, each a `DataArray` with the dims of the measurements (or `sample`, for a baseline); those of
    `interventions.results.metrics` are verbs here.

    An effect is that of the patched run minus that of the run that was patched: the corrupt one, or in the noising direction the
    clean one. Where the corruption is noise, effects are means over its draws; `each_draw` gives them one by one.

    Formulas are those of NOTICE, section 3 (metrics), and of Zhang and Nanda, "Towards best practices of activation patching".

    >>> one = xr.Dataset({"logit_correct": (("sample", "layer"), [[2.0, 4.0]]), "logit_incorrect": (("sample", "layer"), [[0.0, 0.0]])})
    >>> one = one.assign(clean_logit_correct=("sample", [5.0]), corrupt_logit_correct=("sample", [1.0]))
    >>> one = one.assign({f"{run}_logit_incorrect": ("sample", [0.0]) for run in ("clean", "corrupt")})
    >>> one.effects.logit_difference().values, one.effects.normalized_effect().values
    (array([[1., 3.]]), array([[0.25, 0.75]]))
    >>> one.effects.logit_difference_of("clean").values
    array([5.])
    >>> one.attrs["direction"] = "noising"  # then the patched run is the clean one
    >>> one.effects.base, one.effects.logit_difference().values
    ('clean', array([[-3., -1.]]))
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def base(self) -> str:
        """The run that states were put into: "corrupt", or "clean" in the noising direction."""
        return "clean" if self._dataset.attrs.get("direction") == "noising" else "corrupt"

    def each_draw(self) -> Iterator[xr.Dataset]:
        """The effects of each draw of the noise, or the one dataset where there is none.

        >>> one = xr.Dataset({"logit_correct": (("sample", "draw"), [[1.0, 2.0]])})
        >>> [float(draw["logit_correct"].item()) for draw in one.effects.each_draw()]
        [1.0, 2.0]
        """
        if "draw" in self._dataset.dims:
            yield from (self._dataset.isel(draw=number, drop=True) for number in range(self._dataset.sizes["draw"]))
        else:
            yield self._dataset

    def run(self, name: str = "patched") -> Run:
        """The measurements of the "patched", "clean" or "corrupt" run, in float64, and what follows from them.

        >>> heads = read(Path("results/blip-small/shapes/sip/cross_attention-heads.nc"))
        >>> float(heads.effects.run("corrupt").log_probability[0])
        -4.0
        """
        if name not in ("patched", "clean", "corrupt"):
            raise ValueError(f"run {name!r} is not one of patched, clean, corrupt")

        def measured(measurement: str) -> xr.DataArray | float:
            if (name, measurement) == ("clean", DIVERGENCE):
                return 0.0
            return self._variable(measurement if name == "patched" else f"{name}_{measurement}").astype("float64")

        return Run(measured)

    def logit_difference_of(self, run: str = "patched") -> xr.DataArray:
        """LD = logit(correct) - logit(incorrect) of one run.

        >>> heads = read(Path("results/blip-small/shapes/sip/cross_attention-heads.nc"))
        >>> float(heads.effects.logit_difference_of("clean")[0]), float(heads.effects.logit_difference_of("corrupt")[0])
        (3.0, -1.0)
        """
        return self.run(run).logit_difference

    def probability_of(self, run: str = "patched") -> xr.DataArray:
        """P(correct answer), over the whole vocabulary, of one run.

        >>> heads = read(Path("results/blip-small/shapes/sip/cross_attention-heads.nc"))
        >>> float(heads.effects.probability_of("clean")[0].round(3))  # exp(5 - 5)
        1.0
        """
        return self.run(run).probability

    def log_odds_of(self, run: str = "patched") -> xr.DataArray:
        """log P(correct) / (1 - P(correct)) of one run.

        >>> heads = read(Path("results/blip-small/shapes/sip/cross_attention-heads.nc"))
        >>> round(float(heads.effects.log_odds_of("corrupt")[0]), 3)  # P = exp(-4)
        -3.982
        """
        return self.run(run).log_odds

    def _variable(self, name: str) -> xr.DataArray:
        if name not in self._dataset:
            there = ", ".join(map(str, self._dataset.data_vars))
            title = self._dataset.attrs.get("title", "a dataset")
            raise SchemaError(f"the metric needs the variable {name!r}, which the file ({title}) lacks; there are {there}")
        return self._dataset[name]

    def metric(self, name: str) -> xr.DataArray:
        """A metric by its name (see `interventions.results.metrics`); `effects.<name>()` is the same.

        Raises
        ------
        MetricError, SchemaError
            There is no such metric; the file lacks a measurement that it needs.

        >>> mlp = read(Path("results/blip-small/shapes/sip/mlp.nc"))
        >>> mlp.effects.metric("logit_difference").identical(mlp.effects.logit_difference())
        True
        """
        source = "corrupt" if self.base == "clean" else "clean"
        effect = metric(name).formula(Runs(self.run(), self.run(self.base), self.run(source)))
        return (effect.mean("draw") if "draw" in effect.dims else effect).rename(name)

    def __getattr__(self, name: str) -> Callable[[], xr.DataArray]:
        if name in METRICS:
            return partial(self.metric, name)
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}; metrics are {', '.join(METRICS)}")

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *METRICS])

    def by_role(self, metric: str = "logit_difference") -> xr.DataArray:
        """Whole-module effects averaged over the tokens of each role in each sample: dims sample, layer[, head], role.

        NaN where a sample has no token of a role. Roles are in the order in which they first appear in a prompt.

        >>> mlp = read(Path("results/blip-small/shapes/sip/mlp.nc"))
        >>> by_role = mlp.effects.by_role()
        >>> by_role.dims, by_role["role"].values.tolist()
        (('sample', 'layer', 'role'), ['[CLS]', 'question', 'noun', 'correct', 'or', 'incorrect', '?', '[SEP]'])
        >>> by_role.sel(role="noun").mean("sample").values.round(1) + 0.0
        array([0. , 0.4, 0.6, 1. ])
        """
        values = self.metric(metric)
        roles = self._dataset["token_role"]
        order = dict.fromkeys(str(role) for row in roles.values for role in row if role)
        columns = [values.where(roles == role).mean("token") for role in order]
        return xr.concat(columns, xr.Variable("role", list(order))).transpose(..., "role")
