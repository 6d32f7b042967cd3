"""Palit et al., causal tracing for BLIP: under Gaussian noise, only the last layers matter, for all tokens, in both text models."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from analysis.claims.claim import BLIP, ENCODER, FAILS, HOLDS, UNDECIDED, Claim, Estimate, Finding, Undecidable, beyond
from analysis.claims.place import Place, by_role, enough_layers
from analysis.corruptions.statistics import NOISE, compare
from analysis.stats.multiple_tests import holm
from analysis.stats.resampling import paired, stream
from analysis.stats.thirds import pairwise, size_by_third

HALF = 0.5
ALPHA = 0.05
WINDOW = 3
DATA = ("coco_qa", "clevr")


def effects_by_role(place: Place, component: str, window: int = 1, part: str = "") -> tuple[xr.DataArray, Path]:
    """The restored probability [sample, layer, role] under noise, and the file."""
    effects, path = place.effects(NOISE, component, window=window, part=part)
    values = by_role(effects, "restoration_probability")
    enough_layers(values.sizes["layer"])
    return values, path


def late(place: Place, component: str, window: int = 1, part: str = "") -> Finding:
    """Whether the last third of the layers has more than half of the effect."""
    values, path = effects_by_role(place, component, window, part)
    compared = compare(values.expand_dims(corruption=[NOISE]), place.folder.resampling.comparing).isel(corruption=0)
    of_late = compared.sel(third="late")
    share = Estimate("last third's share", *(float(of_late[f"share{bound}"]) for bound in ("", "_low", "_high")))
    if not np.isfinite(share.value):
        raise Undecidable("no effect at all")
    even = float((compared["third_of_layer"] == "late").mean())
    return Finding(beyond(share, HALF), (share,), f"it has {even:.0%} of the layers", (path,))


def late_for_all_tokens(place: Place) -> Finding:
    """Whether at every token role a late layer has more effect than an early one."""
    values, path = effects_by_role(place, "block")
    resampling, means, p = place.folder.resampling, {}, {}
    for role in values["role"].values:
        less = -pairwise(size_by_third(values.sel(role=[role]).values))[:, [1]]  # late less early
        found = paired(less, resampling.resamples, resampling.confidence, stream(resampling.seed, "palit", place.dataset, str(role)))
        if np.isfinite(found["p"][0]):
            means[str(role)] = Estimate(f"{role}", *(float(found[name][0]) for name in ("mean", "low", "high")))
            p[str(role)] = found["p"][0]
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    more = [role for role, of_role in means.items() if of_role.value > 0 and adjusted[role] <= ALPHA]
    less_ = [role for role, of_role in means.items() if of_role.value < 0 and adjusted[role] <= ALPHA]
    result = FAILS if less_ else HOLDS if means and len(more) == len(means) else UNDECIDED
    note = f"late less early third, probability a layer; more in {len(more)}, less in {len(less_)} of {len(means)} roles"
    return Finding(result, tuple(sorted(means.values(), key=lambda of_role: of_role.value)), note, (path,))


def _late(name: str, says: str, **options: Any) -> Claim:
    return Claim(
        id=f"palit-late-{name}",
        paper="Palit et al.",
        source="causal tracing for BLIP: states restored under Gaussian noise",
        says=says,
        test="share of the sum of mean |restored probability| that the last third of the layers has under gaussian_noise: holds when its "
        "interval lies above 0.5, does not hold when below",
        kind=ENCODER,
        models=BLIP,
        data=DATA,
        judge=partial(late, **options),
        each_dataset=True,
    )


CLAIMS = [
    _late("states", "only the last layers' states of the question encoder matter", component="block"),
    _late("self-attention", "only the last layers' self-attention (window of 3) matters", component="self_attention", window=WINDOW),
    _late("cross-attention", "only the last layers' cross-attention (window of 3) matters", component="cross_attention", window=WINDOW),
    _late("decoder", "only the last layers' states of the answer decoder matter", component="block", part="decoder"),
    Claim(
        id="palit-all-tokens",
        paper="Palit et al.",
        source="abstract",
        says="later layers' states matter for all tokens",
        test="at each token role, mean |restored probability| of a layer under gaussian_noise, late less early third, paired over samples "
        "(sign flips, Holm over roles, 0.05): holds when more at every role, does not hold when less at one",
        kind=ENCODER,
        models=BLIP,
        data=DATA,
        judge=late_for_all_tokens,
        each_dataset=True,
    ),
]
