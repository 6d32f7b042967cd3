"""Judges of where in the layers something is: more in one third than in the others, most of it in the last third, or later than another."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from analysis.claims.outcome import FAILS, HOLDS, UNDECIDED, Estimate, Finding, NotRun, Undecidable, beyond, every
from analysis.claims.subject import SIP, Patching, Subject, by_role, enough_layers
from analysis.corruptions.statistics import NOISE, SEMANTIC, claim, compare
from analysis.stats.multiple_tests import holm
from analysis.stats.resampling import paired, stream
from analysis.stats.thirds import THIRDS, pairwise, size_by_third, thirds
from interventions.results.effects import MEASUREMENTS

ALPHA = 0.05
MOST = 0.5  # a share above it is most of the effect
CONSTRAINT = "noun"  # the role of the words that the corruption `constraint` replaces
MEASURED = (*MEASUREMENTS, *(f"clean_{name}" for name in MEASUREMENTS))


@dataclass(frozen=True)
class ByLayer:
    """Something that each layer has.

    Attributes
    ----------
    name : of one layer's mean
    means : [resample, layer, ...], of the samples as they are first
    """

    name: str
    means: np.ndarray
    note: str
    files: tuple[Path, ...]


def head_effects(subject: Subject) -> ByLayer:
    """Mean |LD effect| of the heads that NOTICE patches, under the image corruption."""
    (values,), path = subject.heads(SIP)
    enough_layers(values.sizes["layer"])
    means = subject.means(np.abs(values.values), "middle", subject.dataset)
    return ByLayer("mean |effect| of a head", means, "logits", (path,))


def restored(subject: Subject, component: str, window: int) -> tuple[xr.DataArray, Path]:
    """P_restored(O) - P_corrupted(O) at the constraint's tokens [sample, layer], and the file."""
    effects, path = subject.effects(Patching("constraint"), component, window=window)
    values = by_role(effects, "restoration_probability")
    if CONSTRAINT not in values["role"].values:
        raise Undecidable(f"no token has the role {CONSTRAINT!r}")
    return values.sel(role=CONSTRAINT).dropna("sample", how="all").transpose("sample", "layer"), path


def probability_restored(subject: Subject, component: str, window: int) -> ByLayer:
    """The mean of `restored`."""
    values, path = restored(subject, component, window)
    enough_layers(values.sizes["layer"])
    means = subject.means(values.values, "basu", component, subject.dataset)
    return ByLayer("probability restored a layer", means, f"{values.sizes['sample']} samples", (path,))


def drops(subject: Subject, *edges: str) -> tuple[np.ndarray, Path]:
    """The relative drop of P(answer) where each edge is blocked around each layer, and the file.

    Returns
    -------
    [sample, edge, layer], of the samples that have all these edges: the relative change of P of Zhang et al. with its sign turned
    """
    knockout, path = subject.first_file("attention_knockout*.nc", "knockout", MEASURED)
    if missing := [edge for edge in edges if edge not in knockout["edge"].values]:
        again = subject.command("knockout", edges=edges, overwrite=True)
        raise NotRun(f"{path.name} lacks {', '.join(missing)}", again)
    values = -knockout.effects.relative_change().sel(edge=list(edges)).transpose("sample", "edge", "layer").values
    values = values[np.isfinite(values).all(axis=(1, 2))]
    if len(values) < 2:
        raise Undecidable(f"{len(values)} sample(s) have {' and '.join(edges)}")
    enough_layers(values.shape[2])
    return values, path


def drop(subject: Subject, edge: str) -> ByLayer:
    """The mean of `drops` of one edge."""
    values, path = drops(subject, edge)
    means = subject.means(values, "knockout", edge, subject.dataset)[:, 0]
    return ByLayer("drop a layer", means, "relative drop of P(answer)", (path,))


def more_in(subject: Subject, third: str, by_layer: Callable[[Subject], ByLayer]) -> Finding:
    """Whether a layer of one third of the layers has more than one of each other third, on average."""
    values = by_layer(subject)
    number = thirds(values.means.shape[1])
    inner = tuple(range(1, values.means.ndim))
    means = {name: np.nanmean(values.means[:, number == at], axis=inner) for at, name in enumerate(THIRDS)}
    more = tuple(
        subject.estimate(f"{values.name}, {third} less {other}", means[third] - means[other]) for other in THIRDS if other != third
    )
    return Finding(every(map(beyond, more)), more, values.note, values.files)


