"""Basu et al., MultimodalCausalTrace: early layers hold what the visual constraint needs; a small set of visual tokens passes it on."""

from functools import partial

import numpy as np
import xarray as xr

from analysis.claims.claim import DECODER, LLAVA, Claim, Finding, Undecidable, beyond, every
from analysis.claims.largest import HOW_LESS, halves, largest_less
from analysis.claims.place import Place, by_role, enough_layers
from analysis.stats.thirds import thirds

CONSTRAINT = "noun"  # the role of the words that the corruption `constraint` replaces
WINDOW = 3
FEW = 0.1
HALF = 0.5
DATA = ("vqa_constraints",)


def restored(place: Place, component: str, window: int) -> tuple[xr.DataArray, tuple]:
    """P_restored(O) - P_corrupted(O) at the constraint's tokens [sample, layer], and the file."""
    effects, path = place.effects("constraint", component, window=window)
    values = by_role(effects, "restoration_probability")
    if CONSTRAINT not in values["role"].values:
        raise Undecidable(f"no token has the role {CONSTRAINT!r}")
    return values.sel(role=CONSTRAINT).dropna("sample", how="all").transpose("sample", "layer"), (path,)


def early(place: Place, component: str) -> Finding:
    """Whether an early layer restores more than one of the middle or the late third."""
    values, files = restored(place, component, WINDOW)
    enough_layers(values.sizes["layer"])
    means = place.means(values.values, "basu", component, place.dataset)
    third = thirds(values.sizes["layer"])
    first, *others = (np.nanmean(means[:, third == number], axis=1) for number in range(3))
    less = dict(zip(("middle", "late"), others, strict=True))
    found = tuple(place.estimate(f"probability restored a layer, early less {name}", first - other) for name, other in less.items())
    return Finding(every(map(beyond, found)), found, f"{values.sizes['sample']} samples", files)


def needs_a_window(place: Place) -> Finding:
    """Whether three layers together restore more at their best than one layer at its best (see `largest_less`)."""
    one, file = restored(place, "mlp", 1)
    three, more = restored(place, "mlp", WINDOW)
    both = xr.concat([one, three], xr.Variable("window", [1, WINDOW]), join="inner").transpose("sample", "window", "layer")
    single, window = both.values[:, 0], both.values[:, 1]
    names = ("basu", "window", place.dataset)
    gain = largest_less(place, "largest mean probability restored, window of 3 less single layer", window, single, *names)
    each = (largest_less(place, name, of, None, *names) for name, of in (("single layer", single), ("window of 3", window)))
    return Finding(beyond(gain), (gain, *each), f"{both.sizes['sample']} samples", (*file, *more))


def few_visual_tokens(place: Place) -> Finding:
    """Whether a tenth of the image's patches, chosen on half of the samples, gets more than half of the attention in the others."""
    attention, path = place.file("attention.nc", "attention_patterns", ("attention",), f"--query {CONSTRAINT}")
    enough_layers(attention.sizes["layer"])
    early_layers = np.flatnonzero(thirds(attention.sizes["layer"]) == 0)
    maps = attention["attention"].isel(layer=early_layers).mean(("layer", "head")).transpose("sample", "patch").values.astype("float64")
    total = maps.sum(axis=1, keepdims=True)
    maps = maps[total[:, 0] > 0] / total[total[:, 0] > 0]
    few = max(1, round(FEW * maps.shape[1]))
    if len(maps) < 4 or maps.shape[1] < 10:
        raise Undecidable(f"{len(maps)} samples with attention to {maps.shape[1]} patches do not tell")
    shares = np.empty(len(maps))
    first, second = halves(place, len(maps), "patches", place.dataset)
    for chosen_on, measured in ((first, second), (second, first)):
        chosen = np.argsort(-maps[chosen_on].mean(axis=0), kind="stable")[:few]
        shares[measured] = maps[measured][:, chosen].sum(axis=1)
    share = place.estimate(f"share of the attention on {few} of {maps.shape[1]} patches", place.means(shares, "patches", place.dataset))
    note = f"early third of the layers, from {attention.attrs.get('query', 'the query token')!r}"
    return Finding(beyond(share, HALF), (share,), note, (path,))


def _early(component: str, name: str) -> Claim:
    return Claim(
        id=f"basu-early-{component}",
        paper="Basu et al.",
        source="abstract; MultimodalCausalTrace of LLaVA",
        says=f"{name} of early layers hold what the visual constraint needs",
        test="mean restored probability of a layer at the constraint's tokens (window of 3), early less middle and early less late third, "
        "paired over samples: holds when both intervals lie above 0, does not hold when one lies below",
        kind=DECODER,
        models=LLAVA,
        data=DATA,
        judge=partial(early, component=component),
        each_dataset=True,
    )


CLAIMS = [
    _early("mlp", "MLPs"),
    _early("self_attention", "self-attention blocks"),
    Claim(
        id="basu-window",
        paper="Basu et al.",
        source="MultimodalCausalTrace of LLaVA: size of the window",
        says="effects appear when 3 layers are restored together",
        test="largest mean restored probability over layers (MLP, the constraint's tokens), window of 3 less single layer, paired over "
        f"samples; {HOW_LESS}: holds when above 0, does not hold when below",
        kind=DECODER,
        models=LLAVA,
        data=DATA,
        judge=needs_a_window,
        each_dataset=True,
    ),
    Claim(
        id="basu-visual-tokens",
        paper="Basu et al.",
        source="abstract",
        says="a consistent small subset of the visual tokens passes the image's information on",
        test="share of the attention to the image, in the early third of the layers, on the tenth of the patches that has most of it "
        "in the other half of the samples: holds when its interval lies above 0.5, does not hold when below. Attention, not the paper's "
        "attention contributions, and from the query token of attention.nc",
        kind=DECODER,
        models=LLAVA,
        data=DATA,
        judge=few_visual_tokens,
        each_dataset=True,
    ),
]
