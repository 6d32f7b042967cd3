"""Judges of where the largest effect is: the largest of some cells against the largest of others, chosen and measured in halves."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from analysis.claims.halves import at_largest, both_signs, halves, largest_less
from analysis.claims.layers import CONSTRAINT, MOST, drops, restored
from analysis.claims.outcome import Finding, Undecidable, beyond, every
from analysis.claims.subject import SIP, Subject, by_role, enough_layers
from analysis.products import ATTENTION
from analysis.stats.thirds import thirds

FEW = 0.1  # of the patches


@dataclass(frozen=True)
class Cells:
    """Groups of cells whose largest means are compared.

    Attributes
    ----------
    pairs : by the title of the estimate, two groups [sample, cell] of the same samples: the largest of the first less that of the second
    alone : by the title of the estimate, groups whose largest mean is shown beside
    names : of the random numbers
    """

    pairs: dict[str, tuple[np.ndarray, np.ndarray]]
    alone: dict[str, np.ndarray]
    names: tuple[str, ...]
    files: tuple[Path, ...]
    note: str = ""


def largest(subject: Subject, cells: Callable[[Subject], Cells]) -> Finding:
    """Whether in each pair the largest mean of the first group is larger than that of the second (see `largest_less`)."""
    of = cells(subject)
    more = [largest_less(subject, title, one, other, *of.names) for title, (one, other) in of.pairs.items()]
    alone = [largest_less(subject, title, group, None, *of.names) for title, group in of.alone.items()]
    return Finding(every(map(beyond, more)), (*more, *alone), of.note, of.files)


def heads_at_tokens(subject: Subject, token: str, other: str) -> Cells:
    """The LD effects of heads at two tokens."""
    values, path = subject.heads(SIP, token, other)
    one, two = (at_token.values.reshape(at_token.sizes["sample"], -1) for at_token in values)
    title = f"largest mean LD, {token} less {other}"
    return Cells({title: (one, two)}, {f"at {token!r}": one, f"at {other!r}": two}, (f"{token} token", subject.dataset), (path,))


def main_token_and_others(subject: Subject, component: str) -> Cells:
    """The LD effects of a module, with either sign, at the token where NOTICE patches heads, and at all others."""
    effects, path = subject.effects(SIP, component)
    main = str(effects.attrs["main_token"])
    values = by_role(effects, "logit_difference")
    roles = values["role"].values
    if main not in roles or len(roles) < 2:
        raise Undecidable(f"no token has the role {main!r}, or none has another")
    size = np.nan_to_num(abs(values.mean("sample")).transpose("layer", "role").values).max(axis=0)
    at_main, at_others = (
        both_signs(values.isel(role=which).transpose("sample", ...).values.reshape(values.sizes["sample"], -1))
        for which in (roles == main, roles != main)
    )
    title, note = f"largest |mean LD|, {main!r} less other tokens", f"the peak is at {str(roles[size.argmax()])!r}"
    return Cells({title: (at_main, at_others)}, {f"at {main!r}": at_main}, ("peak", component, subject.dataset), (path,), note)


def window_and_layers(subject: Subject, window: int) -> Cells:
    """The probability that MLPs restore at the constraint's tokens, in a window of layers and each layer alone."""
    one, file = restored(subject, "mlp", 1)
    several, other_file = restored(subject, "mlp", window)
    both = xr.concat([one, several], xr.Variable("window", [1, window]), join="inner").transpose("sample", "window", "layer")
    alone, together = both.values[:, 0], both.values[:, 1]
    return Cells(
        {f"largest mean probability restored, window of {window} less single layer": (together, alone)},
        {"single layer": alone, f"window of {window}": together},
        ("basu", "window", subject.dataset),
        (file, other_file),
        f"{both.sizes['sample']} samples",
    )


def edges_and_one(subject: Subject, edge: str, others: tuple[str, ...]) -> Cells:
    """The relative drops of P(answer), in any layer, at other edges and at one."""
    values, path = drops(subject, edge, *others)
    pairs = {f"largest drop, {other} less {edge}": (values[:, at], values[:, 0]) for at, other in enumerate(others, start=1)}
    names = ("largest drop", subject.dataset)
    return Cells(pairs, {f"largest drop, {edge}": values[:, 0]}, names, (path,), "relative drop of P(answer)")


def window_more_than_sum(subject: Subject, window: int) -> Finding:
    """Whether MLPs of a window of layers restored together do more, at their best, than the sum of what each does alone (see
    `at_largest`)."""
    (single, file), (together, other_file) = (subject.effects(SIP, "mlp", window=size) for size in (1, window))
    values = [by_role(effects, "logit_difference") for effects in (single, together)]
    layers = values[0].sizes["layer"]
    enough_layers(layers)
    both = xr.concat(values, xr.Variable("window", [1, window]), join="inner").transpose("window", "sample", "layer", "role").values
    first, reach = layers - window + 1, window // 2
    summed = sum(both[0][:, start : start + first] for start in range(window)).reshape(both.shape[1], -1)
    windowed = both[1][:, reach : reach + first].reshape(both.shape[1], -1)  # windows that are not cut off at the ends
    titles = ("best window less the sum of its layers", "best window")
    more, best = at_largest(subject, titles, windowed, windowed - summed, "windows", subject.dataset)
    return Finding(beyond(more), (more, best), "logits", (file, other_file))


def few_patches(subject: Subject) -> Finding:
    """Whether a tenth of the image's patches, chosen on half of the samples, gets most of the attention in the others."""
    attention, path = subject.first_file("attention.nc", ATTENTION, ("attention",), query=CONSTRAINT)
    enough_layers(attention.sizes["layer"])
    early = np.flatnonzero(thirds(attention.sizes["layer"]) == 0)
    maps = attention["attention"].isel(layer=early).mean(("layer", "head")).transpose("sample", "patch").values.astype("float64")
    total = maps.sum(axis=1, keepdims=True)
    maps = maps[total[:, 0] > 0] / total[total[:, 0] > 0]
    samples, patches = maps.shape
    few = max(1, round(FEW * patches))
    if samples < 4 or patches < 10:
        raise Undecidable(f"{samples} samples with attention to {patches} patches do not tell")
    shares = np.empty(samples)
    split = halves(subject, samples, "patches", subject.dataset)
    for choosing, held_out in (split, split[::-1]):
        chosen = np.argsort(-maps[choosing].mean(axis=0), kind="stable")[:few]
        shares[held_out] = maps[held_out][:, chosen].sum(axis=1)
    means = subject.means(shares, "patches", subject.dataset)
    share = subject.estimate(f"share of the attention on {few} of {patches} patches", means)
    note = f"early third of the layers, from {attention.attrs.get('query', 'the query token')!r}"
    return Finding(beyond(share, MOST), (share,), note, (path,))