def centre(means: np.ndarray) -> np.ndarray:
    """The mean layer, weighted by the drop where there is one: [resample, layer] -> [resample]; NaN where no layer has a drop.

    Examples
    --------
    >>> centre(np.array([[1.0, 0.0, -5.0, 3.0], [0.0, 2.0, 0.0, 0.0], [-1.0, -1.0, 0.0, 0.0]])).tolist()
    [2.25, 1.0, nan]
    """
    weight = np.maximum(means, 0)
    total = weight.sum(axis=1)
    return weight @ np.arange(means.shape[1]) / np.where(total > 0, total, np.nan)


def later(subject: Subject, late: str, early: str) -> Finding:
    """Whether the drop at one edge lies in later layers than that at another.

    Raises
    ------
    Undecidable
        When an edge's mean drop over layers is not clearly above 0: the centre of noise is where it is noisiest.
    """
    values, path = drops(subject, late, early)
    means = subject.means(values, "knockout", late, early, subject.dataset)
    centres = {}
    for number, edge in enumerate((late, early)):
        mean = subject.estimate(f"mean drop of {edge}", means[:, number].mean(axis=1))
        if beyond(mean) != HOLDS:
            raise Undecidable(f"{mean}: not clearly above 0, so it has no centre")
        centres[edge] = centre(means[:, number])
    more = subject.estimate(f"layers later, {late} than {early}", centres[late] - centres[early])
    return Finding(beyond(more), (more, *(subject.estimate(f"centre of {edge}", at) for edge, at in centres.items())), "", (path,))


def mostly_late(subject: Subject, component: str, window: int = 1, part: str = "") -> Finding:
    """Whether the last third of the layers has most of the probability that is restored under noise."""
    values, path = _restored_under_noise(subject, component, window, part)
    compared = compare(values.expand_dims(corruption=[NOISE]), subject.folder.options).isel(corruption=0)
    share = with_bounds("last third's share", compared.sel(third="late"), "share")
    if not np.isfinite(share.value):
        raise Undecidable("no effect at all")
    even = float((compared["third_of_layer"] == "late").mean())
    return Finding(beyond(share, MOST), (share,), f"it has {even:.0%} of the layers", (path,))


def late_at_every_role(subject: Subject, component: str) -> Finding:
    """Whether at every token role a late layer has more effect under noise than an early one."""
    values, path = _restored_under_noise(subject, component)
    options, means, p = subject.folder.options, {}, {}
    for role in map(str, values["role"].values):
        less = -pairwise(size_by_third(values.sel(role=[role]).values))[:, [1]]  # late less early
        tested = paired(less, options.resamples, options.confidence, stream(options.seed, "palit", subject.dataset, role))
        if np.isfinite(tested["p"][0]):
            means[role] = Estimate(role, *(float(tested[name][0]) for name in ("mean", "low", "high")))
            p[role] = tested["p"][0]
    significant = [role for role, adjusted in zip(p, holm(list(p.values())), strict=True) if adjusted <= ALPHA]
    more = sum(means[role].value > 0 for role in significant)
    less_ = sum(means[role].value < 0 for role in significant)
    result = FAILS if less_ else HOLDS if means and more == len(means) else UNDECIDED
    note = f"late less early third, probability a layer; more in {more}, less in {less_} of {len(means)} roles"
    return Finding(result, tuple(sorted(means.values(), key=lambda mean: mean.value)), note, (path,))


def _restored_under_noise(subject: Subject, component: str, window: int = 1, part: str = "") -> tuple[xr.DataArray, Path]:
    """The restored probability [sample, layer, role] under noise, and the file."""
    effects, path = subject.effects(Patching(NOISE), component, window=window, part=part)
    values = by_role(effects, "restoration_probability")
    enough_layers(values.sizes["layer"])
    return values, path


def confined_by_noise(subject: Subject, component: str) -> Finding:
    """Whether noise's effect is confined to the last third of the layers, and SIP's and STR's is not (see `compare_corruptions`)."""
    read = {corruption: subject.effects(Patching(corruption), component) for corruption in (*SEMANTIC, NOISE)}
    values = [by_role(effects, "logit_difference") for effects, _ in read.values()]
    enough_layers(min(of_corruption.sizes["layer"] for of_corruption in values))
    compared = compare(xr.concat(values, xr.Variable("corruption", list(read)), join="outer"), subject.folder.options)
    late = compared.sel(third="late")
    shares = tuple(with_bounds(f"last third's share, {name}", late.sel(corruption=name), "share") for name in (NOISE, *SEMANTIC))
    result = claim(compared, NOISE, list(SEMANTIC), MOST)
    return Finding(result, shares, "", tuple(path for _, path in read.values()))


def with_bounds(title: str, compared: xr.Dataset, name: str) -> Estimate:
    """A variable of one cell of `compare` with its interval."""
    return Estimate(title, *(float(compared[f"{name}{bound}"]) for bound in ("", "_low", "_high")))
